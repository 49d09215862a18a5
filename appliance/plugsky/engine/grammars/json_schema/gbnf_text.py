"""GBNF written: strings, classes of characters, and rules that get their numbers as they come."""

from collections.abc import Iterable
from typing import Final

from plugsky.engine.grammars.grammar import refused

MAX_SUBSCHEMAS: Final = 4096
"""Schemas inside a schema, counting one again for each combination that it takes part in."""

_COMMON: Final = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "hex": "[0-9a-fA-F]",
    # No surrogates: a pair of them is one character to a schema that counts, and one alone is none.
    "char": r'[^"\\\x01-\x1f] | "\\" (["\\/bfnrt] | "u" ([0-9a-ce-fA-CE-F] hex{3} | [dD] [0-7] hex{2}))',
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,14})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "array": '"[" ws (value ("," ws value)* ws)? "]"',
    "object": '"{" ws (string ":" ws value ("," ws string ":" ws value)* ws)? "}"',
    "value": 'object | array | string | number | "true" | "false" | "null"',
}


class Rules:
    """The rules of one grammar. Common ones are always there; the name of one is its text elsewhere."""

    def __init__(self) -> None:
        self._rules: dict[str, str] = {}

    def reserve(self) -> str:
        """The name of a rule to be defined later: rules may name each other in circles."""
        name = f"r{len(self._rules)}"
        if len(self._rules) >= 2 * MAX_SUBSCHEMAS:
            raise refused("the schema becomes too large a grammar", "json_schema")
        self._rules[name] = ""
        return name

    def define(self, name: str, text: str) -> str:
        """Give a reserved name its text; the name again."""
        self._rules[name] = text
        return name

    def add(self, text: str) -> str:
        """A new rule; its name."""
        return self.define(self.reserve(), text)

    def text(self, root: str) -> str:
        """All of them, ``root`` first."""
        rules = {"root": root, **_COMMON, **self._rules}
        return "".join(f"{name} ::= {text}\n" for name, text in rules.items())


def literal(text: str) -> str:
    """GBNF that admits exactly ``text``. Raises ``schema_refused`` for half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refused("the schema holds half a surrogate pair", "json_schema") from error
    return '"' + "".join(map(_escaped, text)) + '"'


def char_class(ranges: Iterable[tuple[int, int]]) -> str:
    """GBNF that admits one character of these ranges of code points."""
    return "[" + "".join(_member(low, high) for low, high in ranges) + "]"


def counted(least: int, most: int | None) -> str:
    """The sign of a repetition."""
    if (least, most) == (0, None):
        return "*"
    return f"{{{least},{'' if most is None else most}}}"


def _member(low: int, high: int) -> str:
    return _code(low) if low == high else f"{_code(low)}-{_code(high)}"


def _escaped(char: str) -> str:
    return char if char.isprintable() and char not in '"\\' else _code(ord(char))


def _code(code: int) -> str:
    if code < 0x80:
        return chr(code) if chr(code).isalnum() else f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
