"""The process that measures one model: a llama.cpp that crashes here ends nothing else.

    python -m plugsky.engine.serving.measurer FILE MODE THREADS

It gives up the network first, as an engine does. On standard output each line is a JSON object: any number of
``{"percent": n}``, and one at the end: ``{"measured": …}`` as :func:`plugsky.engine.serving.measure` gives it,
``{"does_not_fit": {"need", "have"}}`` in bytes of memory, or ``{"failed": {"what", "why"}}``.
:mod:`plugsky.models.measuring` is the other end of the pipe.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plugsky.core import env
from plugsky.engine import sandbox
from plugsky.engine.errors import DoesNotFitError, EngineError
from plugsky.engine.serving.process import SPINS


def run(file: Path, mode: str, threads: int) -> dict[str, Any]:
    """The last line: what became of it."""
    from plugsky.engine.serving.measure import measure  # not before the network is left: it starts threads

    last = -1

    def told(percent: int) -> None:
        nonlocal last
        if percent > last:
            last = percent
            _tell({"percent": percent})

    try:
        return {"measured": measure(file, mode, threads, told)}
    except DoesNotFitError as error:
        return {"does_not_fit": {"need": error.need, "have": error.have}}
    except EngineError as error:
        return {"failed": {"what": error.what, "why": error.why}}


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> int:
    """Measure what the arguments name. 0 once the last line is written."""
    file, mode, threads = arguments
    sandbox.leave_network()
    env.set_default(env.GOMP_SPINCOUNT, SPINS)
    _tell(run(Path(file), mode, int(threads)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
