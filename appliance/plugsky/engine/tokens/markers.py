"""Keeps what a client wrote from becoming a model's own control tokens.

A model tells turns apart by tokens such as ``<|im_end|>``. A prompt is rendered as one text, so the same characters in
a message would end its turn and begin another in any role. :class:`Markers` marks such places before the template runs
and finds them again afterwards: the first character of each marker's text in a message is replaced by a private-use
character that occurs in no message and not in the template, one for one, so that a template's trims and lengths hold.
So is the first character of a marker that the end of a message only begins, because the next text may complete it.
Behind the template the characters come back, and the stretch between two of the template's own markers that holds a
forged one is tokenised as plain text. Text that forges nothing is tokenised exactly as if this did not exist.

Not covered: a template that itself writes the beginning of a marker directly before a message's text, or that joins
pieces it cut out of one.
"""

import re
from collections.abc import Collection, Iterator
from itertools import chain, islice
from typing import Any, Final, NamedTuple

from plugsky.engine.errors import bad_request

_PRIVATE: Final = (range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE), range(0xE000, 0xF900))
"""Unicode's private-use areas: no case, no white space, no meaning to a template."""
_CONTROL: Final = re.compile(r"<[|\uff5c].*|<.*[|\uff5c]>|</?s>|\[/?INST\]|<(start|end)_of_turn>", re.DOTALL)


def spelt_like_control(text: str) -> bool:
    """Whether a user-defined token of this text is a marker all the same, as roles are in many vocabularies."""
    return _CONTROL.fullmatch(text) is not None


class Infill(NamedTuple):
    """The control tokens before each part of a prompt for what stands between two texts; the answer comes last."""

    prefix: int
    suffix: int
    middle: int


class Part(NamedTuple):
    """A stretch of a prompt. ``forged`` tells where in ``text`` a marker begins that the template did not write."""

    text: str
    forged: tuple[int, ...] = ()


class Disarmed(NamedTuple):
    """What a client sent, without a marker in its texts, and what each stand-in character stands for."""

    value: Any
    originals: dict[str, str]


CLIENTS_KEYS: Final = frozenset({"arguments", "parameters"})
"""Members below which a client named the keys too."""


class Markers:
    """The texts of one vocabulary's markers; ``template`` is the source of the template the messages go through."""

    def __init__(self, texts: Collection[str], template: str = "") -> None:
        wanted = sorted(filter(None, texts))
        self._pattern = re.compile(_any_of(wanted)) if wanted else None
        self._beginnings = frozenset(text[:end] for text in wanted for end in range(1, len(text)))
        self._longest = max(map(len, wanted), default=0)
        self._firsts = sorted({text[0] for text in wanted})
        self._template = frozenset(template)

    def places(self, text: str) -> Iterator[int]:
        """Where markers begin in ``text``, those that overlap another included."""
        start = 0
        while self._pattern is not None and (found := self._pattern.search(text, start)):
            yield found.start()
            start = found.start() + 1

    def disarm(self, value: Any) -> Disarmed:
        """``value``, of lists, dicts and texts, with a stand-in for the first character of each marker in a text.

        Keys are texts of the client below :data:`CLIENTS_KEYS` only. Raises ``bad_request`` when so many private-use
        characters are used that none are left to stand in.
        """
        texts = set(_texts(value))
        places = {text: found for text in texts if (found := self._to_mark(text))}
        if not places:
            return Disarmed(value, {})
        stand_ins = self._stand_ins(texts)
        changed = {text: _replaced(text, found, stand_ins) for text, found in places.items()}
        return Disarmed(_changed(value, changed), {stand_in: first for first, stand_in in stand_ins.items()})

    def parts(self, rendered: str, originals: dict[str, str]) -> list[Part]:
        """``rendered`` with its own characters back, cut where a forged marker must be kept from the template's."""
        text = rendered.translate({ord(stand_in): first for stand_in, first in originals.items()})
        pattern = self._pattern
        if pattern is None or text == rendered:
            return [Part(text)]
        stand_in = re.compile("[" + "".join(map(re.escape, originals)) + "]")
        parts, done = [], 0
        for start, end in _gaps(pattern, rendered):
            marked = (found.start() for found in stand_in.finditer(rendered, start, end))
            forged = tuple(place - start for place in marked if pattern.match(text, place))
            if forged:
                parts += [Part(text[done:start]), Part(text[start:end], forged)]
                done = end
        return [part for part in (*parts, Part(text[done:])) if part.text]

    def _to_mark(self, text: str) -> list[int]:
        marks = list(self.places(text))
        trimmed = text.rstrip()  # as templates do
        for ending in {text, trimmed}:
            starts = range(max(0, len(ending) - self._longest + 1), len(ending))
            marks += [start for start in starts if ending[start:] in self._beginnings]
        return sorted(set(marks))

    def _stand_ins(self, texts: Collection[str]) -> dict[str, str]:
        taken = self._template.union(*texts)
        free = (char for code in chain(*_PRIVATE) if (char := chr(code)) not in taken)
        stand_ins = dict(zip(self._firsts, islice(free, len(self._firsts)), strict=False))
        if len(stand_ins) < len(self._firsts):
            raise bad_request("the messages use too many of Unicode's private-use characters", "messages")
        return stand_ins


def _replaced(text: str, places: list[int], stand_ins: dict[str, str]) -> str:
    if not places:
        return text
    pieces, done = [], 0
    for place in places:
        pieces += [text[done:place], stand_ins[text[place]]]
        done = place + 1
    return "".join([*pieces, text[done:]])


def _texts(value: Any, *, keys: bool = False) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        if keys:
            yield from value
        for key, member in value.items():
            yield from _texts(member, keys=keys or key in CLIENTS_KEYS)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member, keys=keys)


def _changed(value: Any, changed: dict[str, str], *, keys: bool = False) -> Any:
    if isinstance(value, str):
        return changed.get(value, value)
    if isinstance(value, dict):
        return {
            changed.get(key, key) if keys else key: _changed(member, changed, keys=keys or key in CLIENTS_KEYS)
            for key, member in value.items()
        }
    if isinstance(value, list | tuple):
        return [_changed(member, changed, keys=keys) for member in value]
    return value


def _gaps(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """The stretches of ``text`` before, between and behind its markers."""
    done = 0
    for found in pattern.finditer(text):
        yield done, found.start()
        done = found.end()
    yield done, len(text)


def _any_of(texts: list[str], depth: int = 0) -> str:
    """A pattern for the longest of ``texts`` (sorted) at a place. Their common beginnings are tried once: a list of
    alternatives would make a text of a million ``<`` cost a million times the number of markers."""
    branches: dict[str, list[str]] = {}
    for text in texts:
        branches.setdefault(text[depth : depth + 1], []).append(text)
    ends = branches.pop("", None)
    words = []
    for same in branches.values():
        first, last = same[0], same[-1]
        common = next((at for at in range(depth, len(first)) if first[at] != last[at]), len(first))
        words.append(re.escape(first[depth:common]) + (_any_of(same, common) if len(same) > 1 else ""))
    if not words:
        return ""
    return f"(?:{'|'.join(words)})" + ("?" if ends else "")
