"""What of a text may not be translated freely: its tags, and the terms of a glossary. Pure.

Each becomes a placeholder, ``⟦1⟧``, that the model is told to keep, and comes back in the translation: a tag as it
was, a term as its glossary has it. Guarantees: a placeholder that a text already holds is protected like a tag; a
translation is taken only with every placeholder in it exactly once and its tags nested as tags nest; what was lost is
named; and all of it costs time in proportion to the text.
"""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

Tags = Literal["", "xml", "html"]
MAX_PLACEHOLDERS: Final = 512
_PLACEHOLDER: Final = re.compile(r"⟦\s*(\d+)\s*⟧")
_TAG: Final = re.compile(r"<[?!/]?[A-Za-z][^<>]*>")
_BLOCKS: Final = (("<!--", "-->"), ("<![CDATA[", "]]>"))
_NAME: Final = re.compile(r"</?([A-Za-z][\w:.-]*)")
_VOID: Final = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
)
"""Elements of HTML that have no end (WHATWG HTML, section 13.1.2)."""


@dataclass(frozen=True)
class Kept:
    """One placeholder: what it stands for, what it becomes, and the element that it begins or ends, if any."""

    source: str
    becomes: str
    opens: str = ""
    closes: str = ""


@dataclass(frozen=True)
class Protected:
    """A text as the model sees it; ``kept`` are its placeholders, ``⟦1⟧`` the first of them."""

    text: str
    kept: tuple[Kept, ...]
    tags: Tags

    @property
    def says_nothing(self) -> bool:
        """Whether there is nothing in it to translate."""
        return not _PLACEHOLDER.sub("", self.text).strip()

    def restored(self, translation: str) -> str:
        """The translation with everything in its place. Raises :class:`LostError` with what is not."""
        found = [int(match[1]) for match in _PLACEHOLDER.finditer(translation)]
        for number, kept in enumerate(self.kept, 1):
            if found.count(number) != 1:
                raise LostError(kept.source)
        for number in found:
            if not 1 <= number <= len(self.kept):
                raise LostError(f"⟦{number}⟧")
        self._check_nesting(found)
        pieces = _PLACEHOLDER.split(translation)
        texts = [html.escape(piece, quote=False) if self.tags else piece for piece in pieces[::2]]
        parts = [texts[0]]
        for number, text in zip(found, texts[1:], strict=True):
            parts += [self.kept[number - 1].becomes, text]
        return "".join(parts)

    def _check_nesting(self, found: Sequence[int]) -> None:
        open_now: list[str] = []
        for number in found:
            kept = self.kept[number - 1]
            if kept.opens:
                open_now.append(kept.opens)
            if kept.closes and (not open_now or open_now.pop() != kept.closes):
                raise LostError(kept.source)


class LostError(Exception):
    """A translation did not keep ``what``."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


def protect(
    text: str, tags: Tags = "", ignored: frozenset[str] = frozenset(), terms: Mapping[str, str] | None = None
) -> Protected:
    """A text with placeholders for its ``tags``, for what stands in ``ignored`` elements, and for ``terms``.

    Raises ValueError for more than :data:`MAX_PLACEHOLDERS`.
    """
    kept: list[Kept] = []

    def hold(one: Kept) -> str:
        kept.append(one)
        if len(kept) > MAX_PLACEHOLDERS:
            raise ValueError(f"it has more than {MAX_PLACEHOLDERS} tags and terms")
        return f"⟦{len(kept)}⟧"

    words = _words(terms or {})
    parts: list[str] = []
    for piece, is_tag in _pieces(text, tags, ignored):
        if is_tag:
            parts.append(hold(_tag(piece, tags)))
            continue
        plain = html.unescape(piece) if tags else piece
        end = 0
        for match in words.finditer(plain):
            parts.append(plain[end : match.start()])
            target = (terms or {}).get(match[0], match[0])
            parts.append(hold(Kept(match[0], html.escape(target, quote=False) if tags else target)))
            end = match.end()
        parts.append(plain[end:])
    nested = _nested(kept)
    return Protected("".join(parts), tuple(nested), tags)


def _words(terms: Mapping[str, str]) -> re.Pattern[str]:
    """Matches placeholders, and terms as whole words, the longest first."""
    ordered = sorted(terms, key=len, reverse=True)
    return re.compile("|".join([_PLACEHOLDER.pattern, *(rf"(?<!\w){re.escape(term)}(?!\w)" for term in ordered)]))


def _pieces(text: str, tags: Tags, ignored: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """What is to be translated and what is not, in order. An ignored element is one piece with all that is in it."""
    end = 0
    for start, stop in _marks(text) if tags else ():
        if start < end:
            continue  # inside an element that was left alone
        yield text[end:start], False
        tag, end = text[start:stop], stop
        name = _NAME.match(tag)
        if name is not None and name[1] in ignored and not tag.startswith("</") and not tag.endswith("/>"):
            end = _end_of(text, name[1], end)
        yield text[start:end], True
    yield text[end:], False


def _marks(text: str) -> Iterator[tuple[int, int]]:
    """Where each tag, comment and CDATA section begins and ends."""
    position = 0
    endless: set[str] = set()
    while (start := text.find("<", position)) >= 0:
        match = _TAG.match(text, start)
        end = match.end() if match is not None else -1
        for opening, closing in _BLOCKS:
            if text.startswith(opening, start) and closing not in endless:
                found = text.find(closing, start + len(opening))
                if found < 0:
                    endless.add(closing)
                else:
                    end = found + len(closing)
        if end > start:
            yield start, end
        position = max(start + 1, end)


def _end_of(text: str, name: str, start: int) -> int:
    depth = 1
    for match in re.compile(rf"<(/?){re.escape(name)}(?:\s[^<>]*)?>").finditer(text, start):
        if not match[0].endswith("/>"):
            depth += -1 if match[1] else 1
        if depth == 0:
            return match.end()
    return len(text)


def _tag(piece: str, tags: Tags) -> Kept:
    name = _NAME.match(piece)
    whole = _TAG.fullmatch(piece) is not None
    if name is None or not whole or piece.endswith("/>") or (tags == "html" and name[1].lower() in _VOID):
        return Kept(piece, piece)
    element = name[1].lower() if tags == "html" else name[1]
    return Kept(piece, piece, closes=element) if piece.startswith("</") else Kept(piece, piece, opens=element)


def _nested(kept: Sequence[Kept]) -> Iterator[Kept]:
    """The placeholders; where the text's own tags do not nest, none is asked of the translation."""
    open_now: list[str] = []
    for one in kept:
        if one.opens:
            open_now.append(one.opens)
        if one.closes and (not open_now or open_now.pop() != one.closes):
            return (Kept(each.source, each.becomes) for each in kept)
    return (Kept(each.source, each.becomes) for each in kept) if open_now else iter(kept)
