"""An engine by script: it speaks the real frames over a real Unix socket, and says what a test tells it to say.

A prompt has one token per word of its messages. An answer is one step per piece, each one token. The script can hold
an answer after some pieces, die in the middle (and be another instance to the next peer), refuse, or load for ever.
"""

import asyncio
from dataclasses import dataclass, field

from plugsky.core import frames
from plugsky.engine.errors import context_exceeded

DIGEST = "ab" * 32


@dataclass
class Script:
    """What the engine does; tests change it as they go."""

    pieces: tuple[str, ...] = ("The ", "sea ", "is ", "wide.")
    reason: frames.FinishReason = "stop"
    n_ctx: int = 128
    digest: str = DIGEST
    hold_after: int | None = None
    die_after: int | None = None
    deaths: int = 1_000_000
    cut_only: bool = False
    silent_after: int | None = None
    refuse_prepare: frames.Failed | None = None
    refuse_submit: frames.Failed | None = None
    loading: bool = False
    accepts: bool = True
    cached: int = 0


@dataclass
class ScriptedEngine:
    """The listening side. What it was asked is kept for tests to look at."""

    script: Script = field(default_factory=Script)
    prepares: list[frames.Prepare] = field(default_factory=list)
    submits: list[frames.Submit] = field(default_factory=list)
    cancels: int = 0
    acknowledged: list[str] = field(default_factory=list)
    connections: int = 0
    instance: int = 1
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path=path)
        self._writers = set()
        self._retired = set()
        self._tasks = set()
        self._running = {}

    async def close(self):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        buffer = frames.to_engine_buffer()
        try:
            while data := await reader.read(1 << 16):
                for frame in buffer.feed(data):
                    self._take(writer, frame)
        except ConnectionError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _take(self, writer, frame):
        script = self.script
        if isinstance(frame, frames.ClientHello):
            if script.loading:
                self._say(writer, frames.Loading(fraction=0.5))
            else:
                instance = f"i{self.instance}"
                self._say(writer, frames.EngineHello(frames.PROTOCOL, instance, "b1", script.digest, script.n_ctx))
        elif isinstance(frame, frames.Prepare | frames.Submit) and writer in self._retired:
            self._say(writer, frames.Failed(frame.rid, "loading", "the engine is being stopped"))
        elif isinstance(frame, frames.Prepare):
            self.prepares.append(frame)
            self._say(writer, self._prepared(frame))
        elif isinstance(frame, frames.Submit):
            self.submits.append(frame)
            if script.refuse_submit is not None:
                refused = script.refuse_submit
                self._say(writer, frames.Failed(frame.rid, refused.kind, refused.what, refused.param))
                return
            if not script.accepts:
                return
            self._say(writer, frames.Accepted(frame.rid, script.cached))
            task = asyncio.ensure_future(self._answer(writer, frame))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._running[frame.rid] = task
        elif isinstance(frame, frames.Cancel):
            self.cancels += 1
            task = self._running.get(frame.rid)
            if task is not None:
                task.cancel()
        elif isinstance(frame, frames.AckFinal):
            self.acknowledged.extend(frame.jobs)

    def _prepared(self, frame):
        script = self.script
        tokens = tuple(range(sum(len(message.content.split()) for message in frame.messages)))
        wanted = len(tokens) + (frame.max_tokens or 1)
        if script.refuse_prepare is not None:
            refused = script.refuse_prepare
            return frames.Failed(frame.rid, refused.kind, refused.what, refused.param)
        if wanted > script.n_ctx:
            error = context_exceeded(len(tokens), script.n_ctx, frame.max_tokens)
            return frames.Failed(frame.rid, error.kind.wire, error.what, error.param, error.n_prompt, error.n_ctx)
        return frames.Prepared(frame.rid, tokens, script.n_ctx - len(tokens))

    async def _answer(self, writer, submit):
        made = len(submit.resume_tokens)
        reason = self.script.reason
        pieces = self.script.pieces[: submit.max_tokens]
        if len(pieces) == submit.max_tokens < len(self.script.pieces):
            reason = "length"
        try:
            for number, piece in list(enumerate(pieces))[made:]:
                if self.script.die_after == number and self.script.deaths:
                    self._die()
                    return
                if self.script.silent_after == number:
                    return
                if self.script.hold_after == number:
                    await self.release.wait()
                made += 1
                item = frames.StepItem(submit.rid, ids=(number,), text=piece)
                self._say(writer, frames.Step(number, 1000, (item,)))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            reason = "cancelled"
        usage = frames.Usage(len(submit.tokens), made, cached_tokens=self.script.cached, engine_us=made * 1000)
        self._say(writer, frames.Step(made, 1000, (frames.StepItem(submit.rid, final=frames.Finish(reason, usage)),)))

    def _die(self):
        self.script.deaths -= 1
        self.instance += not self.script.cut_only
        for writer in list(self._writers):
            writer.close()

    def retire(self):
        """Tell all peers; what they ask on these connections from now on is refused."""
        self._retired |= self._writers
        for writer in list(self._writers):
            self._say(writer, frames.Retiring())

    def _say(self, writer, frame):
        if not writer.is_closing():
            writer.write(frames.encode(frame))
