"""The entries of a dictionary as clients send them and get them: tab-separated lines, or CSV. Pure."""

import csv
import io
from collections.abc import Mapping
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError

MAX_TERM: Final = 1024
MAX_ENTRIES: Final = 10_000


def read(text: str, form: str, pair: tuple[str, str]) -> dict[str, str]:
    """The entries in ``text``, whose ``form`` is ``tsv`` or ``csv``. A line of CSV may name its languages too.

    Raises BAD_REQUEST with the line that cannot be one.
    """
    if form == "tsv":
        rows = enumerate((line.split("\t") for line in text.splitlines()), 1)
    elif form == "csv":
        rows = enumerate(csv.reader(io.StringIO(text), strict=True), 1)
    else:
        raise _bad("entries_format", "it is tsv or csv")
    found: dict[str, str] = {}
    try:
        for number, row in rows:
            if not any(cell.strip() for cell in row):
                continue
            source, target = _pair(number, row, pair)
            if source in found:
                raise _bad("entries", f"line {number}: the term {source[:80]!a} is there twice")
            found[source] = target
            if len(found) > MAX_ENTRIES:
                raise _bad("entries", f"there are more than {MAX_ENTRIES}")
    except csv.Error as error:
        raise _bad("entries", f"it is no CSV: {error}") from None
    if not found:
        raise _bad("entries", "there are none")
    return found


def written(entries: Mapping[str, str]) -> str:
    """Entries as tab-separated lines."""
    return "\n".join(f"{source}\t{target}" for source, target in entries.items())


def _pair(number: int, row: list[str], pair: tuple[str, str]) -> tuple[str, str]:
    if len(row) == 4 and (row[2].upper(), row[3].upper()) != pair:
        raise _bad("entries", f"line {number}: its languages are not {pair[0]} and {pair[1]}")
    if len(row) not in (2, 4):
        raise _bad("entries", f"line {number}: it has {len(row)} columns instead of two")
    source, target = row[0].strip(), row[1].strip()
    for term in (source, target):
        if not 0 < len(term) <= MAX_TERM or any(ord(letter) < 32 for letter in term):
            raise _bad("entries", f"line {number}: a term has 1 to {MAX_TERM} characters, none of control")
    return source, target


def _bad(param: str, why: str) -> PlugskyError:
    return PlugskyError(ErrorKind.BAD_REQUEST, f"The parameter {param} cannot be used", why=why, param=param)
