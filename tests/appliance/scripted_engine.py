"""An engine by script: it speaks the real frames over a real Unix socket, and says what a test tells it to say.

A prompt has one token per word of its messages. An answer is one step per piece, each one token. The script can hold
an answer after some pieces, die in the middle (and be another instance to the next peer), refuse, or load for ever.
"""

import asyncio
import re
from dataclasses import dataclass, field

from plugsky.core import frames
from plugsky.engine.errors import context_exceeded

DIGEST = "ab" * 32

IMAGE_TOKENS = 4
"""What each image of a prompt takes."""


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
    family: str = ""
    thinking: bool = False
    sureness: tuple[float, ...] = (-0.5,)
    """The log-probability of every token of a job, by the job's number, around."""
    keeps_images: bool | None = None
    """Whether a submit is taken: only after its images were prepared by this instance, never, or without a question."""
    silent_prepare: bool = False
    refuse_pin: frames.Failed | None = None
    die_of_pin: str = ""
    """The name of a pin that ends the engine."""
    stop: str = ""
    caps: tuple[str, ...] = ()
    turns: list[tuple[str, ...]] = field(default_factory=list)
    """What the next answers say, each instead of ``pieces``."""


@dataclass
class ScriptedEngine:
    """The listening side. What it was asked is kept for tests to look at."""

    script: Script = field(default_factory=Script)
    prepares: list[frames.Prepare] = field(default_factory=list)
    submits: list[frames.Submit] = field(default_factory=list)
    pins: list[frames.Pin] = field(default_factory=list)
    cancels: int = 0
    acknowledged: list[str] = field(default_factory=list)
    connections: int = 0
    instance: int = 1
    images_of: int = -1
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
                self._say(
                    writer,
                    frames.EngineHello(frames.PROTOCOL, instance, "b1", script.digest, script.n_ctx, script.caps),
                )
        elif isinstance(frame, frames.Prepare | frames.Submit) and writer in self._retired:
            self._say(writer, frames.Failed(frame.rid, "loading", "the engine is being stopped"))
        elif isinstance(frame, frames.Prepare):
            self.prepares.append(frame)
            if not script.silent_prepare:
                self._say(writer, self._prepared(frame))
        elif isinstance(frame, frames.Submit):
            self.submits.append(frame)
            if script.keeps_images is not None and self.images_of != (self.instance if script.keeps_images else 0):
                self._say(writer, frames.Failed(frame.rid, "conflict", "an image is not kept here", "tokens"))
                return
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
        elif isinstance(frame, frames.Pin):
            self.pins.append(frame)
            refused = script.refuse_pin
            if frame.name == script.die_of_pin:
                self.die()
            elif refused is not None:
                self._say(writer, frames.Failed(frame.rid, refused.kind, refused.what, refused.param))
            else:
                self._say(writer, frames.Pinned(frame.rid, len(frame.tokens)))
        elif isinstance(frame, frames.Unpin):
            self._say(writer, frames.Failed(frame.rid, "not_found", "nothing is pinned under this name"))
        elif isinstance(frame, frames.Cancel):
            self.cancels += 1
            task = self._running.get(frame.rid)
            if task is not None:
                task.cancel()
        elif isinstance(frame, frames.AckFinal):
            self.acknowledged.extend(frame.jobs)

    def _prepared(self, frame):
        script = self.script
        pieces = ()
        if frame.tokens is not None:
            tokens = frame.tokens
            pieces = tuple(b"<%d>" % token for token in tokens) if frame.shown else ()
        elif frame.text is not None:
            words = re.findall(r"\s*\S+|\s+$", frame.text + (frame.suffix or ""))
            tokens = tuple(range(len(words)))
            pieces = tuple(word.encode() for word in words) if frame.shown else ()
        else:
            tokens = tuple(range(sum(map(_words, frame.messages))))
        if frame.images:
            self.images_of = self.instance
            tokens += tuple(range(-1, -1 - IMAGE_TOKENS * len(frame.images), -1))
        wanted = len(tokens) + (frame.max_tokens or 1)
        if script.refuse_prepare is not None:
            refused = script.refuse_prepare
            return frames.Failed(frame.rid, refused.kind, refused.what, refused.param)
        if wanted > script.n_ctx:
            error = context_exceeded(len(tokens), script.n_ctx, frame.max_tokens)
            return frames.Failed(frame.rid, error.kind.wire, error.what, error.param, error.n_prompt, error.n_ctx)
        grammar = frame.grammar or frame.json_schema
        room = script.n_ctx - len(tokens)
        family = script.family if frame.messages is not None else ""
        text = "".join(str(message.content) for message in frame.messages or ()) if frame.shown else ""
        thinking = script.thinking and frame.messages is not None
        return frames.Prepared(
            frame.rid, tokens, room, grammar=grammar, family=family, thinking=thinking, text=text, pieces=pieces
        )

    async def _answer(self, writer, submit):
        made = len(submit.resume_tokens)
        reason = self.script.reason
        said = self.script.turns.pop(0) if self.script.turns else self.script.pieces
        pieces = said[: submit.max_tokens]
        if len(pieces) == submit.max_tokens < len(said):
            reason = "length"
        try:
            if submit.params.prompt_logprobs is not None:
                known = tuple(frames.TokenLogprob(-1.5 - n, ((n, b"rival", -1.0),)) for n in submit.tokens[1:])
                for one in known:  # an engine tells of them in chunks
                    item = frames.StepItem(submit.rid, prompt_logprobs=(one,))
                    self._say(writer, frames.Step(0, 1000, (item,)))
            for number, piece in list(enumerate(pieces))[made:]:
                if self.script.die_after == number and self.script.deaths:
                    self.die()
                    return
                if self.script.silent_after == number:
                    return
                if self.script.hold_after == number:
                    await self.release.wait()
                made += 1
                known = ()
                if submit.params.top_logprobs is not None:
                    rivals = tuple((rival, b"rival", -2.0) for rival in range(submit.params.top_logprobs))
                    number_of = int(submit.job.partition(".")[2] or 0)
                    sureness = self.script.sureness[number_of % len(self.script.sureness)]
                    known = (frames.TokenLogprob(sureness, rivals, piece.encode()),)
                item = frames.StepItem(submit.rid, ids=(number,), text=piece, logprobs=known)
                self._say(writer, frames.Step(number, 1000, (item,)))
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            reason = "cancelled"
        usage = frames.Usage(len(submit.tokens), made, cached_tokens=self.script.cached, engine_us=made * 1000)
        finish = frames.Finish(reason, usage, stop=self.script.stop)
        self._say(writer, frames.Step(made, 1000, (frames.StepItem(submit.rid, final=finish),)))

    def die(self):
        """End every connection, and be another instance to the next peer."""
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


def _words(message):
    parts = (message.content,) if isinstance(message.content, str) else message.content
    return sum(len(part.split()) if isinstance(part, str) else 1 for part in parts)
