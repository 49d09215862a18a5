"""Grammars of an answer, as values, and what has to be true of a whole one before anything runs by it.

Pure. :mod:`plugsky.engine.grammars.gbnf` reads them, :mod:`plugsky.engine.grammars.matcher` walks them. Refused are:
left recursion, a repetition of what may be empty, a grammar that admits only the empty text, or no finite one. Each
check is linear and keeps its own stack, so that a chain of thousands of rules is no deeper than one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError

MAX_CODE_POINT: Final = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of these ranges of code points, sorted, ends included."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Ref:
    """What the rule of this number admits."""

    rule: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """What a rule admits, ``least`` to ``most`` times (None: without end)."""

    rule: int
    least: int
    most: int | None


Item = Chars | Ref | Repeat
Alternatives = tuple[tuple[Item, ...], ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Checked rules; the answer is what rule ``root`` admits."""

    rules: tuple[Alternatives, ...]
    root: int


@dataclass(frozen=True, slots=True)
class GrammarSpec:
    """A grammar as a request carries it.

    With ``triggers`` the answer is free until one of these texts appears in it; the grammar then holds from the first
    character of that text on. An empty ``text`` asks for nothing. ``shown`` are names of control tokens that are part
    of the answer's text, so that the grammar may admit them.
    """

    text: str = ""
    triggers: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()


def refused(what: str, param: str = "grammar") -> EngineError:
    """A grammar or schema that cannot be enforced."""
    return EngineError(ErrorKind.SCHEMA_REFUSED, what, param=param)


def united(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """The same characters as sorted ranges that neither touch nor overlap."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def inverted(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """All other characters but NUL."""
    found, start = [], 1
    for low, high in united(ranges):
        if low > start:
            found.append((start, low - 1))
        start = high + 1
    return (*found, (start, MAX_CODE_POINT)) if start <= MAX_CODE_POINT else tuple(found)


def check(grammar: Grammar, name_of: Callable[[int], str]) -> None:
    """Refuse a grammar by which nothing could be written, or not in bounded time; ``name_of`` names a rule."""
    empty = _settled(grammar, chars=False)
    for number, alternatives in enumerate(grammar.rules):
        for item in _all(alternatives):
            if isinstance(item, Repeat) and empty[item.rule] and item.most != 1:
                raise refused(f"rule {name_of(number)!r} repeats something that may be empty")
    recursive = _left_recursive(grammar, empty)
    if recursive is not None:
        raise refused(f"rule {name_of(recursive)!r} is left-recursive: it begins with itself")
    if not _settled(grammar, chars=True)[grammar.root]:
        raise refused("the grammar admits no finite text")
    if not any(isinstance(item, Chars) for rule in _reached(grammar) for item in _all(grammar.rules[rule])):
        raise refused("the grammar admits the empty text only")


def _all(alternatives: Alternatives) -> list[Item]:
    return [item for items in alternatives for item in items]


def _may_be_empty(item: Item, known: list[bool]) -> bool:
    match item:
        case Chars():
            return False
        case Ref(rule):
            return known[rule]
        case Repeat(rule, least, _):
            return least == 0 or known[rule]


def _settled(grammar: Grammar, *, chars: bool) -> list[bool]:
    """For each rule whether it has an alternative of which all items hold, in time linear in the items.

    A character holds if ``chars``; a rule's name as the rule does; a repetition also if it may be left out.
    """
    known = [False] * len(grammar.rules)
    owners: list[int] = []
    missing: list[int] = []
    users: list[list[int]] = [[] for _ in grammar.rules]
    ready: list[int] = []
    for number, alternatives in enumerate(grammar.rules):
        for items in alternatives:
            if not chars and any(isinstance(item, Chars) for item in items):
                continue
            names = [item.rule for item in items if isinstance(item, Ref) or (isinstance(item, Repeat) and item.least)]
            for name in names:
                users[name].append(len(owners))
            if not names:
                ready.append(number)
            owners.append(number)
            missing.append(len(names))
    while ready:
        number = ready.pop()
        if not known[number]:
            known[number] = True
            for user in users[number]:
                missing[user] -= 1
                if not missing[user]:
                    ready.append(owners[user])
    return known


def _left_recursive(grammar: Grammar, empty: list[bool]) -> int | None:
    """A rule that can come to itself without a character in between, by a walk that keeps its own stack."""
    begins = [sorted(_beginnings(alternatives, empty)) for alternatives in grammar.rules]
    done, open_ = [False] * len(begins), [False] * len(begins)
    for start in range(len(begins)):
        path = [(start, iter(begins[start]))] if not done[start] else []
        open_[start] = bool(path)
        while path:
            number, following = path[-1]
            step = next(following, None)
            if step is None:
                path.pop()
                open_[number], done[number] = False, True
            elif open_[step]:
                return step
            elif not done[step]:
                open_[step] = True
                path.append((step, iter(begins[step])))
    return None


def _beginnings(alternatives: Alternatives, empty: list[bool]) -> set[int]:
    """The rules that may stand first."""
    found = set()
    for items in alternatives:
        for item in items:
            if not isinstance(item, Chars):
                found.add(item.rule)
            if not _may_be_empty(item, empty):
                break
    return found


def _reached(grammar: Grammar) -> set[int]:
    found, work = {grammar.root}, [grammar.root]
    while work:
        for item in _all(grammar.rules[work.pop()]):
            if not isinstance(item, Chars) and item.rule not in found:
                found.add(item.rule)
                work.append(item.rule)
    return found
