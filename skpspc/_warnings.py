"""Warnings that point at a line of the user's code."""

import sys
import warnings

# Packages that wrap or call methods of this package: a warning points at none of their lines.
_CALLERS = {__package__, "sklearn", "joblib", "torch"}


def warn(message):
    """Issue a `UserWarning` at the innermost line outside this package and its callers.

    Parameters
    ----------
    message : str
    """
    frame, stacklevel = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _CALLERS:
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn(message, UserWarning, stacklevel=stacklevel)
