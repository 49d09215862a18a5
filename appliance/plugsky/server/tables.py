"""The parameters of one endpoint in three tables, so that nothing a client sends is dropped in silence.

Every parameter of the API is in exactly one (a test of each dialect compares them with its SDK's own types):

- *honoured*: it does what it says; *extensions* are honoured too, though they are not the vendor's;
- *ignored*: accepted, has no effect on the answer here, and is named in ``x-plugsky-ignored``;
- *refused*: 400 ``unsupported_field``, unless its value is one that asks for nothing.

A name in none of them is 400 ``unsupported_field`` too. A value of null is the same as an absent name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import Raw

from plugsky.core.errors import ErrorKind, PlugskyError

_MAX_HARMLESS: Final = 64


@dataclass(frozen=True)
class Refused:
    """A parameter that is not served: why, and the values that ask for nothing."""

    why: str
    harmless: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Tables:
    """The tables of one endpoint. ``ignored`` says why each has no effect."""

    honoured: frozenset[str]
    ignored: Mapping[str, str]
    refused: Mapping[str, Refused]
    extensions: frozenset[str] = field(default_factory=frozenset)

    def sort(self, names: Mapping[str, Raw]) -> set[str]:
        """The names accepted without effect. Raises ``unsupported_field`` for one that cannot be accepted."""
        without_effect = set()
        for name, raw in names.items():
            if name in self.honoured or name in self.extensions:
                continue
            if name in self.ignored:
                if bytes(raw) != b"null":
                    without_effect.add(name)
            elif name in self.refused:
                if not _asks_nothing(bytes(raw), self.refused[name].harmless):
                    raise PlugskyError(
                        ErrorKind.UNSUPPORTED_FIELD,
                        f"{name} is not supported here with this value",
                        why=self.refused[name].why,
                        param=name,
                    )
            else:
                raise unknown(name)
        return without_effect


def unknown(place: str) -> PlugskyError:
    """The error for a parameter in none of the tables."""
    shown = ascii(place[:80])
    return PlugskyError(ErrorKind.UNSUPPORTED_FIELD, f"The parameter {shown} is not known here", param=place[:80])


def _asks_nothing(raw: bytes, harmless: tuple[Any, ...]) -> bool:
    if len(raw) > _MAX_HARMLESS:
        return False
    value = msgspec.json.decode(raw)
    return value is None or any(type(value) is type(other) and value == other for other in harmless)
