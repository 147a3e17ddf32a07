"""Warnings that point at the line of the user."""

import sys
import warnings

# Packages whose code may stand between the user and a warning: they wrap or call our methods.
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
