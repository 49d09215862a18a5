"""What is looked for in the trail. Pure.

A text is split at white space, and a record must hold every part of it, whatever its case:

* ``name=value``: a fact that is exactly this, such as ``tenant=treasury``;
* ``trea*``: a word that begins so, with at least :data:`MIN_BEGINNING` characters;
* anything else: its words. Words are runs of letters and digits, so ``job-1`` asks for ``job`` and for ``1``.

Words are those of a record's actor, action, subject, outcome, and of the facts that are text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from plugsky.audit.trail import Record
from plugsky.core.errors import ErrorKind, PlugskyError

MIN_BEGINNING: Final = 3
_TRUTHS: Final = ("true", "false")
_WORD: Final = re.compile(r"[^\W_]+")
_FACT: Final = re.compile(r"(\w+)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Query:
    """``action``: the whole, or what stands before a dot. ``since`` inclusive, ``until`` exclusive, both RFC 3339 as
    :func:`plugsky.core.clock.rfc3339` writes it.
    """

    words: frozenset[str] = frozenset()
    beginnings: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    action: str = ""
    since: str | None = None
    until: str | None = None

    @classmethod
    def parse(cls, text: str, action: str = "", since: str | None = None, until: str | None = None) -> "Query":
        """Raises BAD_REQUEST where a part of ``text`` asks for nothing that can be found."""
        words: set[str] = set()
        beginnings: list[str] = []
        facts: list[tuple[str, str]] = []
        for part in text.split():
            if fact := _FACT.fullmatch(part):
                facts.append((fact[1], fact[2].casefold()))
                continue
            found = words_of(part)
            if part.endswith("*"):
                beginning = found.pop() if found else ""
                if len(beginning) < MIN_BEGINNING:
                    raise _cannot(part, f"a beginning has at least {MIN_BEGINNING} characters")
                beginnings.append(beginning)
            elif not found:
                raise _cannot(part, "it has no letter and no digit")
            words.update(found)
        return cls(frozenset(words), tuple(beginnings), tuple(facts), action, since, until)

    def indexed_words(self) -> frozenset[str]:
        """Words that every record has which fits. A fact that may be a number or a truth has none: only texts do."""
        texts = (value for _, value in self.facts if not value.lstrip("-").isdecimal() and value not in _TRUTHS)
        return self.words.union(*map(words_of, texts))

    def fits(self, record: Record) -> bool:
        """Whether ``record`` is looked for."""
        if self.action and record.action != self.action and not record.action.startswith(f"{self.action}."):
            return False
        if (self.since is not None and record.time < self.since) or (
            self.until is not None and record.time >= self.until
        ):
            return False
        if any(_fact_of(record, name) != value for name, value in self.facts):
            return False
        if not self.words and not self.beginnings:
            return True
        held = set(words_in(record))
        return self.words <= held and all(any(word.startswith(start) for word in held) for start in self.beginnings)


def words_of(text: str) -> list[str]:
    """The words of a text, in one case."""
    return _WORD.findall(text.casefold())


def words_in(record: Record) -> Iterator[str]:
    """The words that a record is found by."""
    for part in (record.actor, record.action, record.subject, record.outcome, *record.fields.values()):
        if isinstance(part, str):
            yield from words_of(part)


def _fact_of(record: Record, name: str) -> str:
    value = record.fields.get(name)
    return "" if value is None else str(value).casefold()


def _cannot(part: str, why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.BAD_REQUEST,
        f"`{part}` cannot be looked for",
        why=why,
        next=f"look for whole words, or for a beginning of at least {MIN_BEGINNING} characters and a *",
        param="text",
    )
