"""The JSON of an answer in Mistral's words: the whole, or the events of a stream, the last of which has the usage.

A call of a tool is told whole, when its arguments are complete; what a model thinks is a chunk of its own.
"""

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from plugsky.core import frames
from plugsky.server.openai.choices import Choice, logprob
from plugsky.server.settlement import Answer, News


class ChatShapes:
    """The JSON of one chat's answer."""

    def __init__(self, job: str, model: str, answer: Answer, choices: Sequence[Choice], *, logprobs: bool) -> None:
        self.choices = choices
        self._answer = answer
        self._logprobs = logprobs
        self._common: dict[str, Any] = {"id": job, "created": int(time.time()), "model": model}

    def whole(self) -> bytes:
        """The answer of a request that does not stream."""
        choices = []
        for number, choice in enumerate(self.choices):
            one: dict[str, Any] = {"index": number, "finish_reason": choice.finish_reason, "message": _message(choice)}
            if self._logprobs:
                one["logprobs"] = {"content": choice.message.logprobs}
            choices.append(one)
        shape = {**self._common, "object": "chat.completion", "choices": choices, "usage": usage(self._answer.usage)}
        return msgspec.json.encode(shape)

    def first(self) -> bytes:
        """The events that name the role of each choice."""
        return b"".join(
            self._event(number, {"role": "assistant", "content": ""}) for number in range(len(self.choices))
        )

    def news(self, news: News) -> bytes:
        """The events that an item of a choice makes, perhaps none."""
        number, item, said = news
        choice = self.choices[number]
        events = []
        for delta in choice.feed(item, said):
            if "content" in delta:
                events.append({"content": delta["content"]})
            elif "reasoning_content" in delta:
                events.append({"content": [_thought(delta["reasoning_content"])]})
        known = {"content": [logprob(each) for each in item.logprobs]} if self._logprobs and item.logprobs else None
        if known and not events:
            events.append({"content": ""})
        told = b"".join(
            self._event(number, delta, logprobs=known if not place else None) for place, delta in enumerate(events)
        )
        if item.final is None:
            return told
        calls = [{**call, "index": place} for place, call in enumerate(choice.message.calls)]
        last: dict[str, Any] = {"content": "", **({"tool_calls": calls} if calls else {})}
        over = None not in self._answer.finishes
        return told + self._event(number, last, choice.finish_reason, used=self._answer.usage if over else None)

    def _event(
        self,
        number: int,
        delta: dict[str, Any],
        reason: str | None = None,
        *,
        used: frames.Usage | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": number, "delta": delta, "finish_reason": reason}
        if logprobs:
            choice["logprobs"] = logprobs
        shape = {**self._common, "object": "chat.completion.chunk", "choices": [choice]}
        if used is not None:
            shape["usage"] = usage(used)
        return b"data: " + msgspec.json.encode(shape) + b"\n\n"


class FimShapes:
    """The JSON of one infilled text: a chat's answer without a chat."""

    def __init__(self, job: str, model: str, answer: Answer) -> None:
        self._answer = answer
        self._text: list[str] = []
        self._reason = ""
        self._common: dict[str, Any] = {"id": job, "created": int(time.time()), "model": model}

    def whole(self) -> bytes:
        """The answer of a request that does not stream."""
        message = {"role": "assistant", "content": "".join(self._text), "tool_calls": None}
        choice = {"index": 0, "finish_reason": self._reason, "message": message}
        shape = {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage(self._answer.usage)}
        return msgspec.json.encode(shape)

    def news(self, item: frames.StepItem) -> bytes:
        """The event that an item makes, perhaps none."""
        self._text.append(item.text)
        used: dict[str, Any] = {}
        if item.final is not None:
            self._reason = "length" if item.final.reason == "length" else "stop"
            used = {"usage": usage(self._answer.usage)}
        elif not item.text:
            return b""
        delta = {"role": "assistant", "content": item.text}
        choice = {"index": 0, "delta": delta, "finish_reason": self._reason or None}
        shape = {**self._common, "object": "chat.completion.chunk", "choices": [choice], **used}
        return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def usage(used: frames.Usage) -> dict[str, int]:
    """The usage as Mistral counts it."""
    prompt, made = used.prompt_tokens, used.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}


def _message(choice: Choice) -> dict[str, Any]:
    said = choice.message
    text = "".join(said.content)
    content: str | list[dict[str, Any]] = text
    if said.reasoning:
        content = [_thought("".join(said.reasoning)), {"type": "text", "text": text}]
    return {"role": "assistant", "content": content, "tool_calls": said.calls or None, "prefix": False}


def _thought(text: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
