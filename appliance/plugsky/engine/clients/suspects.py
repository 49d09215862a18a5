"""Which request killed the engine: what is sent to it again after a crash, in which order, and who is to blame.

A request is *held* (not sent yet), *sent*, or a *suspect*: it was with the engine when that crashed. Suspects are sent
one at a time, the newest first. One that brings :data:`PROBATION` further tokens, or ends, has lived through what
killed the engine: it is cleared and goes on while the next is tried. One that is with the engine by itself, with no
cleared neighbour, is *alone*.

Guarantees, in order:

1. No request is lost: each is held, sent or a suspect until it has ended or was told to fail.
2. At most one suspect is with the engine at a time, and nothing that is no suspect is sent before all are cleared.
3. A request is guilty only after :data:`GUILTY` crashes alone; it alone fails then. The crash is explained by it: the
   others are suspects no longer and go on together.
4. A crash with cleared neighbours proves nothing, but points: the suspect that was tried is the next to be tried.
5. It ends: a request that was with the engine when :data:`MAX_LOSSES` connections to it ended fails as lost.
6. A connection that ended while the engine lives, or when it retired, makes nobody a suspect.

A pure state machine: events in, :class:`Orders` out; no clock, no IO.
"""

from dataclasses import dataclass
from typing import Final, Literal

PROBATION: Final = 4
"""Tokens that a suspect must bring to be cleared. The engine crashes at most a step or two behind what it has told."""
GUILTY: Final = 2
MAX_LOSSES: Final = 6

Blame = Literal["guilty", "lost"]


@dataclass(frozen=True)
class Orders:
    """What the edge must do now: send these to the engine, in this order, and let those fail."""

    send: tuple[int, ...] = ()
    fail: tuple[tuple[int, Blame], ...] = ()


@dataclass(slots=True)
class _Record:
    """What is known of one request."""

    losses: int = 0
    alone: int = 0
    tokens: int = 0


class Suspects:
    """The requests of one engine. Numbers are the caller's; a later request has a higher one."""

    def __init__(self) -> None:
        self._records: dict[int, _Record] = {}
        self._held: list[int] = []
        self._sent: set[int] = set()
        self._suspects: list[int] = []
        self._tried: int | None = None
        self._connected = True

    @property
    def sent(self) -> frozenset[int]:
        """The requests that are with the engine."""
        return frozenset(self._sent)

    @property
    def waiting(self) -> int:
        """How many requests are not with the engine."""
        return len(self._held) + len(self._suspects)

    @property
    def tried(self) -> int | None:
        """The suspect that is with the engine."""
        return self._tried

    @property
    def suspicious(self) -> bool:
        """Whether a crash is unexplained: what comes now has to wait."""
        return self._tried is not None or bool(self._suspects)

    def begin(self, request: int) -> Orders:
        """A new request."""
        self._records[request] = _Record()
        self._held.append(request)
        return self._orders()

    def progressed(self, request: int, tokens: int) -> Orders:
        """A request brought so many tokens."""
        record = self._records[request]
        record.tokens += tokens
        if request == self._tried and record.tokens >= PROBATION:
            self._tried = None
        return self._orders()

    def ended(self, request: int) -> Orders:
        """A request has its final, has failed by itself, or is wanted no longer. One that is unknown is ignored."""
        if self._records.pop(request, None) is None:
            return Orders()
        self._sent.discard(request)
        self._held = [other for other in self._held if other != request]
        self._suspects = [other for other in self._suspects if other != request]
        if request == self._tried:
            self._tried = None
        return self._orders()

    def turned_away(self, request: int) -> None:
        """The engine retires and did not take a request that was sent to it: it is held for the next."""
        self._sent.discard(request)
        if request == self._tried:
            self._tried, self._suspects = None, [request, *self._suspects]
        else:
            self._held = sorted([*self._held, request])

    def disconnected(self) -> None:
        """Nothing more can be sent; what was sent may still end, or waits for :meth:`reconnected`, which knows why."""
        self._connected = False

    def reconnected(self, *, crashed: bool) -> Orders:
        """There is a connection again. ``crashed``: to another process than before, which did not end by itself."""
        sent, self._sent = sorted(self._sent), set()
        tried, self._tried = self._tried, None
        self._connected = True
        alone = self._records[sent[0]] if crashed and len(sent) == 1 else None
        if alone is not None:
            alone.alone += 1
            if alone.alone >= GUILTY:
                return self._convict(sent[0])
        fail: list[tuple[int, Blame]] = []
        for request in list(sent):
            record = self._records[request]
            record.losses, record.tokens = record.losses + 1, 0
            if record.losses >= MAX_LOSSES:
                fail.append((request, "lost"))
                sent.remove(request)
                del self._records[request]
        pointed = [tried] if tried is not None and tried in sent else []
        others = [request for request in sent if request != tried]
        if crashed:
            self._suspects = [*pointed, *reversed(others), *self._suspects]
        else:
            self._suspects = pointed + self._suspects
            self._held = sorted(others + self._held)
        return self._orders(tuple(fail))

    def _convict(self, request: int) -> Orders:
        """One is guilty; nobody else is suspected any more."""
        del self._records[request]
        self._held, self._suspects = sorted(self._suspects + self._held), []
        return self._orders(((request, "guilty"),))

    def _orders(self, fail: tuple[tuple[int, Blame], ...] = ()) -> Orders:
        if not self._connected:
            return Orders(fail=fail)
        send: list[int] = []
        if self._suspects and self._tried is None:
            self._tried = self._suspects.pop(0)
            send = [self._tried]
        elif not self.suspicious:
            send, self._held = self._held, []
        self._sent.update(send)
        return Orders(tuple(send), fail)
