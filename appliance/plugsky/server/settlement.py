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
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.server.deps import Engine, EngineAnswer, Entry, Gateway, Outcome
from plugsky.server.failures import too_late
from plugsky.server.flights import Flight

GRACE_S: Final = 5.0
"""How long an engine may take to end a request it was told to end, before it is given up."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
"""Between two tries to settle: doubled from the first to the longest."""
NOTHING: Final = frames.Usage(prompt_tokens=0, completion_tokens=0)


@dataclass(frozen=True)
class Ask:
    """What a dialect asks for. ``request_sha256`` is over the body as it was received."""

    endpoint: str
    requested_model: str
    messages: tuple[frames.Message, ...]
    params: frames.Params
    max_tokens: int | None = None
    end_user: str = ""
    request_sha256: bytes = b""


class Answer:
    """An async iterator of text. ``finish`` is set once it has ended well; a failure is raised from the iteration.

    Iterate to the end, or :meth:`close`.
    """

    def __init__(
        self, gateway: Gateway, flight: Flight, ask: Ask, entry: Entry, *, max_tokens: int, booked: int, deadline: float
    ) -> None:
        self.model = entry.model
        self.fingerprint = ""
        self.finish: frames.Finish | None = None
        self._gateway = gateway
        self._flight = flight
        self._ask = ask
        self._entry = entry
        self._max_tokens = max_tokens
        self._booked = booked
        self._step = gateway.policy.limits.reserve_step
        self._deadline = deadline
        self._guard: asyncio.Timeout | None = None
        self._stream: EngineAnswer | None = None
        self._made = 0
        self._text_sha256 = hashlib.sha256()
        self._refusal: PlugskyError | None = None
        self._settling: asyncio.Task[None] | None = None

    async def submit(self, engine: Engine, tokens: tuple[int, ...]) -> None:
        """Hand the prompt to the engine and wait until it is accepted. A refusal is settled with nothing."""
        try:
            self._flight.still_wanted()
            self.fingerprint = _fingerprint(engine.hello)
            left_s = self._deadline - asyncio.get_running_loop().time()
            self._stream = engine.submit(
                job=self._flight.job,
                tenant=self._flight.principal.tenant,
                tokens=tokens,
                params=self._ask.params,
                max_tokens=self._max_tokens,
                weight=self._flight.principal.weight,
                deadline_us=max(1, int(left_s * 1e6)),
            )
            self._flight.on_cancel(self._cancel)
            async with asyncio.timeout_at(self._deadline):
                await self._stream.accepted()
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

    async def texts(self) -> AsyncIterator[str]:
        """The answer, piece by piece, as the engine completes characters. Ends settled."""
        while self.finish is None:
            item = await self._next()
            if item.ids:
                self._made += len(item.ids)
                self._flight.produced(len(item.ids), self._gateway.clock.monotonic_us())
            self._text_sha256.update(item.text.encode())
            if item.final is not None:
                await self._end(item.final)
            elif self._booked < self._max_tokens and self._made >= self._booked - self._step // 4:
                await self._top_up()
            if item.text:
                yield item.text

    async def close(self) -> None:
        """End the request wherever it stands. Does nothing after its end."""
        if self._settling is None and self._stream is not None:
            self._stream.cancel()
        await self._settle(ErrorKind.CANCELLED.wire, self._received())

    async def _next(self) -> frames.StepItem:
        assert self._stream is not None  # noqa: S101 - submit() has returned
        try:
            async with asyncio.timeout_at(self._deadline + GRACE_S) as self._guard:
                return await self._stream.__anext__()
        except TimeoutError:
            self._stream.cancel()
            await self._settle(ErrorKind.TIMEOUT.wire, self._received())
            raise (self._refusal or too_late()) from None
        except PlugskyError as error:
            await self._settle(error.kind.wire, self._received())
            raise
        finally:
            self._guard = None

    def _cancel(self) -> None:
        """Tell the engine to stop, and wait for its count no longer than the grace."""
        assert self._stream is not None  # noqa: S101 - set before this is handed out
        self._flight.state = "ending"
        self._stream.cancel()
        now = asyncio.get_running_loop().time()
        self._deadline = min(self._deadline, now)
        if self._guard is not None and not self._guard.expired():
            self._guard.reschedule(self._deadline + GRACE_S)

    async def _top_up(self) -> None:
        more = min(self._step, self._max_tokens - self._booked)
        try:
            await self._gateway.accounts.top_up(self._flight.job, more)
        except PlugskyError as error:
            self._refusal = error
            self._booked = self._max_tokens
            self._cancel()
        else:
            self._booked += more

    async def _end(self, final: frames.Finish) -> None:
        error: PlugskyError | None = None
        if final.reason == "cancelled":
            error = self._refusal or self._flight.ended_early()
        elif final.reason == "deadline":
            error = too_late()
        await self._settle(error.kind.wire if error else final.reason, final.usage)
        if error is not None:
            raise error
        self.finish = final

    def _received(self) -> frames.Usage:
        """What arrived here: the count when the engine's own will not come. Nothing made, nothing billed."""
        if not self._made:
            return NOTHING
        return frames.Usage(prompt_tokens=self._flight.prompt_tokens, completion_tokens=self._made)

    async def _settle(self, outcome: str, usage: frames.Usage) -> None:
        """Settle once. A cancelled caller does not cancel it: the books are written in a task of their own."""
        if self._settling is None:
            self._flight.state = "ending"
            self._flight.on_cancel(None)
            self._flight.prompt_tokens = usage.prompt_tokens
            self._settling = asyncio.create_task(
                self._write(Outcome(outcome, usage, {"endpoint": self._ask.endpoint}, self._content()))
            )
        await asyncio.shield(self._settling)

    async def _write(self, outcome: Outcome) -> None:
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
        if self._stream is not None:
            self._stream.acknowledge()

    def _content(self) -> dict[str, bytes]:
        return {"request": self._ask.request_sha256, "answer": self._text_sha256.digest()}


def _fingerprint(hello: frames.EngineHello) -> str:
    """Names the build and the model file that answered: text is reproducible within one fingerprint at most."""
    return f"fp_{hashlib.sha256(f'{hello.build} {hello.digest}'.encode()).hexdigest()[:12]}"
