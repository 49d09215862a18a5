"""The JSON of an answer in Ollama's words: a line for each piece, the last with the counts and times.

Times are nanoseconds by the gateway's clock: of the prompt until its first token, of the answer from there on. A call
of a tool is told whole, when its arguments are complete and a JSON object.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

from plugsky.core.clock import Clock
from plugsky.engine.prompting.families.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallBegin,
)
from plugsky.server.answering import Answering
from plugsky.server.ollama.fields import OllamaRequest
from plugsky.server.openai.choices import logprob
from plugsky.server.settlement import News

Kind = Literal["chat", "generate"]
_NS_PER_US: Final = 1000


class Lines:
    """The lines of one answer."""

    def __init__(self, kind: Kind, taken: Answering[OllamaRequest], clock: Clock) -> None:
        self._kind = kind
        self._taken = taken
        self._clock = clock
        self._began_us = clock.monotonic_us()
        self._first_us: int | None = None
        (self._said,) = taken.answer.said
        self._calls: list[tuple[str, list[str]]] = []
        self._text: list[str] = []
        self._thought: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def take(self, news: News) -> list[dict[str, Any]]:
        """What an item adds, as lines that are not the last."""
        item = news.item
        if item.ids and self._first_us is None:
            self._first_us = self._clock.monotonic_us()
        known = [logprob(each) for each in item.logprobs] if self._taken.request.params.top_logprobs is not None else []
        self._logprobs += known
        lines = [line for event in news.events if (line := self._line(event)) is not None]
        if known and lines:
            lines[0]["logprobs"] = known
        if item.final is not None and self._said.end == "tool_calls":
            lines.append(self._shape("", calls=self._called()))
        return lines

    def last(self) -> dict[str, Any]:
        """The line of the end, with nothing more to say."""
        return self._shape("") | self._counts()

    def whole(self) -> dict[str, Any]:
        """The one object of an answer that does not stream."""
        calls = self._called() if self._said.end == "tool_calls" else []
        shape = self._shape("".join(self._text), "".join(self._thought), calls)
        if self._logprobs:
            shape["logprobs"] = self._logprobs
        return shape | self._counts()

    def _line(self, event: Event) -> dict[str, Any] | None:
        match event:
            case ContentDelta(text):
                self._text.append(text)
                return self._shape(text)
            case ReasoningDelta(text):
                self._thought.append(text)
                return self._shape("", text)
            case ToolCallBegin(_, _, name):
                self._calls.append((name, []))
            case ToolArgumentsDelta(index, text):
                self._calls[index][1].append(text)
        return None

    def _called(self) -> list[dict[str, Any]]:
        return [
            {"function": {"name": name, "arguments": msgspec.Raw("".join(parts).encode())}}
            for name, parts in self._calls
        ]

    def _shape(self, text: str, thought: str = "", calls: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
        shape: dict[str, Any] = {
            "model": self._taken.request.model,
            "created_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "done": False,
        }
        thinking = {"thinking": thought} if thought else {}
        if self._kind == "generate":
            return shape | {"response": text} | thinking
        message: dict[str, Any] = {"role": "assistant", "content": text} | thinking
        if calls:
            message["tool_calls"] = list(calls)
        return shape | {"message": message}

    def _counts(self) -> dict[str, Any]:
        used, now = self._taken.answer.usage, self._clock.monotonic_us()
        first = now if self._first_us is None else self._first_us
        return {
            "done": True,
            "done_reason": "length" if self._said.end == "length" else "stop",
            "total_duration": (now - self._began_us) * _NS_PER_US,
            "load_duration": 0,
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": (first - self._began_us) * _NS_PER_US,
            "eval_count": used.completion_tokens,
            "eval_duration": (now - first) * _NS_PER_US,
        }
