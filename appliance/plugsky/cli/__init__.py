"""The command line: one module per noun, and the only place of the appliance that prints or exits.

This package is also the composition root: it alone may import every room, and it builds each process of a site from
them. Modules of nouns are imported only when their noun is typed, so that ``plugsky --help`` stays quick.
"""

import sys
from typing import NoReturn

from plugsky.core.errors import ExitCode


def main() -> NoReturn:
    """Run the command line and exit with a documented code, also when Ctrl-C comes before anything is imported."""
    try:
        from plugsky.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)
