"""The gateway's line to one engine: it holds the requests, so they outlive an engine that crashes under them.

Guarantees, in order:

1. A request that was with an engine when the connection ended is carried on by the next one from the token it had come
   to: its answer has no gap and no token twice, and its usage is counted once, by the engine that ends it.
2. After a crash the order is that of :mod:`plugsky.engine.clients.suspects`; a prompt found guilty fails with
   ``internal`` and is refused until its quarantine (:mod:`plugsky.engine.clients.quarantine`) ends.
3. Preparing a prompt is a request like any other here: it can kill the engine too. An engine that does not know the
   images of a request, which another one prepared, is given its prompt to prepare, once, before it is asked again.
4. What waits is bounded: beyond :data:`MAX_WAITING` a request is refused as ``overloaded``.
5. An engine that retires keeps its answers to their end; then the connection is closed, so that it may end. What it did
   not take, and what comes after, waits for the next engine.
6. Only a request connects: of an engine that ended while nobody wanted anything, the next is not called.
7. When no engine comes back, every request fails with the reason.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from plugsky.core import frames
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.clients.client import EngineClient, Running
from plugsky.engine.clients.quarantine import Quarantine
from plugsky.engine.clients.suspects import Orders, Suspects
from plugsky.engine.errors import EngineError

MAX_WAITING: Final = 256
"""Requests that may wait here while it is found out which of them killed the engine."""


@dataclass(slots=True, eq=False)
class _Asking:
    """A prompt to be prepared. ``turn`` is done when it may be sent."""

    turn: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Prompt:
    """What a request's tokens were prepared from, and by which engine they were last prepared again."""

    fields: Mapping[str, Any]
    again_by: EngineClient | None = None


