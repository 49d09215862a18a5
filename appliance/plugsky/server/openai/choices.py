"""What a model says, as the parts of an OpenAI message: reasoning, content, calls of tools, log-probabilities.

Guarantee: the parts of a stream, joined, are those of the whole message.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from plugsky.core import frames
from plugsky.engine.prompting.families.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallBegin,
)
from plugsky.server.said import Said


@dataclass
class Message:
    """One message, as far as it has come."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, event: Event) -> dict[str, Any]:
        """Take in an event; what it adds, as the ``delta`` of a stream."""
        match event:
            case ContentDelta(text):
                self.content.append(text)
                return {"content": text}
            case ReasoningDelta(text):
                self.reasoning.append(text)
                return {"reasoning_content": text}
            case ToolCallBegin(index, call_id, name):
                call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}
                self.calls.append(copy.deepcopy(call))
                return {"tool_calls": [{"index": index, **call}]}
            case ToolArgumentsDelta(index, text):
                self.calls[index]["function"]["arguments"] += text
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}

    def shape(self) -> dict[str, Any]:
        """The whole message."""
        content = "".join(self.content)
        shape: dict[str, Any] = {
            "role": "assistant",
            "content": content if content or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            shape["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            shape["tool_calls"] = self.calls
        return shape


class Choice:
    """One of the answers to a request. Feed it every item of its own, in their order."""

    def __init__(self, said: Said, *, logprobs: bool) -> None:
        self.message = Message()
        self._said = said
        self._logprobs = logprobs

    @property
    def finish_reason(self) -> str:
        """Why it ended; empty before that."""
        return self._said.end

    def feed(self, item: frames.StepItem, events: Iterable[Event]) -> list[dict[str, Any]]:
        """The deltas that an item brings, perhaps none. With its final the reason of the end is known."""
        if self._logprobs:
            self.message.logprobs += map(logprob, item.logprobs)
        return [self.message.add(event) for event in events]


def logprob(known: frames.TokenLogprob) -> dict[str, Any]:
    """One token's log-probability and those of its rivals."""
    return {
        **_one(known.piece, known.logprob),
        "top_logprobs": [_one(piece, value) for _token, piece, value in known.top],
    }


def _one(piece: bytes, value: float) -> dict[str, Any]:
    return {"token": piece.decode(errors="replace"), "logprob": value, "bytes": list(piece)}
