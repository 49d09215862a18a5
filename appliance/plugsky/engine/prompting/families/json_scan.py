"""Finds the end of a JSON value in text that arrives in pieces, and the first character that makes it none.

Strict RFC 8259: no ``NaN``, no comments, no trailing commas. Bounded: at most :data:`MAX_DEPTH` open brackets and
:data:`MAX_WORD` characters of a number. Each character is looked at once.
"""

import json
import re
from typing import Final, Literal

MAX_DEPTH: Final = 64
MAX_WORD: Final = 512
_SPACE: Final = " \t\n\r"
_PLAIN: Final = re.compile(r'[^"\\\x00-\x1f]*')
_WORD: Final = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_HEX: Final = frozenset("0123456789abcdefABCDEF")

State = Literal["value", "value or ]", "key", "key or }", ":", ", or end", "string", "escape", "hex", "word"]


def is_object(text: str) -> bool:
    """Whether ``text`` is one JSON object and nothing else but white space."""
    return text.lstrip(_SPACE)[:1] == "{" and is_value(text)


def is_value(text: str) -> bool:
    """Whether ``text`` is one JSON value and nothing else but white space."""
    scanner = JsonScanner()
    body = text.strip(_SPACE)
    return scanner.feed(body) == len(body) and scanner.end()


def string_of(text: str) -> str:
    """The value of a JSON string that a scanner has passed."""
    return str(json.loads(text))


class JsonScanner:
    """The state of one value. Feed it text until :attr:`done` or :attr:`failed`; :meth:`end` it where text ends."""

    def __init__(self) -> None:
        self.done = False
        self.failed = False
        self._state: State = "value"
        self._open: list[str] = []
        self._is_key = False
        self._left = 0
        self._word = ""

    def feed(self, text: str) -> int:
        """How many characters of ``text`` belong to the value; fewer than all when it is done or has failed."""
        at = 0
        while at < len(text) and not self.done and not self.failed:
            at = self._step(text, at)
        return at

    def end(self) -> bool:
        """There is no more text. Whether the value is whole: a number alone shows its end only here."""
        if self._state == "word" and not self.done and not self.failed:
            self._end_word()
        return self.done

    def _step(self, text: str, at: int) -> int:
        char = text[at]
        state = self._state
        if state == "string":
            return self._in_string(text, at)
        if state == "word":
            return self._in_word(text, at)
        if state == "escape":
            self._left = 4
            self._state = "hex" if char == "u" else "string"
            return self._accept(at, char in '"\\/bfnrtu')
        if state == "hex":
            self._left -= 1
            self._state = "hex" if self._left else "string"
            return self._accept(at, char in _HEX)
        if char in _SPACE:
            return at + 1
        return self._at_token(char, at)

    def _at_token(self, char: str, at: int) -> int:
        state = self._state
        if state == ":":
            self._state = "value"
            return self._accept(at, char == ":")
        if state == ", or end":
            if char == ",":
                self._state = "key" if self._open[-1] == "}" else "value"
                return at + 1
            return self._closed(at, char)
        if state in ("key", "key or }"):
            if char == "}" and state == "key or }":
                return self._closed(at, char)
            self._state, self._is_key = "string", True
            return self._accept(at, char == '"')
        if char == "]" and state == "value or ]":
            return self._closed(at, char)
        return self._opened(at, char)

    def _opened(self, at: int, char: str) -> int:
        if char in "{[":
            self._open.append("}" if char == "{" else "]")
            self._state = "key or }" if char == "{" else "value or ]"
            return self._accept(at, len(self._open) <= MAX_DEPTH)
        if char == '"':
            self._state, self._is_key = "string", False
            return at + 1
        self._state, self._word = "word", ""
        return (
            at if (_WORD.match(char) and char.isascii() and char.isalnum()) or char == "-" else self._accept(at, False)
        )

    def _in_string(self, text: str, at: int) -> int:
        plain = _PLAIN.match(text, at)
        at = plain.end() if plain else at
        if at == len(text):
            return at
        if text[at] == '"':
            if self._is_key:
                self._state, self._is_key = ":", False
            else:
                self._valued()
            return at + 1
        self._state = "escape"
        return self._accept(at, text[at] == "\\")

    def _in_word(self, text: str, at: int) -> int:
        found = _WORD.match(text, at)
        end = found.end() if found else at
        self._word += text[at:end]
        if len(self._word) > MAX_WORD:
            self.failed = True
        elif end < len(text):
            self._end_word()
        return end

    def _end_word(self) -> None:
        if self._word in ("true", "false", "null") or _NUMBER.fullmatch(self._word):
            self._valued()
        else:
            self.failed = True

    def _closed(self, at: int, char: str) -> int:
        if self._open.pop() != char:
            return self._accept(at, False)
        self._valued()
        return at + 1

    def _valued(self) -> None:
        self.done = not self._open
        self._state = ", or end"

    def _accept(self, at: int, fits: bool) -> int:
        if not fits:
            self.failed = True
        return at + fits
