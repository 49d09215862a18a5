"""The asyncio peer of one engine: what the gateway and the supervisor hold to talk to it over its Unix socket.

One :class:`EngineClient` is one connection. :meth:`~EngineClient.connect` waits for the engine's ``hello`` and may be
called again after a loss; calls made meanwhile share one attempt. What is in flight when the connection ends fails with
``engine_lost``, each request for itself; a request with a :class:`Keeper` does not, and can be carried on by another
connection from the token it came to (:mod:`plugsky.engine.clients.line`). A request's ``final`` is kept by the engine
until :meth:`Running.acknowledge`, so a peer acknowledges only after it has settled the usage.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from plugsky.core import frames
from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.running import Keeper, Running
from plugsky.engine.errors import DoesNotFitError, EngineError

__all__ = ["EngineClient", "EngineError", "Keeper", "Running"]

_READ: Final = 1 << 16
_RETRY_S: Final = 2.0
"""When to try again what an engine refused for now; it does not measure how long that will last."""
ReplyT = TypeVar("ReplyT")


class EngineClient:
    """One connection to the engine that listens at ``socket_path``. Use it from one event loop."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.retiring = False
        """Whether the engine has said that it accepts nothing more."""
        self.on_change: Callable[[], None] | None = None
        """Called when the engine has said that it retires, and when the connection that stood has ended."""
        self.loading: float | None = None
        """The fraction of the model read so far, while :meth:`connect` waits for it; else None."""
        self._hello: frames.EngineHello | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader_task: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._next_rid = 1
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._running: dict[int, Running] = {}

    @property
    def hello(self) -> frames.EngineHello:
        """What the engine said of itself. Raises ``engine_lost`` when not connected."""
        if self._hello is None:
            raise EngineError(ErrorKind.ENGINE_LOST, "no engine is connected", why=str(self.socket_path))
        return self._hello

    @property
    def connected(self) -> bool:
        """Whether the engine's ``hello`` came and the connection still stands."""
        return self._hello is not None

    async def connect(self, timeout: float) -> frames.EngineHello:  # noqa: ASYNC109 - it names how far loading came
        """Wait up to ``timeout`` seconds for the engine's ``hello``; at once when already connected.

        Raises :class:`EngineError`: ``loading`` when the model is not in memory in time, ``overloaded`` when it does
        not fit (with both numbers), the engine's own error when the load failed, ``unreachable`` when nothing listens.
        """
        async with self._connecting:
            if self._hello is not None:
                return self._hello
            await self.close()
            try:
                async with asyncio.timeout(timeout):
                    return await self._open()
            except TimeoutError:
                await self.close()
                seen = f"{self.loading:.0%} of the model is read" if self.loading is not None else "it has not answered"
                raise EngineError(
                    ErrorKind.LOADING, "the model is still being loaded", why=seen, retry_after=max(1.0, timeout / 4)
                ) from None
            finally:
                self.loading = None

    async def prepare(
        self,
        *,
        tenant: str,
        messages: tuple[frames.Message, ...] | None = None,
        text: str | None = None,
        tokens: tuple[int, ...] | None = None,
        max_tokens: int | None = None,
        adapter: str = "",
        pair: tuple[str, str] | None = None,
        grammar: str = "",
        json_schema: str = "",
        tools: tuple[frames.Tool, ...] = (),
        tool_choice: frames.ToolChoice = "auto",
        tool_name: str = "",
        parallel_tool_calls: bool = True,
        thinking: bool | None = None,
        reasoning_effort: frames.Effort = "",
        images: tuple[bytes, ...] = (),
        suffix: str | None = None,
        framed: bool = True,
        shown: bool = False,
    ) -> frames.Prepared:
        """Render, tokenise and check one prompt; exactly one of ``messages``, ``text``, ``tokens``, ``pair``.

        The rest is as :class:`~plugsky.core.frames.Prepare` says. Raises :class:`EngineError`; for ``context_exceeded``
        with both numbers.
        """
        return await self._ask(
            lambda rid: frames.Prepare(
                rid=rid,
                tenant=tenant,
                adapter=adapter,
                messages=messages,
                text=text,
                tokens=tokens,
                max_tokens=max_tokens,
                pair=pair,
                grammar=grammar,
                json_schema=json_schema,
                tools=tools,
                tool_choice=tool_choice,
                tool_name=tool_name,
                parallel_tool_calls=parallel_tool_calls,
                thinking=thinking,
                reasoning_effort=reasoning_effort,
                images=images,
                suffix=suffix,
                framed=framed,
                shown=shown,
            ),
            frames.Prepared,
        )

    def submit(
        self,
        *,
        job: str,
        tenant: str,
        tokens: tuple[int, ...],
        params: frames.Params,
        max_tokens: int,
        service_class: frames.ServiceClass = "standard",
        weight: int = 1,
        resume_tokens: tuple[int, ...] = (),
        deadline_us: int | None = None,
        scored: int = 0,
        adapter: str = "",
    ) -> Running:
        """Run prepared ``tokens``. ``max_tokens`` counts ``resume_tokens`` too; ``deadline_us`` runs from receipt.

        ``scored`` counts the log-probabilities of the prompt that the caller has already.
        """
        running = Running(
            frames.Submit(
                rid=0,
                job=job,
                tenant=tenant,
                tokens=tokens,
                params=params,
                max_tokens=max_tokens,
                service_class=service_class,
                weight=weight,
                resume_tokens=resume_tokens,
                deadline_us=deadline_us,
                scored=scored,
                adapter=adapter,
            )
        )
        self.carry(running)
        return running

    def carry(self, running: Running) -> None:
        """Send a request to this engine, from the token it has come to. Raises when nothing is connected."""
        rid = self._take_rid()
        self._send(running.carried_by(self._send_if_connected, rid))
        self._running[rid] = running

    async def stats(self) -> frames.StatsReply:
        """How the engine stands now."""
        return await self._ask(lambda rid: frames.Stats(rid=rid), frames.StatsReply)

    async def canary(self) -> frames.CanaryReply:
        """Have a known text read alone and among neighbours, now. Raises :class:`EngineError`."""
        return await self._ask(lambda rid: frames.Canary(rid=rid), frames.CanaryReply)

    async def pin(self, name: str, tokens: tuple[int, ...], adapter: str = "") -> frames.Pinned:
        """Have ``tokens`` computed and kept for every tenant until :meth:`unpin`, or until the engine ends.

        For an administrator only. Raises :class:`EngineError`, ``too_large`` with the numbers when there is no room.
        """
        return await self._ask(
            lambda rid: frames.Pin(rid=rid, name=name, tokens=tokens, adapter=adapter), frames.Pinned
        )

    async def unpin(self, name: str) -> frames.Pinned:
        """Give back what is pinned under ``name``. Raises :class:`EngineError`."""
        return await self._ask(lambda rid: frames.Unpin(rid=rid, name=name), frames.Pinned)

    def threads(self, n: int) -> None:
        """Give the engine ``n`` cores from its next step on."""
        self._send(frames.Threads(n=n))

    def drain(self) -> None:
        """Ask the engine to finish what runs and to accept nothing more."""
        self._send(frames.Drain())

    def turns_away(self, error: EngineError) -> bool:
        """Whether ``error`` is no verdict on a request: the engine retires, and the next one may take it."""
        return self.retiring and error.kind is ErrorKind.LOADING

    async def close(self) -> None:
        """End the connection; requests in flight fail with ``engine_lost`` and the engine cancels them."""
        task, self._reader_task = self._reader_task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._lose("the connection was closed")

    async def _open(self) -> frames.EngineHello:
        try:
            reader, self._writer = await asyncio.open_unix_connection(self.socket_path)
        except OSError as error:
            raise EngineError(
                ErrorKind.UNREACHABLE, "no engine listens for this model", why=f"{self.socket_path}: {error.strerror}"
            ) from error
        buffer = frames.from_engine_buffer()
        self._send(frames.ClientHello())
        try:
            while data := await reader.read(_READ):
                for frame in buffer.feed(data):
                    if isinstance(frame, frames.EngineHello):
                        return self._greet(frame, reader, buffer)
                    self._before_hello(frame)
        except (OSError, frames.FrameError) as error:
            self._lose("its first frames cannot be read")
            raise EngineError(
                ErrorKind.ENGINE_LOST, "the engine's first frames cannot be read", why=str(error)
            ) from error
        except EngineError:
            self._lose("it refused")
            raise
        self._lose("it closed the connection")
        raise EngineError(ErrorKind.ENGINE_LOST, "the engine ended before its model was loaded")

    def _greet(
        self, hello: frames.EngineHello, reader: asyncio.StreamReader, buffer: frames.FrameBuffer[frames.FromEngine]
    ) -> frames.EngineHello:
        if hello.proto != frames.PROTOCOL:
            raise EngineError(
                ErrorKind.INTERNAL, f"the engine speaks protocol {hello.proto}, this process {frames.PROTOCOL}"
            )
        self._hello, self.retiring = hello, False
        self._reader_task = asyncio.create_task(self._read(reader, buffer), name=f"engine {self.socket_path.stem}")
        return hello

    def _before_hello(self, frame: frames.FromEngine) -> None:
        if isinstance(frame, frames.Loading):
            self.loading = frame.fraction
        elif isinstance(frame, frames.Refused):
            raise DoesNotFitError(frame.need, frame.have)
        elif isinstance(frame, frames.Failed):
            raise _error(frame)
        elif isinstance(frame, frames.Retiring):
            raise _lost("it retires, and the next one will listen in its place")

    async def _read(self, reader: asyncio.StreamReader, buffer: frames.FrameBuffer[frames.FromEngine]) -> None:
        reason = "it closed the connection"
        try:
            for frame in buffer.feed(b""):
                self._dispatch(frame)
            while data := await reader.read(_READ):
                for frame in buffer.feed(data):
                    self._dispatch(frame)
        except (OSError, frames.FrameError) as error:
            reason = str(error)
        self._lose(reason)

    def _dispatch(self, frame: frames.FromEngine) -> None:
        if isinstance(frame, frames.Step):
            for item in frame.items:
                running = self._running.get(item.rid)
                if running is not None:
                    if item.final is not None:
                        del self._running[item.rid]
                    running.put(item)
        elif isinstance(frame, frames.Accepted):
            if frame.rid in self._running:
                self._running[frame.rid].was_accepted(frame)
        elif isinstance(frame, frames.Answering):
            self._resolve(frame.rid, frame)
        elif isinstance(frame, frames.Failed):
            error = _error(frame)
            running = self._running.pop(frame.rid, None)
            if running is None:
                self._resolve(frame.rid, error)
            elif self.turns_away(error):
                running.turn_away(error)
            else:
                running.refuse(error)
        elif isinstance(frame, frames.Retiring):
            self.retiring = True
            if self.on_change is not None:
                self.on_change()

    def _resolve(self, rid: int, outcome: frames.Answering | EngineError) -> None:
        waiting = self._replies.pop(rid, None)
        if waiting is None or waiting.done():
            return
        if isinstance(outcome, EngineError):
            waiting.set_exception(outcome)
        else:
            waiting.set_result(outcome)

    async def _ask(self, make: Callable[[int], frames.ToEngine], _reply: type[ReplyT]) -> ReplyT:
        rid = self._take_rid()
        waiting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[rid] = waiting
        try:
            self._send(make(rid))
            return cast("ReplyT", await waiting)
        finally:
            self._replies.pop(rid, None)

    def _take_rid(self) -> int:
        rid = self._next_rid
        self._next_rid += 1
        return rid

    def _send(self, frame: frames.ToEngine) -> None:
        if self._writer is None:
            raise EngineError(ErrorKind.ENGINE_LOST, "no engine is connected", why=str(self.socket_path))
        try:
            self._writer.write(frames.encode(frame))
        except frames.FrameError as error:
            raise EngineError(ErrorKind.TOO_LARGE, "the request does not fit into one frame", why=str(error)) from error
        except UnicodeEncodeError as error:
            raise EngineError(ErrorKind.BAD_REQUEST, "the text holds half of a surrogate pair") from error

    def _send_if_connected(self, frame: frames.ToEngine) -> None:
        if self._writer is not None:
            self._send(frame)

    def _lose(self, reason: str) -> None:
        stood, self._hello = self._hello is not None, None
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
        runnings, self._running = self._running, {}
        replies, self._replies = self._replies, {}
        for running in runnings.values():
            running.lose(_lost(reason))
        for waiting in replies.values():
            if not waiting.done():
                waiting.set_exception(_lost(reason))
        if stood and self.on_change is not None:
            self.on_change()


def _lost(reason: str) -> EngineError:
    return EngineError(ErrorKind.ENGINE_LOST, "the engine was lost", why=reason, retry_after=1.0)


def _error(frame: frames.Failed) -> EngineError:
    kind = ErrorKind.from_wire(frame.kind)
    return EngineError(
        kind,
        frame.what,
        param=frame.param,
        retry_after=_RETRY_S if kind.value.retryable else None,
        n_prompt=frame.n_prompt,
        n_ctx=frame.n_ctx,
    )
