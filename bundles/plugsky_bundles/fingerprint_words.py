"""A fingerprint as words that can be read out over a telephone and typed from paper. Pure; the standard library only.

256 bits are sixteen proquints (Wilkerson, arXiv:0901.4016): each five letters, consonant-vowel-consonant-vowel-
consonant, worth 4 + 2 + 4 + 2 + 4 bits, most significant first. A seventeenth word, the first 16 bits of the SHA-256 of
those 256 bits, tells a slip from another fingerprint. Written in groups of four; read in any case, with any spacing.

A word that cannot be one is named. One that could be is named where a single other letter, or the word beside it,
would make the last word right; it is never corrected: whoever holds the paper looks again.
"""

from __future__ import annotations

import hashlib
import re

CONSONANTS = "bdfghjklmnprstvz"
VOWELS = "aiou"
WORDS = 16
_WORD = re.compile(f"[{CONSONANTS}][{VOWELS}][{CONSONANTS}][{VOWELS}][{CONSONANTS}]")
_HEX = re.compile(r"[0-9a-f]{64}")
_BETWEEN = re.compile(r"[\s,;:._|/-]+")


def to_words(fingerprint: str) -> str:
    """`fingerprint`, 64 hex digits in either case, as 16 words and the one that checks them."""
    if _HEX.fullmatch(fingerprint.lower()) is None:
        raise ValueError("a fingerprint has 64 hexadecimal digits")
    data = bytes.fromhex(fingerprint)
    words = [_word(int.from_bytes(data[i : i + 2], "big")) for i in range(0, len(data), 2)]
    groups = ["-".join(words[i : i + 4]) for i in range(0, WORDS, 4)]
    return " ".join([*groups, _word(_check(data))])


def from_words(text: str) -> str:
    """The fingerprint that words say, as 64 lower-case hex digits. Raises ValueError naming the word that is wrong."""
    words = [word for word in _BETWEEN.split(text.lower()) if word]
    for number, word in enumerate(words, start=1):
        if _WORD.fullmatch(word) is None:
            raise ValueError(f"word {number}, {word!r}, is none: a word is five letters like {_word(0xB6F1)!r}")
    if len(words) != WORDS + 1:
        raise ValueError(f"there are {len(words)} words: a fingerprint has {WORDS}, and one that checks them")
    values = [_value(word) for word in words]
    if not _fits(values):
        raise ValueError(_suspect(words, values))
    return _bytes(values).hex()


def read_fingerprint(text: str) -> str:
    """A fingerprint as it stands on paper: 64 hex digits, also in groups, or words. Raises ValueError."""
    joined = "".join(text.split()).lower()
    if _HEX.fullmatch(joined):
        return joined
    if re.search(f"[{CONSONANTS}][{VOWELS}]", joined) is None:
        raise ValueError(f"one has 64 hexadecimal digits, or {WORDS + 1} words")
    return from_words(text)


def _word(value: int) -> str:
    c, v = CONSONANTS, VOWELS
    return c[value >> 12] + v[value >> 10 & 3] + c[value >> 6 & 15] + v[value >> 4 & 3] + c[value & 15]


def _value(word: str) -> int:
    value = 0
    for place, letter in enumerate(word):
        value = value << 2 | VOWELS.index(letter) if place % 2 else value << 4 | CONSONANTS.index(letter)
    return value


def _bytes(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values[:WORDS])


def _check(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:2], "big")


def _fits(values: list[int]) -> bool:
    return _check(_bytes(values)) == values[WORDS]


def _suspect(words: list[str], values: list[int]) -> str:
    """Which word to look at again: the only one with a single slip that would explain the last word."""
    swapped = [i for i in range(WORDS) if _fits([*values[:i], values[i + 1], values[i], *values[i + 2 :]])]
    if len(swapped) == 1:
        (i,) = swapped
        return f"words {i + 1} and {i + 2}, {words[i]!r} and {words[i + 1]!r}, seem to have changed places"
    near = {
        i
        for i, word in enumerate(words)
        for place in range(len(word))
        for letter in (VOWELS if place % 2 else CONSONANTS)
        if _fits([*values[:i], _value(word[:place] + letter + word[place + 1 :]), *values[i + 1 :]])
    }
    if len(near) == 1:
        (i,) = near
        return f"word {i + 1}, {words[i]!r}, seems to have a wrong letter: compare it with the paper"
    return f"the last word, {words[WORDS]!r}, does not fit the others: at least one word is wrong"
