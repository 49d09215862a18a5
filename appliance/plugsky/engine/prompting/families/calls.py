"""Calls written as JSON objects with a name and arguments, as most families write them, alone or in a list.

The arguments stream while they come if the name stands before them. What turns out to be no call of an offered tool
before anything was given out is left to the caller, who gives it out as content; after that the call is broken.
"""

from collections.abc import Mapping
from typing import Final, Literal

from plugsky.engine.prompting.families.events import Output
from plugsky.engine.prompting.families.json_scan import is_object, string_of
from plugsky.engine.prompting.families.reader import Reader, Steps

CUT: Final = "is cut off or malformed"
Found = Literal["called", "broken", "no call"]

_MEMBERS: Final[Mapping[str, Literal["name", "arguments", "call", "other"]]] = {
    "name": "name",
    "tool_name": "name",
    "arguments": "arguments",
    "parameters": "arguments",
    "function": "call",
    "type": "other",
    "id": "other",
    "tool_call_id": "other",
}


def calls(reader: Reader, output: Output) -> Steps[Found]:
    """One call, or a list of calls. The reader's record, begun by the caller, then holds what was not called."""
    yield from reader.spaces()
    if not (yield from reader.starts(("[",))):
        return (yield from call(reader, output))
    found: Found = "no call"
    while True:
        yield from reader.spaces()
        found = yield from call(reader, output)
        if found != "called":
            return found
        reader.record()
        yield from reader.spaces()
        mark = yield from reader.starts((",", "]"))
        if mark != ",":
            return found


def call(reader: Reader, output: Output) -> Steps[Found]:
    """One call."""
    return (yield from _Object(reader, output).read())


def arguments(reader: Reader, output: Output, name: str) -> Steps[Found]:
    """The arguments of a call of ``name``, which the syntax gave before them."""
    yield from reader.spaces()
    if name not in output.names or (yield from reader.ahead()) != "{":
        return "no call"
    output.begin(name)
    if (yield from reader.json(output.arguments)) is None:
        output.broken(CUT)
        return "broken"
    return "called"


class _Object:
    """The object of one call, and of a call inside it (``{"type": "function", "function": {…}}``)."""

    def __init__(self, reader: Reader, output: Output) -> None:
        self._reader = reader
        self._output = output
        self._name = ""
        self._held: str | None = None
        self._begun = False

    def read(self) -> Steps[Found]:
        fits = yield from self._members(nested=False)
        if fits and self._name and not self._begun:
            self._output.begin(self._name)
            self._output.arguments(self._held if self._held is not None else "{}")
            self._begun = True
        if not self._begun:
            return "no call"
        if not fits:
            self._output.broken(CUT)
        return "called" if fits else "broken"

    def _members(self, *, nested: bool) -> Steps[bool]:
        reader = self._reader
        if not (yield from reader.starts(("{",))):
            return False
        while True:
            yield from reader.spaces()
            key = yield from self._string()
            yield from reader.spaces()
            if key is None or not (yield from reader.starts((":",))):
                return False
            yield from reader.spaces()
            if not (yield from self._member(_MEMBERS.get(key), nested=nested)):
                return False
            yield from reader.spaces()
            mark = yield from reader.starts((",", "}"))
            if mark != ",":
                return mark == "}"

    def _member(self, kind: str | None, *, nested: bool) -> Steps[bool]:
        if kind == "call" and (yield from self._reader.ahead()) == '"':
            kind = "name"
        if kind == "name":
            if self._name:
                return False
            self._name = (yield from self._string()) or ""
            return self._name in self._output.names
        if kind == "arguments":
            return (yield from self._arguments())
        if kind == "call":
            return not nested and (yield from self._members(nested=True))
        return kind == "other" and (yield from self._reader.json()) is not None

    def _arguments(self) -> Steps[bool]:
        first = yield from self._reader.ahead()
        if self._begun or self._held is not None or first not in '{"n':
            return False
        if first == "{":
            if not self._name:
                self._held = yield from self._reader.json()
                return self._held is not None
            self._begun = True
            self._output.begin(self._name)
            return (yield from self._reader.json(self._output.arguments)) is not None
        value = yield from self._reader.json()  # some models write the object as a string, or null for none
        if value is None:
            return False
        self._held = "{}" if value == "null" else string_of(value)
        return is_object(self._held)

    def _string(self) -> Steps[str | None]:
        if (yield from self._reader.ahead()) != '"':
            return None
        value = yield from self._reader.json()
        return None if value is None else string_of(value)
