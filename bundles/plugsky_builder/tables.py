"""TOML tables read strictly: each key has one type, and a key nobody asked for is refused with a suggestion.

A `Table` remembers which keys were read; `end` refuses the others. All errors are `RecipeError` and name the file and
the place in it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from plugsky_bundles.errors import RecipeError
from plugsky_bundles.format import is_sha256


class Table:
    """One table of a recipe; `place` is how a person would name it, for example `model 1, file`."""

    def __init__(self, values: Mapping[str, Any], source: str, place: str = "") -> None:
        self._values = values
        self._source = source
        self._place = place
        self._known: list[str] = []

    def text(self, key: str, default: str | None = None) -> str:
        value = self._take(key, str, "a string", default)
        if not value.strip() or not value.isprintable():
            raise self.wrong(key, "must be one line of text")
        return str(value)

    def texts(self, key: str, default: list[str] | None = None) -> tuple[str, ...]:
        values = self._take(key, list, "a list of strings", default)
        if not all(isinstance(value, str) and value for value in values):
            raise self.wrong(key, "must be a list of strings")
        return tuple(values)

    def count(self, key: str, default: int | None = None) -> int:
        value = self._take(key, int, "a whole number", default)
        if isinstance(value, bool) or value < 1:
            raise self.wrong(key, "must be a whole number of at least 1")
        return int(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return bool(self._take(key, bool, "true or false", default))

    def choice(self, key: str, choices: tuple[str, ...], default: str | None = None) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self.wrong(key, f"is {value!r}, not one of {', '.join(choices)}{_suggestion(value, choices)}")
        return value

    def matching(self, key: str, pattern: re.Pattern[str], rule: str) -> str:
        """A text that `pattern` matches as a whole; `rule` says so in words."""
        value = self.text(key)
        if pattern.fullmatch(value) is None:
            raise self.wrong(key, rule)
        return value

    def sha256(self, key: str) -> str:
        value = self.text(key)
        if not is_sha256(value):
            raise self.wrong(key, "must be a SHA-256 of 64 lower-case hex digits")
        return value

    def table(self, key: str) -> Table:
        return Table(self._take(key, dict, "a table", None), self._source, self._at(key))

    def tables(self, key: str) -> list[Table]:
        values = self._take(key, list, "a list of tables", [])
        if not all(isinstance(value, dict) for value in values):
            raise self.wrong(key, "must be a list of tables")
        return [Table(value, self._source, self._at(f"{key} {number}")) for number, value in enumerate(values, 1)]

    def has(self, key: str) -> bool:
        """Whether the key is there; asking makes it a known key."""
        self._known.append(key)
        return key in self._values

    def end(self) -> None:
        """Refuse every key that was never asked for."""
        for key in self._values:
            if key not in self._known:
                where = f" in {self._place}" if self._place else ""
                raise RecipeError(
                    f"{self._source} cannot be used",
                    f"the key {key!r}{where} is not known{_suggestion(key, self._known)}",
                    "Correct the recipe",
                )

    def wrong(self, key: str, why: str) -> RecipeError:
        return RecipeError(f"{self._source} cannot be used", f"{self._at(key)} {why}", "Correct the recipe")

    def _at(self, key: str) -> str:
        return f"{self._place}, {key}" if self._place else key

    def _take(self, key: str, kind: type, kind_name: str, default: Any) -> Any:
        self._known.append(key)
        value = self._values.get(key, default)
        if value is None:
            unread = [name for name in self._values if name not in self._known]
            close = difflib.get_close_matches(key, unread, n=1)
            raise self.wrong(key, f"is missing; did you mean it by {close[0]!r}?" if close else "is missing")
        if not isinstance(value, kind):
            raise self.wrong(key, f"must be {kind_name}")
        return value


def _suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
