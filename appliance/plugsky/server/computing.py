"""The way of one request for vectors or scores, the same for every dialect: many inputs, one line in the books.

Guarantees, in order:

1. Every input is prepared before anything is set aside or run; a refusal names the place of the input at fault.
2. At most :data:`SIDE_BY_SIDE` inputs are at the engine at a time, so that a long list leaves others their turn.
3. The first input that fails ends the request, as do a cancel, a hang-up and the deadline: the others are cancelled.
4. However it ends, it is settled once, with the engine's count over the inputs that it computed.
5. Only after that the engine may forget the jobs.
"""

import asyncio
import hashlib
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.admission import book, engine_for
from plugsky.server.answering import NamedT, Received
from plugsky.server.deps import Engine, EngineAnswer, Entry, Gateway
from plugsky.server.failures import too_late
from plugsky.server.flights import Flight
from plugsky.server.prompt import Prompt
from plugsky.server.settlement import GRACE_S, NOTHING, Settlement

SIDE_BY_SIDE: Final = 32
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Inputs:
    """What a dialect asks of a model of ``mode``: one result for each prompt, which errors call by its place."""

    endpoint: str
    mode: str
    prompts: Sequence[Prompt]
    places: Sequence[str]
    end_user: str = ""


@dataclass(frozen=True)
class Computed:
    """The end of every input, in the order of the inputs, and what they used together."""

    finishes: Sequence[frames.Finish]
    usage: frames.Usage


async def compute(gateway: Gateway, taken: Received[NamedT], inputs: Inputs) -> Computed:
    """Compute every input, and settle the request. Raises :class:`PlugskyError` with a status of its own."""
    flight, model = taken.flight, taken.model
    deadline = asyncio.get_running_loop().time() + gateway.policy.limits.request_timeout_s
    engine = await engine_for(gateway, flight, model, inputs.mode)

    async def prepare(number: int) -> frames.Prepared:
        flight.still_wanted()
        try:
            return await engine.prepare(tenant=flight.principal.tenant, **inputs.prompts[number].given())
        except PlugskyError as error:
            if error.param is not None and error.param != "query":
                error.param = inputs.places[number]
            raise

    try:
        async with asyncio.timeout_at(deadline):
            prepared = await side_by_side(len(inputs.prompts), prepare)
    except TimeoutError:
        raise too_late() from None
    flight.still_wanted()
    flight.prompt_tokens = sum(len(each.tokens) for each in prepared)
    entry = Entry(
        job=flight.job,
        principal=flight.principal,
        requested_model=taken.request.model,
        model=model,
        tokens=flight.prompt_tokens,
        end_user=inputs.end_user,
        service_class=flight.service_class,
    )
    await book(gateway, flight, entry)
    settlement = Settlement(gateway, flight, entry, inputs.endpoint)
    return await _Computation(flight, engine, prepared, deadline).run(settlement, taken.sha256)


class _Computation:
    """The inputs of one booked request at the engine."""

    def __init__(self, flight: Flight, engine: Engine, prepared: Sequence[frames.Prepared], deadline: float) -> None:
        self._flight = flight
        self._engine = engine
        self._prepared = prepared
        self._deadline = deadline
        self._answers: list[EngineAnswer] = []
        self._done: dict[int, frames.Finish] = {}
        self._guard: asyncio.Timeout | None = None

    async def run(self, settlement: Settlement, request_sha256: bytes) -> Computed:
        """Every input's end, settled."""
        outcome = ErrorKind.CANCELLED.wire
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S) as self._guard:
                self._flight.on_cancel(self._cancel)
                finishes = await side_by_side(len(self._prepared), self._one)
            outcome = "stop"
        except TimeoutError:
            error = self._flight.ended_early() if self._flight.cancelled_by else too_late()
            outcome = error.kind.wire
            raise error from None
        except PlugskyError as error:
            outcome = error.kind.wire
            raise
        finally:
            content = {"request": request_sha256, "answer": self._said()}
            await settlement.close(outcome, self._usage(), content, self._acknowledge)
        return Computed(finishes, self._usage())

    async def _one(self, number: int) -> frames.Finish:
        self._flight.still_wanted()
        left_s = self._deadline - asyncio.get_running_loop().time()
        answer = self._engine.submit(
            job=self._flight.job if not number else f"{self._flight.job}.{number}",
            tenant=self._flight.principal.tenant,
            tokens=self._prepared[number].tokens,
            params=frames.Params(),
            max_tokens=0,
            service_class=self._flight.service_class,
            weight=self._flight.principal.weight,
            deadline_us=max(1, int(left_s * 1e6)),
        )
        self._answers.append(answer)
        self._flight.state = "prefill"
        try:
            final = None
            while final is None:
                final = (await answer.__anext__()).final
        finally:
            answer.cancel()
        if final.reason == "cancelled":
            raise self._flight.ended_early()
        if final.reason == "deadline":
            raise too_late()
        self._done[number] = final
        return final

    def _cancel(self) -> None:
        """Tell the engine to stop, and wait for its word no longer than the grace."""
        self._flight.state = "ending"
        for answer in self._answers:
            answer.cancel()
        if self._guard is not None and not self._guard.expired():
            self._guard.reschedule(min(self._deadline, asyncio.get_running_loop().time()) + GRACE_S)

    def _usage(self) -> frames.Usage:
        if not self._done:
            return NOTHING
        used = [finish.usage for finish in self._done.values()]
        return frames.Usage(
            prompt_tokens=sum(each.prompt_tokens for each in used),
            completion_tokens=0,
            engine_us=sum(each.engine_us for each in used),
        )

    def _said(self) -> bytes:
        digest = hashlib.sha256()
        for number in sorted(self._done):
            finish = self._done[number]
            digest.update(finish.embedding if finish.score is None else struct.pack("<d", finish.score))
        return digest.digest()

    async def _acknowledge(self) -> None:
        for answer in self._answers:
            answer.acknowledge()


async def side_by_side(count: int, act: Callable[[int], Awaitable[ResultT]]) -> list[ResultT]:
    """What ``act`` makes of 0 to ``count`` - 1, :data:`SIDE_BY_SIDE` at a time. The first failure cancels the rest."""
    results: dict[int, ResultT] = {}
    numbers = iter(range(count))

    async def work() -> None:
        for number in numbers:
            results[number] = await act(number)

    workers = [asyncio.create_task(work()) for _ in range(min(count, SIDE_BY_SIDE))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return [results[number] for number in range(count)]
