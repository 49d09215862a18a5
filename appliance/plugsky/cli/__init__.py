"""The command line: one module per noun, and the only place of the appliance that prints or exits.

This package is also the composition root: it alone may import every room, and it builds each process of a site from
them. Modules of nouns are imported only when their noun is typed, so that ``plugsky --help`` stays quick.
"""

from plugsky.cli.app import main

__all__ = ["main"]
