"""``python -m skpspc`` runs the command ``skpspc``."""

from .cli import main

if __name__ == "__main__":
    main()
