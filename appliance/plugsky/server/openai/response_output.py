"""What a model says, as the items of a response and the events of its stream.

Guarantees: (1) the items that the ``done`` events carry, in their order, are those of the whole response; (2) an item
is opened before anything is said in it and closed before the next is opened; (3) events are numbered without a gap.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from plugsky.engine.prompting.families.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallBegin,
)

Fields = dict[str, Any]


class Output:
    """The output of one response. ``job`` names its items."""

    def __init__(self, job: str) -> None:
        self.items: list[Fields] = []
        self._job = job
        self._open: Fields | None = None
        self._part: Fields | None = None

    def say(self, event: Event, logprobs: Sequence[Fields] = ()) -> list[Fields]:
        """The events of a stream that one event of the model makes; ``logprobs`` are those of its tokens."""
        match event:
            case ReasoningDelta(text):
                made = self._enter("reasoning")
                self._in_part()["text"] += text
                return [*made, self._event("response.reasoning_text.delta", content_index=0, delta=text)]
            case ContentDelta(text):
                made = self._enter("message")
                part = self._in_part()
                part["text"] += text
                part["logprobs"] += logprobs
                told = self._event("response.output_text.delta", content_index=0, delta=text, logprobs=list(logprobs))
                return [*made, told]
            case ToolCallBegin(_, call_id, name):
                made = self._close("completed")
                return [*made, *self._begin_call(call_id, name)]
            case ToolArgumentsDelta(_, text):
                self._in_item()["arguments"] += text
                return [self._event("response.function_call_arguments.delta", delta=text)]

    def end(self, *, whole: bool) -> list[Fields]:
        """The last events. A response that said nothing holds an empty message."""
        made = [] if self.items else self._enter("message")
        return [*made, *self._close("completed" if whole else "incomplete")]

    def _enter(self, kind: str) -> list[Fields]:
        """Have an item of this kind open."""
        if self._open is not None and self._open["type"] == kind:
            return []
        made = self._close("completed")
        item: Fields = {"type": kind, "status": "in_progress", "content": []}
        if kind == "message":
            part: Fields = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item |= {"id": f"msg_{self._number()}", "role": "assistant"}
        else:
            part = {"type": "reasoning_text", "text": ""}
            item |= {"id": f"rs_{self._number()}", "summary": []}
        made += self._begin(item)
        self._part = part
        item["content"] = [part]
        return [*made, self._event("response.content_part.added", content_index=0, part=_copy(part))]

    def _begin_call(self, call_id: str, name: str) -> list[Fields]:
        item: Fields = {"type": "function_call", "id": f"fc_{self._number()}", "status": "in_progress"}
        return self._begin(item | {"call_id": call_id, "name": name, "arguments": ""})

    def _begin(self, item: Fields) -> list[Fields]:
        self.items.append(item)
        self._open = item
        return [{"type": "response.output_item.added", "output_index": len(self.items) - 1, "item": dict(item)}]

    def _close(self, status: str) -> list[Fields]:
        item = self._open
        if item is None:
            return []
        made: list[Fields] = []
        if item["type"] == "function_call":
            made.append(self._event("response.function_call_arguments.done", arguments=item["arguments"]))
        else:
            part = self._in_part()
            name = "output_text" if item["type"] == "message" else "reasoning_text"
            more = {"logprobs": part["logprobs"]} if item["type"] == "message" else {}
            made.append(self._event(f"response.{name}.done", content_index=0, text=part["text"], **more))
            made.append(self._event("response.content_part.done", content_index=0, part=_copy(part)))
        item["status"] = status
        self._open = self._part = None
        done = {"type": "response.output_item.done", "output_index": len(self.items) - 1, "item": dict(item)}
        return [*made, done]

    def _event(self, kind: str, **fields: Any) -> Fields:
        return {"type": kind, "item_id": self._in_item()["id"], "output_index": len(self.items) - 1, **fields}

    def _in_item(self) -> Fields:
        assert self._open is not None  # noqa: S101 - an item is open whenever something is said
        return self._open

    def _in_part(self) -> Fields:
        assert self._part is not None  # noqa: S101 - so is its part, in items that have one
        return self._part

    def _number(self) -> str:
        return f"{self._job}_{len(self.items)}"


def _copy(part: Fields) -> Fields:
    return {name: list(value) if isinstance(value, list) else value for name, value in part.items()}


def flat(events: Iterable[list[Fields]]) -> list[Fields]:
    """Events of several, one after another."""
    return [event for group in events for event in group]
