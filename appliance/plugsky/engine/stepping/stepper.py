"""The owner of a context: it takes orders between steps, runs one step after another, and reports what came of each.

It lives on one thread and does no socket IO. Orders come through a queue, reports leave through a callback, so that a
slow peer can never hold up a step. Whatever goes wrong with one sequence ends that sequence alone; only a context that
broke half way through a decode ends the engine.

A request for its prompt's log-probabilities takes no logits from the cache, which keeps none: all of its prompt is
computed, in chunks that ask for a bounded number of rows (:attr:`.tasks.Limits.outputs`).

A batch that llama.cpp refuses is halved until the guilty chunk is alone and fails; what it computed before is not kept.
A cache fuller than counted gives back what is parked, then sends tasks back to the line, until the batch fits.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from plugsky.core.errors import ErrorKind
from plugsky.core.frames import Finish, FinishReason, Submit, TokenLogprob, Usage
from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.grammar import GrammarSpec
from plugsky.engine.llama import native
from plugsky.engine.prompting.images import Piece
from plugsky.engine.scheduling.plan import Chunk, Op
from plugsky.engine.scheduling.prefix import Resident
from plugsky.engine.scheduling.scheduler import Scheduler
from plugsky.engine.scheduling.tasks import Limits, QueueFullError, Task
from plugsky.engine.stepping.orders import Order, OrderQueue, Quit, Report, SetThreads, Start, Stop, Unpin, Update, Work
from plugsky.engine.tokens import sampling
from plugsky.engine.tokens.logprobs import logprobs
from plugsky.engine.tokens.text import TextStream


class SequenceSampler(Protocol):
    """How one sequence chooses its tokens; ``done`` when its answer can only end here."""

    @property
    def done(self) -> bool: ...

    def pick(self, logits: native.Logits) -> int: ...

    def accept(self, token: int) -> None: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """What a stepper needs of the model and its context; :class:`llama.Context` is the real one."""

    def decode(self, chunks: Sequence[Chunk]) -> list[native.Logits]: ...

    def sampler(self, stages: tuple[sampling.Stage, ...], grammar: GrammarSpec) -> SequenceSampler: ...

    def piece(self, token: int) -> bytes: ...

    def ends(self, token: int) -> bool: ...

    def apply(self, ops: Sequence[Op]) -> None: ...

    def set_threads(self, n: int) -> None: ...

    def set_adapter(self, name: str) -> None: ...


_Choice = tuple[int, int | None, tuple[TokenLogprob, ...]]
"""A ticket, its next token, and what was asked to be known of it; None where only the prompt was wanted."""


@dataclass(slots=True, eq=False)
class _Sequence:
    submit: Submit
    sampler: SequenceSampler
    text: TextStream
    images: Mapping[int, Piece]
    chosen: int = 0
    pin: bool = False
    engine_us: int = 0

    def usage(self, cached: int) -> Usage:
        prompt = len(self.submit.tokens)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=self.chosen,
            cached_tokens=min(cached, prompt),
            engine_us=self.engine_us,
        )


class Stepper:
    """Steps one context. Call :meth:`run` on its owner thread and :meth:`order` from any."""

    def __init__(self, backend: Backend, limits: Limits, report: Callable[[Report], None]) -> None:
        self._backend = backend
        self._scheduler = Scheduler(limits)
        self._tell = report
        self._orders = OrderQueue()
        self._sequences: dict[int, _Sequence] = {}
        self._pinned: dict[int, Resident] = {}
        self._new: list[int] = []
        self._steps = 0
        self._report = Report()

    def order(self, order: Order) -> None:
        """Leave an order; it is carried out before the next step. Raises ``overloaded`` when too many wait."""
        self._orders.leave(order)

    def run(self) -> None:
        """Work until :class:`Quit`. Raises :class:`llama.ContextBrokenError` when the context is lost."""
        try:
            while self._take_orders():
                for ticket in self._scheduler.expired(_now_us()):
                    self._finish(Update(ticket), "deadline")
                if self._sequences:
                    self._step()
                else:
                    self._apply()
                self._flush()
        finally:
            for sequence in self._sequences.values():
                sequence.sampler.close()

    def _flush(self) -> None:
        report, scheduler = self._report, self._scheduler
        if report.updates or report.t_us:
            report.n = self._steps
            report.running, report.waiting, report.paused = scheduler.running, scheduler.waiting, scheduler.paused
            report.waiting_by_class = scheduler.waiting_by_class
            cells = scheduler.kv.map
            report.kv_used, report.kv_parked, report.kv_highest = cells.live, cells.parked, cells.highest
            report.kv_saved = scheduler.kv.saved
            self._tell(report)
            self._report = Report()

    def _take_orders(self) -> bool:
        """Carry out what was ordered; wait for an order when there is nothing to do. False at the end."""
        for order in self._orders.take(wait=not self._sequences):
            match order:
                case Start():
                    self._start(order)
                case Stop(ticket):
                    if ticket in self._sequences:
                        self._finish(Update(ticket), "cancelled")
                case Unpin(ticket):
                    resident = self._pinned.pop(ticket, None)
                    if resident is not None:
                        self._scheduler.unpin(resident)
                case SetThreads(n):
                    self._backend.set_threads(n)
                case Work(run):
                    run()
                case Quit():
                    return False
        return True

    def _start(self, order: Start) -> None:
        ticket, submit = order.ticket, order.submit
        deadline = None if submit.deadline_us is None else _now_us() + submit.deadline_us
        tokens = (*submit.tokens, *submit.resume_tokens)
        task = Task(
            ticket,
            submit.tenant,
            tokens,
            submit.service_class,
            submit.weight,
            submit.adapter,
            deadline_us=deadline,
            score_from=_score_from(submit),
            pin=order.pin,
        )
        try:
            self._scheduler.add(task, _now_us())
        except QueueFullError as error:
            whose = "of this tenant " if error.of_tenant else ""
            refusal = EngineError(
                ErrorKind.OVERLOADED,
                f"{error.bound} requests {whose}are waiting for this model already",
                retry_after=5.0,
            )
            self._report.updates.append(Update(ticket, error=refusal))
            return
        try:
            sampler = self._sampler(submit)
        except EngineError as error:
            self._scheduler.remove(ticket)
            self._report.updates.append(Update(ticket, error=error))
            return
        text = TextStream(submit.params.stop, submit.params.show_special)
        chosen = len(submit.resume_tokens)
        sequence = _Sequence(submit, sampler, text, order.images, chosen=chosen, pin=order.pin)
        for token in submit.resume_tokens:
            sequence.text.feed(self._backend.piece(token), token)
        self._sequences[ticket] = sequence
        self._new.append(ticket)

    def _sampler(self, submit: Submit) -> SequenceSampler:
        params = submit.params
        spec = GrammarSpec(params.grammar, params.grammar_triggers, tuple(params.show_special.values()))
        sampler = self._backend.sampler(sampling.stages(params), spec)
        try:
            for token in submit.resume_tokens:
                sampler.accept(token)
        except EngineError:
            sampler.close()
            raise
        return sampler

    def _step(self) -> None:
        plan = self._scheduler.plan(_now_us())
        for ticket in self._scheduler.hopeless():
            self._fail(ticket, EngineError(ErrorKind.OVERLOADED, "the cache cannot hold this request"))
        if self._new:
            self._accept()
            self._flush()
        self._backend.apply(plan.ops)
        self._apply()
        began = time.monotonic_ns()
        self._backend.set_adapter(plan.adapter)
        choices = self._compute([chunk for chunk in plan.chunks if chunk.ticket in self._sequences])
        for choice in choices:
            self._chose(*choice)
        self._steps += 1
        self._report.t_us = max(1, (time.monotonic_ns() - began) // 1000)

    def _accept(self) -> None:
        """Tell what has come in since the last step, with what the plan found of it in the cache."""
        for ticket in self._new:
            sequence = self._sequences.get(ticket)
            if sequence is not None:
                cached = min(self._scheduler.cached(ticket) or 0, len(sequence.submit.tokens))
                self._report.updates.append(Update(ticket, accepted=True, cached=cached))
        self._new.clear()

    def _apply(self) -> None:
        ops = self._scheduler.take_ops()
        if ops:
            self._backend.apply(ops)

    def _compute(self, chunks: Sequence[Chunk]) -> list[_Choice]:
        """Compute ``chunks``, images apart, the rest in one batch unless one is at fault; the tokens chosen."""
        texts = [chunk for chunk in chunks if chunk.tokens[0] >= 0]
        work: list[Sequence[Chunk]] = [[chunk] for chunk in chunks if chunk.tokens[0] < 0]
        work += [texts] if texts else []
        choices: list[_Choice] = []
        while work:
            batch = work.pop()
            began = time.monotonic_ns()
            try:
                rows = self._decode(batch)
            except native.BatchRefusedError:
                if len(batch) == 1:
                    refused = EngineError(ErrorKind.INTERNAL, "llama.cpp refused this request's tokens")
                    self._fail(batch[0].ticket, refused, keep=False)
                    self._apply()
                else:
                    work += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            except native.CacheFullError:
                work = self._relieved([*work, batch])
            else:
                self._commit(batch, (time.monotonic_ns() - began) // 1000)
                choices += self._read(batch, rows)
        return choices

    def _decode(self, batch: Sequence[Chunk]) -> list[native.Logits]:
        first = batch[0]
        if first.tokens[0] >= 0:
            return self._backend.decode(batch)
        return self._sequences[first.ticket].images[first.start].compute(first)

    def _relieved(self, work: list[Sequence[Chunk]]) -> list[Sequence[Chunk]]:
        """What is left of ``work`` once the cache has more room."""
        if not self._scheduler.relieve():
            self._fail(work[-1][0].ticket, EngineError(ErrorKind.OVERLOADED, "the cache cannot hold this request"))
        self._apply()
        kept = [[chunk for chunk in part if self._scheduler.is_admitted(chunk.ticket)] for part in work]
        return [part for part in kept if part]

    def _commit(self, batch: Sequence[Chunk], t_us: int) -> None:
        for chunk, us in zip(batch, self._scheduler.commit(batch, t_us), strict=True):
            self._sequences[chunk.ticket].engine_us += us
            self._report.prompt_tokens += len(chunk.tokens)

    def _read(self, chunks: Sequence[Chunk], rows: Iterable[native.Logits]) -> list[_Choice]:
        """What ``rows`` say: of the prompt's tokens where that was asked for, and of those to come."""
        choices: list[_Choice] = []
        left = iter(rows)
        for chunk in chunks:
            own = list(islice(left, chunk.outputs))
            try:
                if self._score(chunk, own) < len(own):
                    choices.append(self._pick(chunk.ticket, own[-1]))
            except EngineError as error:
                self._fail(chunk.ticket, error)
        return choices

    def _score(self, chunk: Chunk, rows: Sequence[native.Logits]) -> int:
        """Tell the log-probabilities of the prompt's tokens that follow on ``rows``; how many those are."""
        sequence = self._sequences[chunk.ticket]
        top = sequence.submit.params.prompt_logprobs
        first = chunk.start + len(chunk.tokens) - len(rows) + 1
        following = sequence.submit.tokens[first : first + len(rows)]
        if top is None or not following:
            return 0
        began = time.monotonic_ns()
        known = tuple(
            logprobs(row, token, top, self._backend.piece) for row, token in zip(rows, following, strict=False)
        )
        self._report.updates.append(Update(chunk.ticket, prompt_logprobs=known))
        us = (time.monotonic_ns() - began) // 1000
        sequence.engine_us += us
        self._scheduler.charge(chunk.ticket, us)
        return len(known)

    def _pick(self, ticket: int, row: native.Logits) -> _Choice:
        sequence = self._sequences[ticket]
        if sequence.pin or not sequence.submit.max_tokens:
            return ticket, None, ()
        token = sequence.sampler.pick(row)
        top = sequence.submit.params.top_logprobs
        return ticket, token, () if top is None else (logprobs(row, token, top, self._backend.piece),)

    def _chose(self, ticket: int, token: int | None, known: tuple[TokenLogprob, ...]) -> None:
        sequence = self._sequences[ticket]
        if sequence.pin:
            self._keep(ticket)
            return
        if token is None:
            self._finish(Update(ticket), "length")
            return
        self._report.completion_tokens += 1
        self._report.prompt_tokens -= 1
        sequence.sampler.accept(token)
        sequence.chosen += 1
        ends = self._backend.ends(token) and not sequence.submit.params.ignore_eos
        text = "" if ends else sequence.text.feed(self._backend.piece(token), token)
        update = Update(ticket, ids=(token,), text=text, logprobs=known)
        if ends or sequence.text.stop or sequence.sampler.done:
            self._finish(update, "stop")
        elif sequence.chosen >= sequence.submit.max_tokens:
            self._finish(update, "length")
        else:
            self._scheduler.append(ticket, token)
            self._report.updates.append(update)

    def _finish(self, last: Update, reason: FinishReason) -> None:
        """End a sequence with its ``last`` news."""
        if last.ticket in self._new:
            self._accept()
        cached = self._scheduler.cached(last.ticket) or 0
        sequence = self._forget(last.ticket, keep=True)
        last.text += sequence.text.finish()
        last.finish = Finish(reason=reason, usage=sequence.usage(cached), stop=sequence.text.stop)
        self._report.updates.append(last)

    def _fail(self, ticket: int, error: EngineError, *, keep: bool = True) -> None:
        self._forget(ticket, keep=keep)
        self._report.updates.append(Update(ticket, error=error))

    def _forget(self, ticket: int, *, keep: bool) -> _Sequence:
        """A sequence is over; what it has in the cache is parked if it may be of use to others."""
        sequence = self._sequences.pop(ticket)
        sequence.sampler.close()
        self._scheduler.remove(ticket, keep=keep)
        return sequence

    def _keep(self, ticket: int) -> None:
        """What was to be pinned is computed."""
        sequence = self._sequences.pop(ticket)
        sequence.sampler.close()
        usage = sequence.usage(self._scheduler.cached(ticket) or 0)
        self._pinned[ticket] = self._scheduler.pin(ticket)
        self._report.updates.append(Update(ticket, finish=Finish(reason="length", usage=usage)))


def _score_from(submit: Submit) -> int | None:
    """The first position whose logits are wanted: they foretell the first token of the prompt not scored yet."""
    scores = submit.params.prompt_logprobs is not None and submit.scored < len(submit.tokens) - 1
    return submit.scored if scores else None


def _now_us() -> int:
    return time.monotonic_ns() // 1000
