"""The name that Python's own errors give to the methods of base classes."""

import inspect


def named_denoiser(cls):
    """Class decorator: let Python's errors say ``Denoiser.sample()``, whichever base defines it.

    A mistyped argument raises a TypeError with the qualified name of the function, and users
    know nothing of the classes that denoisers inherit from.
    """
    for name, method in vars(cls).items():
        if inspect.isfunction(method):
            for function in (method, inspect.unwrap(method)):
                function.__qualname__ = f"Denoiser.{name}"
    return cls
