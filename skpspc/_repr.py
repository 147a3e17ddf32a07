"""Short reprs: shapes and dtypes instead of values, class names instead of addresses."""

from dataclasses import fields, is_dataclass

import numpy as np
import torch
from sklearn.utils import Bunch

_SHORT = 8  # entries of a list that a repr shows
_TEXT = 60  # characters of a text that a repr shows


def dtype_name(dtype):
    """Return the name of a dtype of NumPy or torch, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def described(value):
    """Return a short text for one value.

    An array or tensor becomes its dtype and shape; a long list or text becomes its beginning and
    its length; an object with the default repr becomes the name of its class.
    """
    if isinstance(value, (np.ndarray, torch.Tensor)):
        return f"<{dtype_name(value.dtype)} array of shape {tuple(value.shape)}>"
    if isinstance(value, (list, tuple)):
        start, end = "[]" if isinstance(value, list) else "()"
        entries = [described(entry) for entry in value[:_SHORT]]
        if len(value) > _SHORT:
            entries.append(f"... {len(value)} in all")
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{start}{', '.join(entries)}{comma}{end}"
    if isinstance(value, str) and len(value) > _TEXT:
        return f"{value[:_TEXT]!r}... ({len(value)} characters)"
    if isinstance(value, float):
        return f"{value:.6g}"
    if type(value).__repr__ is object.__repr__:
        return f"<{type(value).__name__}>"
    return repr(value)


def numbers(values):
    """Return the repr of a sequence of numbers; a long sequence becomes its ends and its length."""
    values = [value.item() if isinstance(value, np.generic) else value for value in values]
    if len(values) <= 2 * _SHORT:
        return repr(values)
    first, second, last = map(repr, (values[0], values[1], values[-1]))
    return f"[{first}, {second}, ..., {last}] ({len(values)} in all)"


def three_digits(value):
    """Return a number with three significant digits, "0.0870", for the columns of tables."""
    return f"{value:#.3g}".rstrip(".") if value else "0"


def number(value):
    """Return a number with three significant digits, "0.087" or "1,234", for text and labels.

    From 100 on the result has thousands separators and no exponent.
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def extent(values):
    """Return the range of an array's values, such as "1 to 3.2", or one number if all are equal."""
    values = torch.as_tensor(values).detach()
    if not values.numel():
        return "none"
    low, high = (number(float(value)) for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


def short_repr(instance):
    """Return ``Name(attribute=..., ...)`` with every public attribute described.

    Fitted attributes, whose names end in an underscore, are left out.
    """
    if is_dataclass(instance):
        names = [field.name for field in fields(instance)]
    elif hasattr(instance, "_fields"):
        names = instance._fields
    else:
        names = [n for n in vars(instance) if not n.startswith("_") and not n.endswith("_")]
    return listed(type(instance).__name__, {name: getattr(instance, name) for name in names})


def listed(name, about):
    """Return ``name(key=..., ...)`` for a dict of values."""
    return f"{name}({', '.join(f'{key}={described(value)}' for key, value in about.items())})"


class ShortBunch(Bunch):
    """A Bunch with a short repr: shapes and dtypes of its arrays."""

    def __repr__(self):
        return listed(Bunch.__name__, self)
