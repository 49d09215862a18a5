"""What the owner of a context is told to do, and what it tells: values that pass between threads.

Orders come through an :class:`OrderQueue` and are carried out between two steps, in their order. What came of them
leaves as one :class:`Report` per turn of the owner's loop. Owners are :class:`plugsky.engine.stepping.stepper.Stepper`
and :class:`plugsky.engine.stepping.embedding.Embedder`.
"""

import queue
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, Submit, TokenLogprob
from plugsky.engine.errors import EngineError
from plugsky.engine.prompting.images import Piece

MAX_ORDERS: Final = 4096
"""Orders that may wait for the end of a step; further submits are refused as overloaded."""


@dataclass(frozen=True, slots=True)
class Start:
    """Run a submit under this ticket; tickets rise. With ``pin`` compute its prompt and keep that for all tenants.

    ``images`` are those of its prompt, by where each begins.
    """

    ticket: int
    submit: Submit
    pin: bool = False
    images: Mapping[int, Piece] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel a ticket; one that has ended is ignored."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Unpin:
    """Give back what was pinned under this ticket; any other is ignored."""

    ticket: int


@dataclass(frozen=True, slots=True)
class SetThreads:
    """Use this many cores from the next step on."""

    n: int


@dataclass(frozen=True, slots=True)
class Quit:
    """End the thread now."""


@dataclass(frozen=True, slots=True)
class Work:
    """Do this on the owner's thread between two steps. What it raises ends the thread."""

    run: Callable[[], None]


Order = Start | Stop | Unpin | SetThreads | Work | Quit


@dataclass(slots=True)
class Update:
    """News of one ticket: it is accepted, ``prompt_logprobs``, ``ids`` with their ``text``, a finish, or an error.

    Only a ``finish`` may come with something else: with the last ``ids`` and ``text``.

    ``cached`` goes with ``accepted``: prompt tokens found in the cache, 0 while that is not known; usage knows it.
    """

    ticket: int
    accepted: bool = False
    cached: int = 0
    ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None
    error: EngineError | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class Report:
    """What one turn of the loop did, and how things stand after it.

    ``n`` counts steps; ``t_us`` is the compute time of this one (0: none was run).
    """

    updates: list[Update] = field(default_factory=list)
    n: int = 0
    t_us: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    """Cells that requests and pinned beginnings hold."""
    kv_parked: int = 0
    """Cells that nobody holds but what is kept of ended requests."""
    kv_highest: int = 0
    """One past the highest cell in use: a step reads the cache up to there."""
    kv_saved: int = 0
    """Cells whose content lies in host memory."""
    paused: int = 0
    waiting_by_class: tuple[int, int, int] = (0, 0, 0)
    """Interactive, standard, batch."""


class OrderQueue:
    """Orders that wait to be carried out. Any thread leaves them, the owner's takes them."""

    def __init__(self) -> None:
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()

    def leave(self, order: Order) -> None:
        """Raises ``overloaded`` for a submit when too many orders wait; everything else is always taken."""
        if isinstance(order, Start) and self._orders.qsize() >= MAX_ORDERS:
            raise EngineError(ErrorKind.OVERLOADED, f"{MAX_ORDERS} requests wait for this step to end", retry_after=1.0)
        self._orders.put(order)

    def take(self, *, wait: bool) -> Iterator[Order]:
        """The orders that are there; with ``wait`` at least one, however long that takes."""
        while wait or not self._orders.empty():
            yield self._orders.get()
            wait = False
