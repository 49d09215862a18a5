"""What a parser finds in an answer, as values, and the :class:`Output` that families write it to.

Guarantees: (1) an event is never taken back; (2) arguments are JSON objects, checked when the answer is over, before
anybody says ``tool_calls``; (3) white space around reasoning and before a call belongs to the syntax and is dropped,
while an answer without either comes through as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass

from plugsky.engine.prompting.families.json_scan import is_object


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thinks."""

    text: str


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of what the model says."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """A call of an offered tool begins; ``index`` counts from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsDelta:
    """More of the JSON text of one call's arguments."""

    index: int
    text: str


Event = ReasoningDelta | ContentDelta | ToolCallBegin | ToolArgumentsDelta


@dataclass(frozen=True, slots=True)
class Call:
    """One call, whole. ``arguments`` is the text of a JSON object."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an answer: its last events, and what was called. With a ``problem`` some call cannot be used."""

    events: tuple[Event, ...]
    calls: tuple[Call, ...]
    problem: str = ""

    @property
    def called(self) -> bool:
        """Whether the finish reason is ``tool_calls``."""
        return bool(self.calls) and not self.problem


class Output:
    """Collects the events of one answer. ``names`` are the tools on offer; ``new_id`` names each call."""

    def __init__(self, names: frozenset[str], new_id: Callable[[], str]) -> None:
        self.names = names
        self.problem = ""
        self._new_id = new_id
        self._events: list[Event] = []
        self._calls: list[tuple[str, str, list[str]]] = []
        self._space = ""
        self._thought = self._said = False

    @property
    def said(self) -> bool:
        """Whether any content but white space was given out."""
        return self._said

    def reasoning(self, text: str) -> None:
        """The model thinks ``text``."""
        text = self._inner(text, begun=self._thought)
        if text:
            self._thought = True
            self._events.append(ReasoningDelta(text))

    def end_reasoning(self) -> None:
        """What follows is no reasoning any more."""
        self._space = ""
        self._thought = True

    def content(self, text: str) -> None:
        """The model says ``text``."""
        strict = self._thought or bool(self._calls)  # there is syntax before it
        text = self._inner(text, begun=self._said or not strict)
        if text:
            self._said = self._said or not text.isspace()
            self._events.append(ContentDelta(text))

    def begin(self, name: str) -> None:
        """A call of ``name`` begins, which is one of :attr:`names`."""
        self._space = ""
        call_id = self._new_id()
        self._events.append(ToolCallBegin(len(self._calls), call_id, name))
        self._calls.append((call_id, name, []))

    def arguments(self, text: str) -> None:
        """``text`` is the next part of the arguments of the call begun last."""
        if text:
            self._calls[-1][2].append(text)
            self._events.append(ToolArgumentsDelta(len(self._calls) - 1, text))

    def broken(self, what: str) -> None:
        """The call begun last cannot be used. The first reason given is the one kept."""
        self.problem = self.problem or f"the call of {self._calls[-1][1]} {what}"

    def take(self) -> tuple[Event, ...]:
        """The events since the last time."""
        events, self._events = self._events, []
        return tuple(events)

    def close(self) -> Outcome:
        """Check what was called and end. White space held back is given out if nothing was called."""
        if self._space and not self._calls and not (self._thought and not self._said):
            self._events.append(ContentDelta(self._space))
        calls = tuple(Call(call_id, name, "".join(parts)) for call_id, name, parts in self._calls)
        for call in calls:
            if not self.problem and not is_object(call.arguments):
                self.problem = f"the call of {call.name} has arguments that are no JSON object"
        return Outcome(self.take(), calls, self.problem)

    def _inner(self, text: str, *, begun: bool) -> str:
        """``text`` with the white space held back before it, less that at its end and, unless ``begun``, its start."""
        text = self._space + text
        if not begun:
            text = text.lstrip()
        body = text.rstrip()
        self._space = text[len(body) :]
        return body
