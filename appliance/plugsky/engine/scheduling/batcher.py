"""Which texts the next batch of an embedding or reranking engine holds. Pure and deterministic.

A text is computed whole or not at all, so there is nothing to pause. Guarantees, each held by a test:

1. A batch holds at most ``tokens`` tokens of at most ``texts`` texts, and is empty only when nobody waits.
2. Classes come first in their order (interactive, standard, batch); waiting :data:`AGE_US` lifts a text by one class.
3. Within a class the tenant that had the least compute time for its weight is next, and its texts in their order. Time
   is charged as measured: an estimate when a text is chosen, the difference when its batch is done. Who was idle banks
   nothing, and who left keeps its debt while others wait.
4. A text that does not fit is waited for, not overtaken, so a long text is never starved.
5. The queue is bounded in texts and in tokens: :class:`QueueFullError`.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plugsky.core.frames import ServiceClass

AGE_US: Final = 5_000_000
_RANK: Final[dict[ServiceClass, int]] = {"interactive": 0, "standard": 1, "batch": 2}


class QueueFullError(Exception):
    """No more texts may wait."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one batch and the queue may hold."""

    tokens: int
    texts: int
    queued_texts: int = 4096
    queued_tokens: int = 4 << 20


@dataclass(frozen=True, slots=True)
class Text:
    """One text to compute. Tickets rise in order of arrival; ``since_us`` is when it came."""

    ticket: int
    tenant: str
    tokens: Sequence[int]
    since_us: int
    service_class: ServiceClass = "standard"
    weight: int = 1


class Batcher:
    """The texts that wait, by tenant and class."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._waiting: dict[tuple[str, ServiceClass], deque[Text]] = {}
        self._texts: dict[int, Text] = {}
        self._tokens = 0
        self._spent: dict[str, float] = {}
        self._us_per_token = 0.0

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: Text) -> None:
        """Queue ``text``. Raises :class:`QueueFullError`."""
        bounds = self.bounds
        if len(self._texts) >= bounds.queued_texts or self._tokens + len(text.tokens) > bounds.queued_tokens:
            raise QueueFullError
        if text.tenant not in self._active():
            self._spent[text.tenant] = max(self._spent.get(text.tenant, 0.0), self._floor())
        self._waiting.setdefault((text.tenant, text.service_class), deque()).append(text)
        self._texts[text.ticket] = text
        self._tokens += len(text.tokens)

    def remove(self, ticket: int) -> None:
        """Forget a text that waits; any other ticket is ignored."""
        text = self._texts.get(ticket)
        if text is not None:
            self._leave(text)

    def plan(self, now_us: int) -> list[Text]:
        """Take the next batch out of the queue. Follow it with :meth:`done`."""
        batch: list[Text] = []
        room = self.bounds.tokens
        while self._texts and len(batch) < self.bounds.texts:
            text = min((queue[0] for queue in self._waiting.values()), key=lambda head: self._order(head, now_us))
            if len(text.tokens) > room:
                break
            room -= len(text.tokens)
            batch.append(text)
            self._leave(text)
            self._charge(text, self._us_per_token * len(text.tokens))
        self._forget_idle()
        return batch

    def done(self, batch: Sequence[Text], t_us: int) -> None:
        """``batch`` took ``t_us`` microseconds."""
        total = sum(len(text.tokens) for text in batch)
        if not total:
            return
        measured = t_us / total
        for text in batch:
            self._charge(text, (measured - self._us_per_token) * len(text.tokens))
        self._us_per_token = measured

    def _order(self, text: Text, now_us: int) -> tuple[int, float, int]:
        lifted = max(0, now_us - text.since_us) // AGE_US
        return (max(0, _RANK[text.service_class] - lifted), self._spent.get(text.tenant, 0.0), text.ticket)

    def _charge(self, text: Text, us: float) -> None:
        if text.tenant in self._spent:
            self._spent[text.tenant] += us / text.weight

    def _leave(self, text: Text) -> None:
        key = (text.tenant, text.service_class)
        queue = self._waiting[key]
        queue.remove(text)
        if not queue:
            del self._waiting[key]
        del self._texts[text.ticket]
        self._tokens -= len(text.tokens)

    def _active(self) -> set[str]:
        return {tenant for tenant, _ in self._waiting}

    def _floor(self) -> float:
        return min((self._spent.get(tenant, 0.0) for tenant in self._active()), default=0.0)

    def _forget_idle(self) -> None:
        """Keep nothing of a tenant that neither waits nor owes, so that memory does not grow with their number."""
        active, floor = self._active(), self._floor()
        if not active:
            self._spent.clear()
            return
        for tenant in [name for name, spent in self._spent.items() if name not in active and spent <= floor]:
            del self._spent[tenant]
