"""Grammars read from GBNF, llama.cpp's notation, in bounded time and depth.

Pure. :func:`read` takes the text of a client and gives a checked grammar, or refuses it by name: too long, nested too
deep, too many rules, an escape that is none, a rule that is missing or given twice, and what
:func:`plugsky.engine.grammars.grammar.check` refuses. llama.cpp's own reader recurses with the nesting and expands
repetitions; this one counts them, so ``{0,100000}`` costs as much as ``{0,1}``. Tokens by name or number (``<[7]>``)
are refused: a client has no business with control tokens.
"""

import re
from functools import lru_cache
from typing import Final

from plugsky.engine.errors import EngineError
from plugsky.engine.grammars.grammar import (
    MAX_CODE_POINT,
    Alternatives,
    Chars,
    Grammar,
    Item,
    Ref,
    Repeat,
    check,
    inverted,
    refused,
    united,
)

MAX_CHARS: Final = 1 << 17
MAX_RULES: Final = 1 << 13
"""Rules, counting one for each group and each repeated string."""
MAX_ITEMS: Final = 1 << 16
MAX_DEPTH: Final = 64
"""Parentheses inside parentheses."""
REMEMBERED: Final = 16
MAX_REPEAT: Final = 1_000_000


@lru_cache(maxsize=REMEMBERED)
def read(text: str) -> Grammar:
    """The grammar that ``text`` describes, from rule ``root`` on. Raises ``schema_refused`` that says where and why.

    The last few are remembered: a request's grammar is read when it is prepared, submitted and begun.
    """
    if len(text) > MAX_CHARS:
        raise refused(f"the grammar has {len(text)} characters; at most {MAX_CHARS} are allowed")
    if "\0" in text:
        raise refused("the grammar holds a NUL character")
    reader = _Reader(text)
    reader.read()
    rules = reader.finished()
    if "root" not in reader.names:
        raise refused("the grammar has no rule 'root'")
    grammar = Grammar(rules, reader.names["root"])
    check(grammar, reader.name_of)
    return grammar


