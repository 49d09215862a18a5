"""What a model says, read by its family and in no dialect's words: reasoning, content, calls of tools, how it ended.

Guarantees: (1) a call is an end by ``tool_calls`` only when every call can be used; (2) nothing is said twice or lost,
however the engine cut it.
"""

from typing import Literal

from plugsky.core import frames
from plugsky.engine.prompting.families import catalogue
from plugsky.engine.prompting.families.events import ContentDelta, Event, Outcome, ReasoningDelta
from plugsky.engine.prompting.families.parser import AnswerParser
from plugsky.server.prompt import Prompt

EndReason = Literal["", "stop", "length", "tool_calls"]


class Said:
    """One of the answers to a request. Feed it every item of its own, in their order."""

    def __init__(self, prompt: Prompt, prepared: frames.Prepared) -> None:
        family = catalogue.named(prepared.family) if prepared.family else None
        self.end: EndReason = ""
        """Why it ended; empty before that."""
        self.reasoning_tokens = 0
        self._parser = (
            AnswerParser(family, tools=prompt.callable, thinking=prepared.thinking) if family is not None else None
        )
        self._thinking = prepared.thinking

    def feed(self, item: frames.StepItem) -> list[Event]:
        """What an item says, perhaps nothing. With its final the reason of the end is known."""
        events = self._parsed(item.text)
        if events:
            self._thinking = isinstance(events[-1], ReasoningDelta)
        if self._thinking:
            self.reasoning_tokens += len(item.ids)
        if item.final is not None:
            outcome = self._parser.end() if self._parser is not None else Outcome((), ())
            events += outcome.events
            if item.final.reason == "length":
                self.end = "length"
            else:
                self.end = "tool_calls" if outcome.called else "stop"
        return events

    def _parsed(self, text: str) -> list[Event]:
        if not text:
            return []
        return list(self._parser.feed(text)) if self._parser is not None else [ContentDelta(text)]
