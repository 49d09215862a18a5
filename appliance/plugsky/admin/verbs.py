"""The arguments of every verb, read from the :class:`~plugsky.admin.api.Admin` protocol itself.

So the protocol is the only place where a verb's shape is written down: what arrives is converted to its types, and a
missing, unknown or wrong argument is refused by name.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import msgspec

from plugsky.admin.api import Admin
from plugsky.admin.verb_table import VERBS, Verb
from plugsky.core.errors import ErrorKind, PlugskyError


@dataclass(frozen=True)
class Signature:
    """A verb with the type of all its arguments together."""

    verb: Verb
    arguments: type[msgspec.Struct]

    def read(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments, converted and complete. Raises BAD_REQUEST that names the one at fault."""
        try:
            return msgspec.structs.asdict(msgspec.convert(dict(given), self.arguments))
        except msgspec.ValidationError as error:
            raise PlugskyError(
                ErrorKind.BAD_REQUEST,
                f"the arguments of {self.verb.name} are not right",
                why=str(error),
                next="plugsky help",
            ) from None


@cache
def signature(name: str) -> Signature:
    """The signature of a verb. Raises NOT_FOUND for a name outside the table."""
    verb = VERBS.get(name)
    if verb is None:
        raise PlugskyError(ErrorKind.NOT_FOUND, "there is no such verb", why=f"Admin has {', '.join(VERBS)}")
    method = getattr(Admin, name)
    hints = get_type_hints(method)
    parameters = list(inspect.signature(method).parameters.values())[1:]
    arguments = msgspec.defstruct(
        f"{name}_arguments",
        [
            (p.name, hints[p.name]) if p.default is inspect.Parameter.empty else (p.name, hints[p.name], p.default)
            for p in parameters
        ],
        forbid_unknown_fields=True,
        frozen=True,
    )
    return Signature(verb, arguments)
