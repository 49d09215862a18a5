"""How long work tells its caller where it is, without printing anything.

A library calls a `Progress` with a `ProgressEvent` at least once per stage and about once per 64 MiB; whoever holds
the terminal decides what to show. `done` and `total` are bytes where the stage moves bytes, else items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """`stage` names the arrow ("verify", "copy"), `item` the thing in hand; `total` is 0 when it is not known."""

    stage: str
    done: int
    total: int
    item: str = ""


class Progress(Protocol):
    """Takes an event; must not block for long and must not raise, save to stop the work (KeyboardInterrupt)."""

    def __call__(self, event: ProgressEvent, /) -> None: ...


def silent(_event: ProgressEvent, /) -> None:
    """The progress of someone who is not watching."""
