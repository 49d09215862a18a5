"""Settlement: the arrows submit, top-up and settle of a request that is booked, and its text as it comes.

Guarantees, in order:

1. Tokens are topped up a step ahead of the answer; a refused top-up ends the answer with that error.
2. The usage is settled before the end is handed out, so a client that saw the end finds it billed.
3. However the answer ends (finish, cancel, hang-up, deadline, lost engine, stopping process), it is settled once, with
   the engine's own count; when the engine is lost, with what was received from it. Books that cannot be written now are
   tried again until they take it: a disk that is full for a while costs the client time, never the count.
4. Only after that the engine may forget the job.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import msgspec

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.prompting.families.events import Event
from plugsky.server.deps import Engine, EngineAnswer, Entry, Gateway, Outcome
from plugsky.server.failures import too_late
from plugsky.server.flights import Flight
from plugsky.server.prompt import Prompt
from plugsky.server.said import Said
from plugsky.server.streams import Numbered, Streams

GRACE_S: Final = 5.0
"""How long an engine may take to end a request it was told to end, before it is given up."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""Between two tries to settle: doubled from the first to the longest."""
NOTHING: Final = frames.Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True)
class Ask:
    """What a dialect asks for: ``n`` answers to each prompt. ``request_sha256`` is over the body as it was received.

    The answers are called by number: those to the first prompt come first.
    """

    endpoint: str
    requested_model: str
    prompts: Sequence[Prompt]
    params: frames.Params
    n: int = 1
    max_tokens: int | None = None
    default_max_tokens: int = 0
    """How many the answer has at most where ``max_tokens`` is None; as far as the context goes in either case."""
    """Of each answer; None for what the policy says."""
    end_user: str = ""
    request_sha256: bytes = b""

    @property
    def answers(self) -> int:
        """How many answers are asked for."""
        return len(self.prompts) * self.n


@dataclass(frozen=True)
class Extent:
    """How far a request may go: tokens that each answer of each prompt may have, those booked, and until when."""

    max_tokens: Sequence[int]
    booked: int
    deadline: float


class News(NamedTuple):
    """An item of the answer with this number, and what it says, in no dialect's words."""

    number: int
    item: frames.StepItem
    events: list[Event]


class Settlement:
    """The books of one booked request: closed once, in a task of their own, and tried until they take it."""

    def __init__(self, gateway: Gateway, flight: Flight, entry: Entry, endpoint: str) -> None:
        self._gateway = gateway
        self._flight = flight
        self._entry = entry
        self._endpoint = endpoint
        self._writing: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """Whether the request's end has been told."""
        return self._writing is not None

    async def close(
        self, name: str, usage: frames.Usage, content: Mapping[str, bytes], after: Callable[[], Awaitable[None]]
    ) -> None:
        """Settle once, and do ``after`` when it is written. A cancelled caller does not cancel it."""
        if self._writing is None:
            self._flight.state = "ending"
            self._flight.on_cancel(None)
            self._flight.prompt_tokens = usage.prompt_tokens
            used = usage.prompt_tokens + usage.completion_tokens
            if self._flight.weighed:
                self._gateway.rates.correct(self._flight.principal, self._flight.weighed, used)
            self._writing = asyncio.create_task(
                self._write(Outcome(name, usage, {"endpoint": self._endpoint}, content), after)
            )
        await asyncio.shield(self._writing)

    async def _write(self, outcome: Outcome, after: Callable[[], Awaitable[None]]) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._gateway.accounts.settle(self._entry, outcome)
                break
            except PlugskyError as error:
                if not error.kind.value.retryable:
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_S)
        entry, endpoint = self._entry, self._endpoint
        self._gateway.metrics.settled(self._flight, entry.model.id, endpoint, outcome.name, outcome.usage)
        await after()


