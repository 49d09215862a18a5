"""The command line: one module per noun, and the only place of the appliance that prints or exits.

This package is also the composition root: it alone may import every room, and it builds each process of a site from
them. Modules of nouns are imported only when their noun is typed, so that ``plugsky --help`` stays quick.
"""

import sys


def main() -> None:
    """Run the command line and exit with a documented code, also when Ctrl-C comes before anything is imported."""
    try:
        from plugsky.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("error: Interrupted.\n")
        code = 130  # ExitCode.INTERRUPTED, which may not have been imported yet
    sys.exit(code)
