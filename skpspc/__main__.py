"""``python -m skpspc``: the command ``skpspc``."""

from .cli import main

if __name__ == "__main__":
    main()
