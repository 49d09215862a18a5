"""``python -m plugsky`` is the ``plugsky`` command."""

from plugsky.cli import main

if __name__ == "__main__":
    main()
