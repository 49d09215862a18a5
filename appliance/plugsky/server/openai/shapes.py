"""The JSON of a chat's answer: the whole completion, or the events of a stream."""

import time
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from plugsky.core import frames
from plugsky.server.openai.choices import Choice, logprob
from plugsky.server.openai.fields import ChatRequest
from plugsky.server.settlement import Answer, News

_CONTENT: Final = b'"content":""'
_INDEX: Final = b'"index":0'
DONE: Final = b"data: [DONE]\n\n"


class Shapes:
    """The JSON of one answer. What all events of a stream share is encoded once."""

    def __init__(self, job: str, request: ChatRequest, answer: Answer, choices: Sequence[Choice]) -> None:
        self.choices = choices
        self._answer = answer
        self._include_usage = request.include_usage
        self._logprobs = request.params.top_logprobs is not None
        self._common: dict[str, Any] = {
            "id": f"chatcmpl-{job}",
            "created": int(time.time()),
            "model": request.model,
            "system_fingerprint": answer.fingerprint,
        }
        around = self._event([_choice(0, {"content": ""})])
        before, self._after = around.split(_CONTENT, 1)
        self._before = [
            before.replace(_INDEX, b'"index":%d' % number) + _CONTENT[:-2] for number in range(len(choices))
        ]

    def completion(self) -> bytes:
        """The whole answer of a request that does not stream."""
        choices = [
            {
                "index": number,
                "message": choice.message.shape(),
                "logprobs": {"content": choice.message.logprobs, "refusal": None} if self._logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for number, choice in enumerate(self.choices)
        ]
        return msgspec.json.encode(
            {**self._common, "object": "chat.completion", "choices": choices, "usage": self._usage()}
        )

    def first(self) -> bytes:
        """The events that name the role of each choice."""
        delta = {"role": "assistant", "content": "", "refusal": None}
        return b"".join(self._event([_choice(number, delta)]) for number in range(len(self.choices)))

    def news(self, news: News) -> bytes:
        """The events that an item of a choice makes, perhaps none."""
        number, item, said = news
        choice = self.choices[number]
        deltas = choice.feed(item, said)
        if not self._logprobs:
            events = [self._delta(number, delta) for delta in deltas]
        elif item.logprobs or deltas:
            known = {"content": [logprob(each) for each in item.logprobs], "refusal": None}
            first, *more = deltas or [{}]
            events = [self._event([{**_choice(number, first), "logprobs": known}])]
            events += [self._delta(number, delta) for delta in more]
        else:
            events = []
        if item.final is not None:
            events.append(self._event([{**_choice(number, {}), "finish_reason": choice.finish_reason}]))
        return b"".join(events)

    def used(self) -> bytes:
        """The event with the usage, where it was asked for."""
        return self._event([], self._usage()) if self._include_usage else b""

    def _delta(self, number: int, delta: dict[str, Any]) -> bytes:
        text = delta.get("content")
        if text is None:
            return self._event([_choice(number, delta)])
        return self._before[number] + msgspec.json.encode(text) + self._after

    def _usage(self) -> dict[str, Any]:
        return usage(self._answer.usage)

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None = None) -> bytes:
        shape = {**self._common, "object": "chat.completion.chunk", "choices": choices}
        if self._include_usage:
            shape["usage"] = used
        return b"data: " + msgspec.json.encode(shape) + b"\n\n"


def _choice(number: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": number, "delta": delta, "logprobs": None, "finish_reason": None}


def usage(used: frames.Usage) -> dict[str, Any]:
    """The usage as the OpenAI dialect counts it."""
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
    }