_SPACE: Final = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES: Final = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME: Final = re.compile(r"[a-zA-Z0-9-]+")
_COUNTS: Final = re.compile(r"\{\s*([0-9]{1,9})\s*(?:(,)\s*([0-9]{1,9})?\s*)?\}")
_END_OF_LINE: Final = re.compile(r"\r\n|\r|\n|\Z")
_PLAIN: Final = re.compile(r'[^"\\]+')
_ESCAPE: Final = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\\"\[\]-]))")
_CONTROL: Final = {"t": "\t", "r": "\r", "n": "\n"}
_SIGNS: Final = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._rules: list[Alternatives | None] = []
        self.names: dict[str, int] = {}
        self._items = 0
        self._ones: dict[int, Chars] = {}

    def read(self) -> None:
        self._skip(_SPACE_AND_LINES)
        while self._at < len(self._text):
            name = self._name()
            self._skip(_SPACE)
            if not self._text.startswith("::=", self._at):
                raise self._wrong("'::=' is missing")
            self._at += 3
            self._skip(_SPACE_AND_LINES)
            rule = self._number(name)
            if self._rules[rule] is not None:
                raise refused(f"the grammar defines rule {name!r} twice")
            self._rules[rule] = self._alternatives(0)
            end = _END_OF_LINE.match(self._text, self._at)
            if end is None:
                raise self._wrong("a rule must end with its line")
            self._at = end.end()
            self._skip(_SPACE_AND_LINES)

    def finished(self) -> tuple[Alternatives, ...]:
        for name, number in self.names.items():
            if self._rules[number] is None:
                raise refused(f"the grammar names rule {name!r} and does not define it")
        return tuple(rule for rule in self._rules if rule is not None)

    def name_of(self, number: int) -> str:
        """The name of a rule; a group has that of the first named rule before it."""
        known = {at: name for name, at in self.names.items()}
        return next(known[at] for at in range(number, -1, -1) if at in known)

    def _alternatives(self, depth: int) -> Alternatives:
        found = [self._sequence(depth)]
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            found.append(self._sequence(depth))
        return tuple(found)

    def _sequence(self, depth: int) -> tuple[Item, ...]:
        space = _SPACE_AND_LINES if depth else _SPACE
        items: list[Item] = []
        last = 0
        """Where the last symbol begins in ``items``: a string has several characters, and a repetition takes all."""
        while self._at < len(self._text):
            sign = self._text[self._at]
            if sign in "*+?{":
                least, most = self._counts(sign)
                if last == len(items):
                    raise self._wrong(f"there is nothing before {sign!r} to repeat")
                items[last:] = [Repeat(self._shared(tuple(items[last:])), least, most)] if most != 0 else []
            else:
                symbol = self._symbol(sign, depth)
                if symbol is None:
                    break
                last = len(items)
                items += symbol
                self._items += len(symbol)
                if self._items > MAX_ITEMS:
                    raise refused(f"the grammar has more than {MAX_ITEMS} characters and references")
            self._skip(space)
        return tuple(items)

    def _symbol(self, sign: str, depth: int) -> list[Item] | None:
        """What begins with ``sign``; None where a sequence ends."""
        if sign == '"':
            return self._string()
        if sign == "[":
            return [self._class()]
        if sign == ".":
            self._at += 1
            return [Chars(((1, MAX_CODE_POINT),))]
        if sign == "(":
            if depth >= MAX_DEPTH:
                raise refused(f"the grammar nests more than {MAX_DEPTH} parentheses")
            self._at += 1
            self._skip(_SPACE_AND_LINES)
            rule = self._new_rule()
            self._rules[rule] = self._alternatives(depth + 1)
            if not self._text.startswith(")", self._at):
                raise self._wrong("')' is missing")
            self._at += 1
            return [Ref(rule)]
        if sign in "<!":
            raise self._wrong("tokens by name or number are not allowed")
        if _NAME.match(sign):
            return [Ref(self._number(self._name()))]
        return None

    def _string(self) -> list[Item]:
        self._at += 1
        chars: list[Item] = []
        while True:
            plain = _PLAIN.match(self._text, self._at)
            if plain is not None:
                chars += map(self._one, map(ord, plain[0]))
                self._at = plain.end()
            if self._at >= len(self._text):
                raise self._wrong("a string does not end")
            if self._text[self._at] == '"':
                self._at += 1
                return chars
            chars.append(self._one(self._char()))

    def _one(self, code: int) -> Chars:
        return self._ones.setdefault(code, Chars(((code, code),)))

    def _class(self) -> Chars:
        self._at += 1
        inverse = self._text.startswith("^", self._at)
        self._at += inverse
        ranges: list[tuple[int, int]] = []
        while not self._text.startswith("]", self._at):
            low = high = self._char()
            if self._text.startswith("-", self._at) and not self._text.startswith("-]", self._at):
                self._at += 1
                high = self._char()
            if high < low:
                raise self._wrong("a range of characters runs backwards")
            ranges.append((low, high))
        self._at += 1
        found = inverted(ranges) if inverse and ranges else united(ranges)
        if not found:
            raise self._wrong("a character class admits nothing")
        return Chars(found)

    def _char(self) -> int:
        """One character of a string or a class, perhaps escaped."""
        if self._at >= len(self._text):
            raise self._wrong("a string or a character class does not end")
        if self._text[self._at] != "\\":
            self._at += 1
            return ord(self._text[self._at - 1])
        escape = _ESCAPE.match(self._text, self._at)
        if escape is None:
            raise self._wrong("an unknown escape")
        self._at = escape.end()
        two, four, eight, letter = escape.groups()
        if letter is not None:
            return ord(_CONTROL.get(letter, letter))
        code = int(two or four or eight, 16)
        if code == 0 or code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:
            raise self._wrong("an escape names no character of Unicode")
        return code

    def _counts(self, sign: str) -> tuple[int, int | None]:
        if sign != "{":
            self._at += 1
            return _SIGNS[sign]
        counts = _COUNTS.match(self._text, self._at)
        if counts is None:
            raise self._wrong("a repetition is {m}, {m,} or {m,n}")
        self._at = counts.end()
        least = int(counts[1])
        most = least if counts[2] is None else int(counts[3]) if counts[3] is not None else None
        if max(least, most or 0) > MAX_REPEAT:
            raise refused(f"the grammar repeats something more than {MAX_REPEAT} times")
        if most is not None and most < least:
            raise self._wrong(f"a repetition of at least {least} and at most {most}")
        return least, most

    def _shared(self, items: tuple[Item, ...]) -> int:
        """The rule of what is repeated."""
        if len(items) == 1 and isinstance(items[0], Ref):
            return items[0].rule
        rule = self._new_rule()
        self._rules[rule] = (items,)
        return rule

    def _name(self) -> str:
        name = _NAME.match(self._text, self._at)
        if name is None:
            raise self._wrong("the name of a rule is missing")
        self._at = name.end()
        return name[0]

    def _number(self, name: str) -> int:
        if name not in self.names:
            self.names[name] = self._new_rule()
        return self.names[name]

    def _new_rule(self) -> int:
        if len(self._rules) >= MAX_RULES:
            raise refused(f"the grammar has more than {MAX_RULES} rules and groups")
        self._rules.append(None)
        return len(self._rules) - 1

    def _skip(self, space: re.Pattern[str]) -> None:
        found = space.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _wrong(self, why: str) -> EngineError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return refused(f"the grammar cannot be read at line {line}, column {column}: {why}")
