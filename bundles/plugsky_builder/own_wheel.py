"""The appliance's own wheel: built from the checkout, the same bytes each time for the same tree.

Hatchling orders the files and fixes their modes; SOURCE_DATE_EPOCH is fixed here, for this one build only, because a
build of ggml would switch its SIMD code off when it sees it. An installed Plugsky has no checkout to build from; then
the wheel is looked up in the wheelhouse.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Final

from plugsky.core import env
from plugsky.core.paths import checkout
from plugsky_bundles.errors import NotFound, SourceError

EPOCH: Final = "1577836800"


def build(into: Path, wheelhouse: Path) -> Path:
    """The wheel's path: freshly built below `into`, or the one in `wheelhouse`. Raises SourceError or NotFound."""
    tree = checkout()
    if tree is None:
        return _ready(wheelhouse)
    if importlib.util.find_spec("hatchling") is None:
        raise SourceError("The appliance's wheel cannot be built", "hatchling is not installed", "Run `make setup`")
    for old in into.glob("*.whl"):
        old.unlink()
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    environment = env.for_child() | {"SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        why = " / ".join(done.stderr.strip().splitlines()[-2:])
        raise SourceError("The appliance's wheel cannot be built", why, f"See `python -m hatchling build` in {tree}")
    return wheels[0]


def _ready(wheelhouse: Path) -> Path:
    version = importlib.metadata.version("plugsky")
    wheel = wheelhouse / f"plugsky-{version}-py3-none-any.whl"
    if not wheel.is_file():
        raise NotFound(
            f"{wheel.name} is not in {wheelhouse}",
            "this Plugsky does not run from a source tree that the wheel could be built from",
            "Put the wheel there, or build from a checkout",
        )
    return wheel
