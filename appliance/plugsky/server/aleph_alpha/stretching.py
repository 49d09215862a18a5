"""Cutting a prompt into stretches whose weight is asked for. Pure.

A stretch begins and ends at a character that is no white space. Positions are in characters of the text.
"""

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

Span = tuple[int, int]
"""Where a stretch begins, and behind its end."""
WANTED: Final = 30
"""About how many stretches a prompt is cut into where nothing else is asked."""
_POSTPROCESSING: Final[Mapping[str, Callable[[float], float]]] = {
    "none": lambda score: score,
    "absolute": abs,
    "square": lambda score: score * score,
}
_BETWEEN: Final = {
    "word": re.compile(r"\s+"),
    "sentence": re.compile(r"(?<=[.!?])\s+|\n+"),
    "paragraph": re.compile(r"\s*\n\s*\n\s*"),
}


def spans(text: str, granularity: str, delimiter: str | None, tokens: Sequence[Span]) -> list[Span]:
    """The stretches of ``text``: its ``tokens``, words, sentences, paragraphs, or what stands between a delimiter."""
    if granularity == "token":
        return [span for begin, end in tokens if (span := _trimmed(text, begin, end)) is not None]
    between = re.compile(re.escape(delimiter)) if delimiter is not None else _BETWEEN[granularity]
    found, begin = [], 0
    for match in between.finditer(text):
        found.append((begin, match.start()))
        begin = match.end()
    found.append((begin, len(text)))
    return [span for begin, end in found if (span := _trimmed(text, begin, end)) is not None]


def chosen(counts: dict[str, int]) -> str:
    """The granularity that comes nearest to :data:`WANTED` stretches; the finest of those that come as near."""
    return min(counts, key=lambda name: (abs(counts[name] - WANTED), -counts[name]))


def token_spans(text: str, pieces: Sequence[bytes]) -> list[Span]:
    """Where each token of a text stands in it.

    What a vocabulary puts before any text stands at the beginning, and is empty. A token that ends within a character
    ends behind it.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    place = len(text) - len(b"".join(pieces).decode(errors="replace"))
    found = []
    for piece in pieces:
        begin, place = place, place + len(decoder.decode(piece))
        found.append((max(0, begin), max(0, place)))
    return found


def overlapping(span: Span, tokens: Sequence[Span]) -> frozenset[int]:
    """The numbers of the tokens that a stretch touches."""
    begin, end = span
    return frozenset(number for number, (first, last) in enumerate(tokens) if first < end and last > begin)


def finished(scores: Sequence[Sequence[float]], postprocessing: str, *, normalize: bool) -> list[list[float]]:
    """Scores of several items as they are told: absolute or squared, then from 0 for the least to 1 for the most."""
    act = _POSTPROCESSING[postprocessing]
    made = [[act(score) for score in item] for item in scores]
    every = [score for item in made for score in item]
    if not normalize or not every:
        return made
    least, most = min(every), max(every)
    width = most - least
    return [[(score - least) / width if width else 0.0 for score in item] for item in made]


def _trimmed(text: str, begin: int, end: int) -> Span | None:
    part = text[begin:end]
    if not part.strip():
        return None
    return begin + len(part) - len(part.lstrip()), begin + len(part.rstrip())
