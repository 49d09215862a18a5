"""Regular expressions of a schema's ``pattern``, translated to GBNF over the characters of a JSON string.

Only what is regular and reads the same in ECMA 262 and in Python is taken: characters, classes, groups, alternatives,
counts, and anchors at the ends. Anything else (look-around, references back, word boundaries, named classes) is refused
by name. Where dialects differ (``\\w`` beyond ASCII), what both admit is written. Nothing here searches, so no
expression can take long: counts are counted, and nested ones may multiply to :data:`MAX_PRODUCT` only.
"""

from dataclasses import dataclass
from typing import Final

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.grammar import MAX_CODE_POINT, Ranges, inverted, refused, united
from plugsky.engine.grammars.json_schema.gbnf_text import char_class, counted

MAX_CHARS: Final = 2048
MAX_DEPTH: Final = 32
MAX_PRODUCT: Final = 1024
MAX_COUNT: Final = 10_000


@dataclass(frozen=True, slots=True)
class One:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class All:
    """One after the other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of these."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Many:
    """The same, ``least`` to ``most`` times (None: without end)."""

    part: "Node"
    least: int
    most: int | None


Node = One | All | Either | Many

_DIGIT: Final[Ranges] = ((0x30, 0x39),)
_WORD: Final[Ranges] = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACE: Final[Ranges] = ((0x09, 0x0D), (0x20, 0x20))
_ASCII: Final = 0x7F


def _beside(ranges: Ranges) -> Ranges:
    """The other characters of ASCII: beyond it the dialects do not agree."""
    return tuple((low, min(high, _ASCII)) for low, high in inverted(ranges) if low <= _ASCII)


_CLASSES: Final = {
    "d": _DIGIT,
    "w": _WORD,
    "s": _SPACE,
    "D": _beside(_DIGIT),
    "W": _beside(_WORD),
    "S": _beside(_SPACE),
}
_ANY: Final = inverted([(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
_CONTROLS: Final = {"t": 0x09, "n": 0x0A, "r": 0x0D, "f": 0x0C, "v": 0x0B}
_SIGNS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_SHORT: Final = {0x22: '"', 0x5C: "\\", 0x08: "b", 0x0C: "f", 0x0A: "n", 0x0D: "r", 0x09: "t"}


def parsed(pattern: str) -> Node:
    """The strings in which ``pattern`` is found, as a schema means it. Raises ``schema_refused``."""
    if len(pattern) > MAX_CHARS:
        raise _wrong(f"has more than {MAX_CHARS} characters")
    reader = _Reader(pattern)
    node = reader.whole()
    _check_product(node)
    return node


def written(node: Node) -> str:
    """GBNF of the inside of a JSON string."""
    match node:
        case One(ranges):
            return _one(ranges)
        case All(parts):
            return " ".join(_grouped(part) for part in parts) or '""'
        case Either(parts):
            return " | ".join(written(part) for part in parts)
        case Many(part, least, most):
            return f"({written(part)}){counted(least, most)}"


def lengths(node: Node) -> tuple[int, int | None]:
    """The fewest and the most characters of a string that matches."""
    match node:
        case One():
            return 1, 1
        case All(parts):
            spans = [lengths(part) for part in parts]
            return sum(least for least, _ in spans), _sum([most for _, most in spans])
        case Either(parts):
            spans = [lengths(part) for part in parts]
            ends = [most for _, most in spans if most is not None]
            return min(least for least, _ in spans), max(ends) if len(ends) == len(spans) else None
        case Many(part, least, most):
            low, high = lengths(part)
            return low * least, 0 if most == 0 else None if most is None or high is None else high * most


def _sum(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def _grouped(node: Node) -> str:
    return f"({written(node)})" if isinstance(node, Either) else written(node)


def _one(ranges: Ranges) -> str:
    plain = tuple(
        (max(low, start), min(high, end))
        for low, high in ranges
        for start, end in ((0x20, 0x21), (0x23, 0x5B), (0x5D, MAX_CODE_POINT))
        if low <= end and start <= high
    )
    short = "".join(sign for code, sign in _SHORT.items() if any(low <= code <= high for low, high in ranges))
    parts = [char_class(plain)] if plain else []
    if short:
        parts.append(rf'"\\" {char_class([(ord(sign), ord(sign)) for sign in short])}')
    if not parts:  # controls without a short form
        parts = [rf'"\\u{code:04x}"' for low, high in ranges for code in range(low, high + 1)]
    return parts[0] if len(parts) == 1 else f"({' | '.join(parts)})"


def _check_product(node: Node, factor: int = 1) -> None:
    match node:
        case All(parts) | Either(parts):
            for part in parts:
                _check_product(part, factor)
        case Many(part, least, most):
            factor *= max(least, most or 1, 1) if lengths(part) != (1, 1) else 1
            if factor > MAX_PRODUCT:
                raise _wrong(f"nests counts that multiply to more than {MAX_PRODUCT}")
            _check_product(part, factor)
        case One():
            pass


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._text = pattern
        self._at = 0

    def whole(self) -> Node:
        around = Many(One(_ANYTHING), 0, None)
        found: list[Node] = []
        while True:
            start = self._take("^")
            parts = self._sequence(0)
            end = self._take("$")
            found.append(All((*(() if start else (around,)), *parts, *(() if end else (around,)))))
            if not self._take("|"):
                break
        if self._at < len(self._text):
            raise _wrong(f"has {self._text[self._at]!r} where it cannot stand")
        return found[0] if len(found) == 1 else Either(tuple(found))

    def _sequence(self, depth: int) -> tuple[Node, ...]:
        parts: list[Node] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)$":
            part = self._atom(depth)
            counts = self._counts()
            if counts is not None:
                part = Many(part, *counts)
                if self._take("+"):
                    raise _wrong("has a possessive count")
                self._take("?")  # a lazy count admits the same
                if self._counts() is not None:
                    raise _wrong("counts a count")
            parts.append(part)
        return tuple(parts)

    def _atom(self, depth: int) -> Node:
        char = self._next()
        if char == "(":
            if depth >= MAX_DEPTH:
                raise _wrong(f"nests more than {MAX_DEPTH} groups")
            if self._take("?") and not self._take(":"):
                raise _wrong("has a group of a special kind (?...)")
            parts = [All(self._sequence(depth + 1))]
            while self._take("|"):
                parts.append(All(self._sequence(depth + 1)))
            if not self._take(")"):
                raise _wrong(
                    "has a group that does not close" if self._at >= len(self._text) else "has an anchor inside"
                )
            return parts[0] if len(parts) == 1 else Either(tuple(parts))
        if char == "[":
            return One(self._class())
        if char == ".":
            return One(_ANY)
        if char == "\\":
            return One(self._escape())
        if char in "*+?{^":
            raise _wrong(f"has {char!r} where it cannot stand")
        return One(((ord(char), ord(char)),))

    def _counts(self) -> tuple[int, int | None] | None:
        if self._at >= len(self._text):
            return None
        sign = self._text[self._at]
        if sign in _SIGNS:
            self._at += 1
            return _SIGNS[sign]
        if sign != "{":
            return None
        end = self._text.find("}", self._at)
        least, comma, most = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not _number(least) or (most and not _number(most)):
            raise _wrong("has a count that is not {m}, {m,} or {m,n}")
        self._at = end + 1
        low, high = int(least), int(most) if most else None if comma else int(least)
        if max(low, high or 0) > MAX_COUNT or (high is not None and high < low):
            raise _wrong(f"has a count that runs backwards or over {MAX_COUNT}")
        return low, high

    def _class(self) -> Ranges:
        inverse = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            members = self._member()
            if len(members) == 1 and members[0][0] == members[0][1] and self._range_follows():
                self._at += 1
                last = self._member()
                if len(last) != 1 or last[0][0] != last[0][1] or last[0][0] < members[0][0]:
                    raise _wrong("has a range of characters that is none")
                members = ((members[0][0], last[0][1]),)
            ranges += members
        found = inverted(ranges) if inverse else united(ranges)
        if not found:
            raise _wrong("has a class of no characters")
        return found

    def _range_follows(self) -> bool:
        return self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at)

    def _member(self) -> Ranges:
        char = self._next()
        if char == "\\":
            return ((0x08, 0x08),) if self._take("b") else self._escape()
        if char == "[" and self._text[self._at : self._at + 1] in (":", ".", "="):
            raise _wrong("has a class by name")
        return ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        char = self._next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char in _CONTROLS:
            code = _CONTROLS[char]
        elif char in "xu":
            digits = self._text[self._at : self._at + (2 if char == "x" else 4)]
            if len(digits) != (2 if char == "x" else 4) or not all(digit in _HEX for digit in digits):
                raise _wrong("has half an escape")
            self._at += len(digits)
            code = int(digits, 16)
            if code == 0 or 0xD800 <= code <= 0xDFFF:
                raise _wrong("has an escape of no character")
        elif char.isascii() and char.isalnum():
            raise _wrong(f"has \\{char}, which is not supported")
        else:
            code = ord(char)
        return ((code, code),)

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise _wrong("ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, sign: str) -> bool:
        found = self._text.startswith(sign, self._at)
        self._at += len(sign) if found else 0
        return found


_HEX: Final = frozenset("0123456789abcdefABCDEF")
_ANYTHING: Final = inverted([])


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 8


def _wrong(why: str) -> EngineError:
    return refused(f"a pattern of the schema {why}", "json_schema")
