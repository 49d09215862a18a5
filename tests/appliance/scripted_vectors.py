"""Engines of mode embed and rerank by script, beside the site's own.

A text has one token per word. Its vector is made of its first word's length; a pair's score is the number of words of
the document that the query has.
"""

import asyncio
import struct

from appliance.scripted_engine import ScriptedEngine
from plugsky.core import frames
from plugsky.engine.errors import context_exceeded

EMBED_DIGEST, RERANK_DIGEST = "ef" * 32, "0f" * 32


def vector_of(size):
    """A vector of four numbers and length 1: its first three alone are shorter."""
    length = (size * size + 9 + 16 + 144) ** 0.5
    return struct.pack("<4f", *(number / length for number in (size, 3, 4, 12)))


class ScriptedVectors(ScriptedEngine):
    """The engine of a model that makes vectors, or scores where ``scores`` is true. ``most`` ran side by side."""

    def __init__(self, *, scores=False):
        super().__init__()
        self.scores, self.now, self.most, self.guilty = scores, 0, 0, None
        self.script.digest = RERANK_DIGEST if scores else EMBED_DIGEST

    def _prepared(self, frame):
        if frame.tokens is not None:
            tokens = frame.tokens
        elif frame.pair is not None:
            query, document = (text.split() for text in frame.pair)
            tokens = (sum(word in query for word in document), *range(len(query) + len(document)))
        else:
            tokens = tuple(map(len, frame.text.split()))
        if len(tokens) > self.script.n_ctx:
            error = context_exceeded(len(tokens), self.script.n_ctx)
            return frames.Failed(frame.rid, error.kind.wire, error.what, "input", error.n_prompt, error.n_ctx)
        return frames.Prepared(frame.rid, tokens, 0)

    async def _answer(self, writer, submit):
        self.now += 1
        self.most = max(self.most, self.now)
        reason = "stop"
        try:
            await asyncio.sleep(0)
            if self.script.hold_after is not None and self.submits.index(submit) >= self.script.hold_after:
                await self.release.wait()
        except asyncio.CancelledError:
            reason = "cancelled"
        self.now -= 1
        if submit.tokens[0] == self.guilty:
            self._say(writer, frames.Failed(submit.rid, "internal", "the embedding of this text has no direction"))
            return
        usage = frames.Usage(len(submit.tokens), 0, engine_us=10 * (reason == "stop"))
        first = submit.tokens[0]
        made = {"score": float(first)} if self.scores else {"embedding": vector_of(first)}
        final = frames.Finish(reason, usage, **(made if reason == "stop" else {}))
        self._say(writer, frames.Step(1, 1000, (frames.StepItem(submit.rid, final=final),)))