class Answer:
    """What the engine says to one request: :meth:`news` until every choice has its final, or :meth:`close`.

    ``finishes`` are the ends of the choices, each None before it; a failure is raised from the iteration. ``said`` is
    what each says, once it is submitted.
    """

    def __init__(self, gateway: Gateway, flight: Flight, ask: Ask, entry: Entry, extent: Extent) -> None:
        self.model = entry.model
        self.fingerprint = ""
        self.finishes: list[frames.Finish | None] = [None] * ask.answers
        self.said: Sequence[Said] = ()
        self._gateway = gateway
        self._flight = flight
        self._ask = ask
        self._settlement = Settlement(gateway, flight, entry, ask.endpoint)
        self._max_tokens = extent.max_tokens
        self._most = sum(extent.max_tokens) * ask.n
        self._booked = extent.booked
        self._step = gateway.policy.limits.reserve_step
        self._deadline = extent.deadline
        self._guard: asyncio.Timeout | None = None
        self._streams: Streams | None = None
        self._made = 0
        self._seen = 0
        self._text_sha256 = [hashlib.sha256() for _ in range(ask.answers)]
        self._refusal: PlugskyError | None = None

    @property
    def usage(self) -> frames.Usage:
        """What the choices used together, once all have ended: each prompt is counted once."""
        used = [finish.usage for finish in self.finishes if finish is not None]
        firsts = used[:: self._ask.n]
        return frames.Usage(
            prompt_tokens=sum(each.prompt_tokens for each in firsts),
            completion_tokens=sum(each.completion_tokens for each in used),
            cached_tokens=sum(each.cached_tokens for each in firsts),
            engine_us=sum(each.engine_us for each in used),
            reasoning_tokens=self._reasoned,
            image_tokens=self._seen,
        )

    async def submit(self, engine: Engine, prepared: Sequence[frames.Prepared]) -> None:
        """Hand the prompts to the engine and wait until it has accepted all. A refusal is settled with nothing."""
        try:
            self._flight.still_wanted()
            self.fingerprint = _fingerprint(engine.hello)
            self._seen = sum(token < 0 for each in prepared for token in each.tokens)
            which = [number // self._ask.n for number in range(self._ask.answers)]
            self.said = [Said(self._ask.prompts[number], prepared[number]) for number in which]
            self._streams = Streams([self._submitted(engine, prepared, number) for number in range(self._ask.answers)])
            self._flight.on_cancel(self._cancel)
            async with asyncio.timeout_at(self._deadline):
                await self._streams.accepted()
            self._flight.state = "prefill"
        except TimeoutError:
            await self._settle(ErrorKind.TIMEOUT.wire, NOTHING)
            raise too_late() from None
        except PlugskyError as error:
            await self._settle(error.kind.wire, NOTHING)
            raise
        except BaseException:
            await self.close()
            raise

    def _submitted(self, engine: Engine, prepared: Sequence[frames.Prepared], number: int) -> EngineAnswer:
        which, choice = divmod(number, self._ask.n)
        left_s = self._deadline - asyncio.get_running_loop().time()
        return engine.submit(
            job=self._flight.job if not number else f"{self._flight.job}.{number}",
            tenant=self._flight.principal.tenant,
            adapter=self._ask.prompts[which].adapter,
            tokens=prepared[which].tokens,
            params=_params(self._ask.params, prepared[which], choice),
            max_tokens=self._max_tokens[which],
            service_class=self._flight.service_class,
            weight=self._flight.principal.weight,
            deadline_us=max(1, int(left_s * 1e6)),
            prompt=self._ask.prompts[which].given(),
        )

    async def news(self) -> AsyncIterator[News]:
        """What the engine says, each item with the number of its choice. Ends settled."""
        while not self._over:
            number, item = await self._next()
            if item.ids:
                self._made += len(item.ids)
                self._flight.produced(len(item.ids), self._gateway.clock.monotonic_us())
            self._text_sha256[number].update(item.text.encode())
            events = self.said[number].feed(item)
            if item.final is not None:
                self.finishes[number] = item.final
            if self._over:
                await self._end()
            elif self._booked < self._most and self._made >= self._booked - self._step // 4:
                await self._top_up()
            yield News(number, item, events)

    async def close(self) -> None:
        """End the request wherever it stands. Does nothing after its end."""
        if not self._settlement.begun and self._streams is not None:
            self._streams.cancel()
        await self._settle(ErrorKind.CANCELLED.wire, self._received())

    @property
    def _over(self) -> bool:
        return None not in self.finishes

    async def _next(self) -> Numbered:
        assert self._streams is not None  # noqa: S101 - submit() has returned
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S) as self._guard:
                return await self._streams.next()
        except TimeoutError:
            self._streams.cancel()
            await self._settle(ErrorKind.TIMEOUT.wire, self._received())
            raise (self._refusal or too_late()) from None
        except PlugskyError as error:
            self._streams.cancel()
            await self._settle(error.kind.wire, self._received())
            raise
        finally:
            self._guard = None

    def _cancel(self) -> None:
        """Tell the engine to stop, and wait for its count no longer than the grace."""
        assert self._streams is not None  # noqa: S101 - set before this is handed out
        self._flight.state = "ending"
        self._streams.cancel()
        now = asyncio.get_running_loop().time()
        self._deadline = min(self._deadline, now)
        if self._guard is not None and not self._guard.expired():
            self._guard.reschedule(self._deadline + GRACE_S)

    async def _top_up(self) -> None:
        more = min(self._step * self._ask.answers, self._most - self._booked)
        try:
            await self._gateway.accounts.top_up(self._flight.job, more)
        except PlugskyError as error:
            self._refusal = error
            self._booked = self._most
            self._cancel()
        else:
            self._booked += more

    async def _end(self) -> None:
        reasons = {finish.reason for finish in self.finishes if finish is not None}
        error: PlugskyError | None = None
        if "cancelled" in reasons:
            error = self._refusal or self._flight.ended_early()
        elif "deadline" in reasons:
            error = too_late()
        ended = "length" if "length" in reasons else "stop"
        await self._settle(error.kind.wire if error else ended, self.usage)
        if error is not None:
            raise error

    def _received(self) -> frames.Usage:
        """What arrived here: the count when the engine's own will not come. Nothing made, nothing billed."""
        if not self._made:
            return NOTHING
        return frames.Usage(
            prompt_tokens=self._flight.prompt_tokens,
            completion_tokens=self._made,
            reasoning_tokens=self._reasoned,
            image_tokens=self._seen,
        )

    @property
    def _reasoned(self) -> int:
        return sum(said.reasoning_tokens for said in self.said)

    async def _settle(self, outcome: str, usage: frames.Usage) -> None:
        await self._settlement.close(outcome, usage, self._content(), self._let_go)

    async def _let_go(self) -> None:
        if self._streams is not None:
            self._streams.acknowledge()
            await self._streams.close()

    def _content(self) -> dict[str, bytes]:
        said = [digest.digest() for digest in self._text_sha256]
        answer = said[0] if len(said) == 1 else hashlib.sha256(b"".join(said)).digest()
        return {"request": self._ask.request_sha256, "answer": answer}


def _params(params: frames.Params, prepared: frames.Prepared, number: int) -> frames.Params:
    """What the engine is told of choice ``number``: with the grammar that was prepared, and draws of its own."""
    return msgspec.structs.replace(
        params,
        grammar=prepared.grammar,
        grammar_triggers=prepared.grammar_triggers,
        show_special=prepared.show_special,
        seed=None if params.seed is None else (params.seed + number) % 2**32,
    )


def _fingerprint(hello: frames.EngineHello) -> str:
    """Names the build and the model file that answered: text is reproducible within one fingerprint at most."""
    return f"fp_{hashlib.sha256(f'{hello.build} {hello.digest}'.encode()).hexdigest()[:12]}"
