"""One answer of ``/v1/completions`` as it comes: text, behind its prompt where that is echoed, and log-probabilities.

Guarantee: the parts of a stream, joined, are the whole. A token that is no whole text is called by its bytes, as
OpenAI does: ``bytes:\\xe2\\x82``. The first token of a prompt has no log-probability.
"""

import codecs
from dataclasses import dataclass, field
from typing import Any

from plugsky.core import frames
from plugsky.server.prompt import Prompt


@dataclass
class Part:
    """A stretch of an answer: its text, and of each token the name, the log-probabilities and where it begins."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    token_logprobs: list[float | None] = field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] = field(default_factory=list)
    text_offset: list[int] = field(default_factory=list)

    def join(self, later: "Part") -> None:
        """Take in what comes next."""
        self.text += later.text
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            getattr(self, name).extend(getattr(later, name))

    def logprobs(self) -> dict[str, Any]:
        """The JSON of its log-probabilities."""
        return {name: getattr(self, name) for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")}


class Choice:
    """Feed it every item of its own, in their order. ``finish_reason`` is empty before the end."""

    def __init__(self, prompt: Prompt, prepared: frames.Prepared, *, echo: bool, logprobs: bool) -> None:
        self.whole = Part()
        self.finish_reason = ""
        self._logprobs = logprobs
        self._pieces = prepared.pieces
        self._echoed = _text(prompt, prepared) if echo else ""
        self._echoes = echo
        self._scores: list[frames.TokenLogprob] = []
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._sum, self._count = 0.0, 0

    @property
    def sureness(self) -> float:
        """The mean log-probability of the answer's tokens, where they were asked for."""
        return self._sum / self._count if self._count else 0.0

    def feed(self, item: frames.StepItem) -> Part:
        """What an item adds."""
        part = self._echo(item)
        for known in item.logprobs:
            self._sum, self._count = self._sum + known.logprob, self._count + 1
            if self._logprobs:
                self._add(part, known.piece, known)
        part.text += item.text
        if item.final is not None:
            self.finish_reason = "length" if item.final.reason == "length" else "stop"
        self.whole.join(part)
        return part

    def _echo(self, item: frames.StepItem) -> Part:
        """The prompt, once all is known of it."""
        self._scores += item.prompt_logprobs
        if not self._echoes or (self._logprobs and len(self._scores) < len(self._pieces) - 1):
            return Part()
        self._echoes = False
        part = Part(self._echoed)
        if self._logprobs:
            self._offset = len(self._echoed) - len(b"".join(self._pieces).decode(errors="replace"))
            for piece, known in zip(self._pieces, (None, *self._scores), strict=True):
                self._add(part, piece, known)
        self._offset = len(self._echoed)
        self._decoder.reset()
        return part

    def _add(self, part: Part, piece: bytes, known: frames.TokenLogprob | None) -> None:
        name = _name(piece)
        part.tokens.append(name)
        part.token_logprobs.append(known.logprob if known else None)
        rivals = {_name(rival): logprob for _token, rival, logprob in known.top} if known else {}
        part.top_logprobs.append({**rivals, name: known.logprob} if known else None)
        # Behind a token that a vocabulary puts before any text, the echoed text begins where that ends.
        part.text_offset.append(max(0, self._offset))
        self._offset += len(self._decoder.decode(piece))


def _text(prompt: Prompt, prepared: frames.Prepared) -> str:
    return prompt.text if prompt.text is not None else b"".join(prepared.pieces).decode(errors="replace")


def _name(piece: bytes) -> str:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
