"""Save fitted denoisers to files without pickle, and load them."""

from .denoisers import load

__all__ = ["load"]
