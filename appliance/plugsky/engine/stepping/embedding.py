"""The owner of a pooling context: it takes orders between batches, computes one after another, and reports.

The counterpart of :class:`plugsky.engine.stepping.stepper.Stepper` for engines of mode ``embed`` and ``rerank``, with
the same orders and reports. A text's news is one ``finish``: an embedding as little-endian 32-bit floats scaled to
length 1 (as llama-server does unless told otherwise), or of a pair the score as the model gives it, unscaled. A batch
that llama.cpp refuses is halved until the guilty text is alone and fails; the others are computed. A batch is never
waited for: whoever is there when one ends makes up the next.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, FinishReason, Submit, Usage
from plugsky.engine.errors import EngineError
from plugsky.engine.llama import native
from plugsky.engine.scheduling.batcher import Batcher, Bounds, QueueFullError, Text
from plugsky.engine.stepping.orders import Order, OrderQueue, Quit, Report, SetThreads, Start, Stop, Update, Work

Vector = npt.NDArray[np.float32]

_LITTLE: Final = np.dtype("<f4")


class PoolingBackend(Protocol):
    """What an embedder needs; :class:`plugsky.engine.llama.pooling.PooledContext` is the real one."""

    def compute(self, texts: Sequence[Sequence[int]]) -> list[Vector]: ...

    def set_threads(self, n: int) -> None: ...


@dataclass(slots=True)
class _Job:
    submit: Submit
    deadline_us: int | None


class Embedder:
    """Computes texts in batches. Call :meth:`run` on its owner thread and :meth:`order` from any."""

    def __init__(
        self, backend: PoolingBackend, bounds: Bounds, report: Callable[[Report], None], *, scores: bool
    ) -> None:
        """``scores``: the texts are pairs and the results scores."""
        self._backend = backend
        self._batcher = Batcher(bounds)
        self._tell = report
        self._scores = scores
        self._orders = OrderQueue()
        self._jobs: dict[int, _Job] = {}
        self._steps = 0

    def order(self, order: Order) -> None:
        """Leave an order; it is carried out before the next batch. Raises ``overloaded`` when too many wait."""
        self._orders.leave(order)

    def run(self) -> None:
        """Work until :class:`Quit`. Raises :class:`llama.ContextBrokenError` when the context is lost."""
        updates: list[Update] = []
        while self._take_orders(updates):
            self._end_expired(updates)
            self._report(updates)
            if self._jobs:
                self._compute(updates)
                self._report(updates)

    def _report(self, updates: list[Update], *, t_us: int = 0, tokens: int = 0, running: int = 0) -> None:
        if updates or t_us:
            self._tell(
                Report(
                    updates=list(updates),
                    n=self._steps,
                    t_us=t_us,
                    prompt_tokens=tokens,
                    running=running,
                    waiting=len(self._batcher),
                )
            )
            updates.clear()

    def _take_orders(self, updates: list[Update]) -> bool:
        for order in self._orders.take(wait=not self._jobs):
            match order:
                case Start(ticket, submit):
                    self._start(ticket, submit, updates)
                case Stop(ticket):
                    if ticket in self._jobs:
                        updates.append(self._end(ticket, "cancelled"))
                case SetThreads(n):
                    self._backend.set_threads(n)
                case Work(run):
                    run()
                case Quit():
                    return False
        return True

    def _start(self, ticket: int, submit: Submit, updates: list[Update]) -> None:
        now = _now_us()
        text = Text(ticket, submit.tenant, submit.tokens, now, submit.service_class, submit.weight)
        try:
            self._batcher.add(text)
        except QueueFullError:
            refusal = EngineError(
                ErrorKind.OVERLOADED, f"{len(self._batcher)} texts are waiting for this model already", retry_after=5.0
            )
            updates.append(Update(ticket, error=refusal))
            return
        self._jobs[ticket] = _Job(submit, None if submit.deadline_us is None else now + submit.deadline_us)
        updates.append(Update(ticket, accepted=True))

    def _end_expired(self, updates: list[Update]) -> None:
        now = _now_us()
        expired = [n for n, job in self._jobs.items() if job.deadline_us is not None and now >= job.deadline_us]
        updates += [self._end(ticket, "deadline") for ticket in expired]

    def _compute(self, updates: list[Update]) -> None:
        batch = self._batcher.plan(_now_us())
        began = time.monotonic_ns()
        work, done = [batch], []
        while work:
            part = work.pop()
            try:
                vectors = self._backend.compute([text.tokens for text in part])
            except native.BatchRefusedError:
                if len(part) == 1:
                    updates.append(self._refused(part[0].ticket, "llama.cpp refused this request's tokens"))
                else:
                    work += [part[len(part) // 2 :], part[: len(part) // 2]]
            else:
                done += list(zip(part, vectors, strict=True))
        t_us = (time.monotonic_ns() - began) // 1000
        self._batcher.done(batch, t_us)
        self._steps += 1
        total = sum(len(text.tokens) for text, _ in done)
        for text, vector in done:
            updates.append(self._finished(text, vector, t_us * len(text.tokens) // total))
        self._report(updates, t_us=t_us, tokens=total, running=len(batch))

    def _finished(self, text: Text, vector: Vector, engine_us: int) -> Update:
        if self._scores:
            score = float(vector[0])
            if not math.isfinite(score):
                return self._refused(text.ticket, "the score of this pair is no number")
            return self._end(text.ticket, "stop", engine_us, score=score)
        unit = normalised(vector)
        if unit is None:
            return self._refused(text.ticket, "the embedding of this text has no direction")
        return self._end(text.ticket, "stop", engine_us, embedding=unit.astype(_LITTLE).tobytes())

    def _refused(self, ticket: int, what: str) -> Update:
        del self._jobs[ticket]
        return Update(ticket, error=EngineError(ErrorKind.INTERNAL, what))

    def _end(
        self, ticket: int, reason: FinishReason, us: int = 0, *, embedding: bytes = b"", score: float | None = None
    ) -> Update:
        job = self._jobs.pop(ticket)
        self._batcher.remove(ticket)
        usage = Usage(prompt_tokens=len(job.submit.tokens), completion_tokens=0, engine_us=us)
        return Update(ticket, finish=Finish(reason=reason, usage=usage, embedding=embedding, score=score))


def normalised(vector: Vector) -> Vector | None:
    """``vector`` scaled to length 1; None when it has no direction: all zeros, or not all of it finite numbers."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return (vector / np.float32(length)).astype(np.float32) if math.isfinite(length) and length > 0 else None


def _now_us() -> int:
    return time.monotonic_ns() // 1000
