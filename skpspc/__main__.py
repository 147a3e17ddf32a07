"""``python -m skpspc``: the same as the command ``skpspc``."""

from .cli import main

if __name__ == "__main__":
    main()
