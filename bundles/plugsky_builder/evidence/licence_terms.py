"""What a package calls its own licence: an SPDX expression where it is one, else the names that it uses.

Nothing is guessed: `Apache 2.0` is a name and no expression, because a package that writes it has not said which
identifier of the SPDX list it means.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.message import Message
from typing import Final

from cyclonedx import spdx

MAX_NAME: Final = 100
MAX_NAMES: Final = 64
_CLASSIFIER: Final = "License :: "
_DEP5: Final = re.compile(r"^License:[ \t]*(\S[^\n]*)$", re.MULTILINE)
_FORMAT: Final = re.compile(r"^Format:[ \t]*https?://www\.debian\.org/doc/packaging-manuals/copyright-format/")


@dataclass(frozen=True, slots=True)
class Terms:
    """A valid SPDX `expression`, or else the `names` that the package uses; both empty where it says nothing."""

    expression: str = ""
    names: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """For people."""
        return self.expression or ", ".join(self.names) or "not stated"


def of_text(text: str) -> Terms:
    """The terms that one line states."""
    line = _line(text)
    if not line:
        return Terms()
    return Terms(expression=line) if spdx.is_supported_id(line) or spdx.is_expression(line) else Terms(names=(line,))


def of_wheel(about: Message) -> Terms:
    """The terms in a wheel's METADATA: `License-Expression` (PEP 639), else `License`, else its classifiers."""
    for field in ("License-Expression", "License"):
        if (terms := of_text(about.get(field, ""))) != Terms():
            return terms
    classifiers = (text.removeprefix(_CLASSIFIER) for text in about.get_all("Classifier", []) if _is_licence(text))
    return Terms(names=_few(text.rpartition(" :: ")[2] for text in classifiers))


def of_debian_copyright(texts: Iterable[bytes]) -> Terms:
    """The short names of a machine-readable copyright file (DEP 5); nothing of one that is free text."""
    found: set[str] = set()
    for raw in texts:
        text = raw.decode("utf-8", "replace")
        if _FORMAT.match(text):
            found |= {_line(name) for name in _DEP5.findall(text)}
    return Terms(names=_few(sorted(found)))


def _is_licence(classifier: str) -> bool:
    return classifier.startswith(_CLASSIFIER) and not classifier.endswith("OSI Approved")


def _few(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({line for name in names if (line := _line(name))}))[:MAX_NAMES]


def _line(text: str) -> str:
    """The first line that says something, without what a terminal or a viewer could be fooled by."""
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return "".join(c for c in first if c.isprintable())[:MAX_NAME]
