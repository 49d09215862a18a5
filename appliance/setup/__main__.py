"""``python3 appliance/setup``: make ``.venv`` of this checkout complete. Other verbs: ``lock``, ``lock --check``,
``portable``, ``clean``."""

import argparse
import os
import signal
import sys
from pathlib import Path
from types import FrameType

_HERE = Path(__file__).resolve().parent
_MINIMUM = (3, 11)

# Before the first annotation: an older Python could not even define the functions below.
if sys.version_info[:2] < _MINIMUM:
    sys.exit(
        "Plugsky needs Python 3.11 or newer; "
        + "{} is {}.\n".format(sys.executable, ".".join(map(str, sys.version_info[:3])))
        + "  next: install one, then name it: make setup PYTHON=python3.11"
    )


def main(arguments: list[str]) -> int:
    """Run one verb; returns the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    # Run as a folder, this one stands first on the path, where our modules would hide others of the same name.
    sys.path[0] = str(_HERE.parent)
    from setup.errors import SetupError

    try:
        return _run(_parse(arguments))
    except SetupError as error:
        sys.stderr.write(f"{error.detail}\n\n" if error.detail else "\n")
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Nothing is lost: run the same command again and it goes on from here.\n")
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 appliance/setup", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", metavar="verb")
    lock = verbs.add_parser("lock", help="compile bundles/locks from pyproject.toml (needs uv)")
    lock.add_argument("--check", action="store_true", help="change nothing; fail if a lock is out of date")
    verbs.add_parser("portable", help="compile the wheel that uses the best kernels of any x86-64 host")
    clean = verbs.add_parser("clean", help="remove what the checks and the compile left")
    clean.add_argument("--everything", action="store_true", help="also .venv, .cache and .demo")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    from setup import flow, locks
    from setup.progress import Reporter

    root = _HERE.parent.parent
    reporter = Reporter(sys.stderr, live=sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    if options.verb == "lock" and options.check:
        stale = locks.drift(root)
        for name in stale:
            reporter.note(
                f"bundles/locks/{name} no longer follows from its source: run `make lock` and commit the result."
            )
        return 1 if stale else 0
    if options.verb == "lock":
        locks.refresh(root, root / "bundles/locks")
    elif options.verb == "portable":
        flow.make_portable(root, os.environ, reporter)
    elif options.verb == "clean":
        for name in flow.clean(root, everything=options.everything):
            reporter.note(f"removed {name}")
    else:
        flow.set_up(root, os.environ, reporter)
    return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
