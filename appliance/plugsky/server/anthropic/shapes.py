"""What a model says, as the content blocks of an Anthropic message and the events of its stream.

Guarantee: the parts of a stream, joined, are the blocks of the whole message. A call that the token limit cut has the
input ``{}`` in a whole message: its JSON is none, and ``stop_reason`` says that it is not to be used.
"""

from typing import Any

import msgspec

from plugsky.core import frames
from plugsky.engine.prompting.families.events import ContentDelta, Event, ReasoningDelta, ToolCallBegin
from plugsky.engine.prompting.families.json_scan import is_object
from plugsky.server.anthropic.fields import MessagesRequest
from plugsky.server.said import Said
from plugsky.server.settlement import News

Shape = dict[str, Any]
_TEXT: dict[str, tuple[str, str]] = {
    "text": ("text", "text_delta"),
    "thinking": ("thinking", "thinking_delta"),
    "tool_use": ("input", "input_json_delta"),
}
"""By kind of block: where its text goes, and what the event that brings more of it is called."""


class Blocks:
    """The content of one message, as far as it has come. One block is open at a time."""

    def __init__(self, *, shows_thinking: bool) -> None:
        self._shows_thinking = shows_thinking
        self._heads: list[Shape] = []
        self._texts: list[list[str]] = []
        self._open = False

    def add(self, event: Event) -> list[Shape]:
        """Take in an event; the events of a stream that it makes."""
        match event:
            case ContentDelta(text):
                return self._more({"type": "text", "text": ""}, text)
            case ReasoningDelta(text):
                head = {"type": "thinking", "thinking": "", "signature": ""}
                return self._more(head, text if self._shows_thinking else "")
            case ToolCallBegin(_, call_id, name):
                return self._begin({"type": "tool_use", "id": call_id, "name": name, "input": {}})
            case _:
                return self._more(self._heads[-1], event.text)

    def end(self) -> list[Shape]:
        """The event that closes the open block, if one is."""
        if not self._open:
            return []
        self._open = False
        return [{"type": "content_block_stop", "index": len(self._heads) - 1}]

    def whole(self) -> list[Shape]:
        """The blocks of the whole message."""
        shapes = []
        for head, texts in zip(self._heads, self._texts, strict=True):
            text = "".join(texts)
            key, _ = _TEXT[head["type"]]
            said: Any = text
            if key == "input":
                said = msgspec.Raw(text.encode()) if is_object(text) else {}
            shapes.append({**head, key: said})
        return shapes

    def _begin(self, head: Shape) -> list[Shape]:
        closing = self.end()
        self._heads.append(head)
        self._texts.append([])
        self._open = True
        return [*closing, {"type": "content_block_start", "index": len(self._heads) - 1, "content_block": head}]

    def _more(self, head: Shape, text: str) -> list[Shape]:
        kind = head["type"]
        events = [] if self._open and self._heads[-1]["type"] == kind else self._begin(head)
        if text:
            self._texts[-1].append(text)
            key, name = _TEXT[kind]
            delta = {"type": name, "partial_json" if key == "input" else key: text}
            events.append({"type": "content_block_delta", "index": len(self._heads) - 1, "delta": delta})
        return events


class Message:
    """One answer: feed it every item in their order, then ask for its whole, or take the events as they come."""

    def __init__(self, job: str, request: MessagesRequest, prepared: frames.Prepared, said: Said) -> None:
        self._said = said
        self._blocks = Blocks(shows_thinking=request.shows_thinking)
        self._finish: frames.Finish | None = None
        self._prompt_tokens = len(prepared.tokens)
        self._shape: Shape = {
            "id": f"msg_{job}",
            "type": "message",
            "role": "assistant",
            "model": request.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }

    def start(self) -> Shape:
        """The message of a stream's first event: how much of its prompt was in the cache is known at its end."""
        return {**self._shape, "usage": _usage(frames.Usage(self._prompt_tokens, 0))}

    def feed(self, news: News) -> list[Shape]:
        """The events that an item brings, perhaps none."""
        events = [made for event in news.events for made in self._blocks.add(event)]
        if news.item.final is None:
            return events
        self._finish = news.item.final
        return [*events, *self._blocks.end()]

    def ended(self, used: frames.Usage) -> list[Shape]:
        """The last events of a stream."""
        return [{"type": "message_delta", "delta": self._end(), "usage": _usage(used)}, {"type": "message_stop"}]

    def whole(self, used: frames.Usage) -> Shape:
        """The whole message."""
        return {**self._shape, "content": self._blocks.whole(), **self._end(), "usage": _usage(used)}

    def _end(self) -> Shape:
        stop = self._finish.stop if self._finish is not None else ""
        if self._said.end == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        if self._said.end == "tool_calls":
            return {"stop_reason": "tool_use", "stop_sequence": None}
        return {"stop_reason": "stop_sequence" if stop else "end_turn", "stop_sequence": stop or None}


def _usage(used: frames.Usage) -> Shape:
    """The usage as the vendor counts it: what was in the cache is not input, and nothing is charged for keeping it."""
    return {
        "input_tokens": used.prompt_tokens - used.cached_tokens,
        "output_tokens": used.completion_tokens,
        "cache_read_input_tokens": used.cached_tokens,
        "cache_creation_input_tokens": 0,
    }