class EngineLine:
    """A line that begins with the connected ``client``; ``reconnect`` gives the next connection, or says why not."""

    def __init__(
        self, client: EngineClient, reconnect: Callable[[], Awaitable[EngineClient]], quarantine: Quarantine
    ) -> None:
        self._client = client
        self._hello = client.hello
        self._reconnect = reconnect
        self._quarantine = quarantine
        self._loop = asyncio.get_running_loop()
        self._suspects = Suspects()
        self._requests: dict[int, Running | _Asking] = {}
        self._numbers: dict[Running, int] = {}
        self._digests: dict[int, bytes] = {}
        self._prompts: dict[int, _Prompt] = {}
        self._preparing: set[asyncio.Task[None]] = set()
        self._next = 1
        self._over = False
        self._coming: asyncio.Future[None] | None = None
        self._recovering: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        client.on_change = self._changed

    @property
    def hello(self) -> frames.EngineHello:
        """What the engine said of itself, the last one while there is none."""
        return self._hello

    @property
    def connected(self) -> bool:
        """Whether an engine is there now that takes requests."""
        return self._client.connected and not self._client.retiring

    @property
    def over(self) -> bool:
        """Whether this line takes no more requests: it was closed, or no engine came back."""
        return self._over

    async def back(self) -> None:
        """Wait for an engine that takes requests. Raises :class:`PlugskyError`, why none comes."""
        if self._over:
            raise _lost("no engine is connected")
        if not self.connected:
            if self._coming is None:
                self._coming = self._loop.create_future()
            self._recover_if_wanted()
            await asyncio.shield(self._coming)

    async def prepare(self, *, tenant: str, **prompt: Any) -> frames.Prepared:
        """As :meth:`EngineClient.prepare`, for as many engines as it takes."""
        number = self._admit(tenant, msgspec.msgpack.encode(prompt, order="deterministic"))
        asking = self._requests[number] = _Asking(self._loop.create_future())
        try:
            self._carry_out(self._suspects.begin(number))
            self._recover_if_wanted()
            while True:
                await asking.turn
                client = self._client
                try:
                    return await client.prepare(tenant=tenant, **prompt)
                except EngineError as error:
                    if self._over or (client.connected and not client.turns_away(error)):
                        raise
                    if client.connected:
                        asking.turn = self._loop.create_future()
                        self._turned_away(number)
        finally:
            self._forget(number)

    def submit(self, *, prompt: Mapping[str, Any] | None = None, **request: Any) -> Running:
        """As :meth:`EngineClient.submit`; what it returns goes on after a crash.

        ``prompt`` is what was prepared. Without it a request with images fails with ``conflict`` where they are lost.
        """
        running = Running(frames.Submit(rid=0, **request), self)
        identity = msgspec.msgpack.encode((running.submit.tokens, running.submit.adapter))
        number = self._admit(running.submit.tenant, identity)
        self._requests[number] = running
        if prompt is not None:
            self._prompts[number] = _Prompt(prompt)
        self._numbers[running] = number
        self._carry_out(self._suspects.begin(number))
        self._recover_if_wanted()
        return running

    async def close(self) -> None:
        """End the connection; what is in flight fails with ``engine_lost`` and the engine cancels it."""
        self._over = True
        if self._recovering is not None:
            self._recovering.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._recovering
        await self._client.close()
        self._end(_lost("the connection was closed"))
        if self._closing is not None:
            await self._closing

    # -- what the requests tell --------------------------------------------------------------------------------------

    def progressed(self, running: Running, tokens: int) -> None:
        """A request brought tokens."""
        self._carry_out(self._suspects.progressed(self._numbers[running], tokens))

    def turned_away(self, running: Running) -> None:
        """A request was sent when the engine had retired."""
        self._turned_away(self._numbers[running])

    def refused(self, running: Running, error: EngineError) -> bool:
        """A request was failed: whether that was for the want of images, which are prepared again."""
        number = self._numbers[running]
        prompt = self._prompts.get(number)
        wants_images = error.kind is ErrorKind.CONFLICT and error.param == "tokens"
        if prompt is None or not wants_images or prompt.again_by is self._client:
            return False
        prompt.again_by = self._client
        task = self._loop.create_task(self._prepare_again(number, running, prompt.fields))
        self._preparing.add(task)
        task.add_done_callback(self._preparing.discard)
        return True

    def ended(self, running: Running) -> None:
        """A request is over."""
        self._forget(self._numbers.pop(running))

    # -- what the connection tells -----------------------------------------------------------------------------------

    def _changed(self) -> None:
        self._suspects.disconnected()
        if self._client.connected:
            self._close_if_retired()
        elif not self._over:
            for number in self._suspects.sent:
                request = self._requests[number]
                if isinstance(request, _Asking):
                    request.turn = self._loop.create_future()
            self._recover_if_wanted()

    def _recover_if_wanted(self) -> None:
        wanted = bool(self._requests) or self._coming is not None
        if wanted and not self._client.connected and self._recovering is None:
            self._recovering = self._loop.create_task(self._recover(self._client))

    async def _recover(self, former: EngineClient) -> None:
        try:
            client = await self._reconnect()
        except PlugskyError as error:
            self._end(error)
            return
        finally:
            self._recovering = None
        crashed = client.hello.instance != self._hello.instance and not former.retiring
        self._client, self._hello = client, client.hello
        client.on_change = self._changed
        self._closing = None
        self._carry_out(self._suspects.reconnected(crashed=crashed))
        if self._coming is not None:
            self._coming.set_result(None)
            self._coming = None

    def _turned_away(self, number: int) -> None:
        self._suspects.turned_away(number)
        self._close_if_retired()

    def _close_if_retired(self) -> None:
        client = self._client
        if client.connected and client.retiring and not self._suspects.sent and self._closing is None:
            self._closing = self._loop.create_task(client.close())

    async def _prepare_again(self, number: int, running: Running, prompt: Mapping[str, Any]) -> None:
        client, problem = self._client, None
        try:
            prepared = await client.prepare(tenant=running.submit.tenant, **prompt)
            if prepared.tokens != running.submit.tokens:
                problem = _reads_otherwise()
        except EngineError as error:
            problem = error
        if number not in self._requests or not client.connected:
            return  # it is wanted no longer, or the next engine is asked
        if problem is None:
            self._carry(running)
        elif client.turns_away(problem):
            self._turned_away(number)
        else:
            running.fail(problem)

    # -- requests ----------------------------------------------------------------------------------------------------

    def _admit(self, tenant: str, prompt: bytes) -> int:
        if self._over:
            raise _lost("no engine is connected")
        if self._suspects.waiting >= MAX_WAITING:
            raise EngineError(
                ErrorKind.OVERLOADED, f"{MAX_WAITING} requests wait for the engine to recover", retry_after=5.0
            )
        digest = self._quarantine.digest(tenant, prompt)
        left_s = self._quarantine.left_s(digest, self._loop.time())
        if left_s is not None:
            raise _quarantined(left_s)
        number = self._next
        self._next += 1
        self._digests[number] = digest
        return number

    def _carry_out(self, orders: Orders) -> None:
        for number, blame in orders.fail:
            error = _lost("it was lost again and again while it ran this request")
            if blame == "guilty":
                now = self._loop.time()
                self._quarantine.add(self._digests[number], now)
                error = _quarantined(self._quarantine.left_s(self._digests[number], now) or 0.0)
            self._fail(number, error)
        for number in orders.send:
            request = self._requests.get(number)
            if isinstance(request, _Asking):
                request.turn.set_result(None)
            elif request is not None:
                self._carry(request)

    def _carry(self, running: Running) -> None:
        try:
            self._client.carry(running)
        except EngineError as error:
            running.fail(error)

    def _fail(self, number: int, error: PlugskyError) -> None:
        request = self._requests[number]
        if isinstance(request, Running):
            request.fail(error)
        elif not request.turn.done():
            request.turn.set_exception(error)

    def _end(self, error: PlugskyError) -> None:
        self._over = True
        for number in list(self._requests):
            self._fail(number, error)
        if self._coming is not None:
            self._coming.set_exception(error)
            self._coming.exception()  # marks it as seen: whoever waited may have left
            self._coming = None

    def _forget(self, number: int) -> None:
        del self._requests[number], self._digests[number]
        self._prompts.pop(number, None)
        self._carry_out(self._suspects.ended(number))
        self._close_if_retired()


def _lost(why: str) -> EngineError:
    return EngineError(ErrorKind.ENGINE_LOST, "the engine was lost", why=why, retry_after=1.0)


def _reads_otherwise() -> EngineError:
    return EngineError(
        ErrorKind.CONFLICT,
        "another version of the engine reads this prompt in another way",
        next="send the request again",
        param="tokens",
    )


def _quarantined(left_s: float) -> EngineError:
    return EngineError(
        ErrorKind.INTERNAL,
        "This prompt ended the model's engine twice while nothing else ran",
        why=f"it is not run again for {max(1, round(left_s / 60))} min, so that other requests are served",
    )
