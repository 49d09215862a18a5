"""What every fuzz target shares: seeds on disk, and the one rule of what a reader may raise.

A target module imports the readers under `instrumented()`, so that libFuzzer sees their branches, and calls `run`. A
reader may refuse an input with a named error that a command line would end with 5 for; anything else that escapes is a
crash, and so is an input that takes longer, or a process that holds more, than the flags of `campaign` allow.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import atheris


def instrumented() -> AbstractContextManager[object]:
    """Imports of the trust kernel inside this report which branches they take."""
    return atheris.instrument_imports(include=["plugsky_bundles"])


def run(one_input: Callable[[bytes], None], refusals: tuple[type[Exception], ...], seeds: Iterable[bytes]) -> None:
    """Fuzz with libFuzzer's arguments from the command line; the last of them is the folder of the corpus."""
    corpus = Path(sys.argv[-1])
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha256(seed).hexdigest()).write_bytes(seed)

    def guarded(data: bytes) -> None:
        with contextlib.suppress(*refusals):
            one_input(data)

    atheris.Setup(sys.argv, guarded)
    atheris.Fuzz()
