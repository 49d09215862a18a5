"""Reading JSON that strangers send.

Strict RFC 8259 in UTF-8: no NaN or Infinity, no number beyond what a float or 4,300 digits hold, no half of a surrogate
pair, no nesting beyond what the decoder's stack allows. Whatever is wrong is ``bad_request`` with the place, and the
message repeats nothing of the value.
"""

import re
from typing import Final, TypeVar

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError

ValueT = TypeVar("ValueT")

_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`\Z")
_FIELD: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`\Z", re.DOTALL)
_VALUE: Final = re.compile(r"Invalid enum value .*", re.DOTALL)


def decode(body: bytes, kind: type[ValueT]) -> ValueT:
    """``body`` as a value of ``kind``. Raises ``bad_request``, or ``unsupported_field`` for a field none knows."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            "The body is not valid JSON",
            why="it must be UTF-8, whole, and without NaN, Infinity or half of a surrogate pair",
        ) from None
    except RecursionError:
        raise PlugskyError(ErrorKind.BAD_REQUEST, "The body is nested too deeply") from None


def _misfit(message: str) -> PlugskyError:
    found = _PLACE.search(message)
    place = found.group(1).removesuffix("[...]") if found else ""
    why = message[: found.start()] if found else message
    field = _FIELD.match(why)
    if field is not None:
        place = f"{place}.{field.group(2)}" if place else field.group(2)
    place = place[:120]
    if field is not None and field.group(1) == "contains unknown":
        return PlugskyError(ErrorKind.UNSUPPORTED_FIELD, f"The parameter {place!a} is not known here", param=place)
    why = _VALUE.sub("It is not one of the allowed values", why)
    if field is not None:
        why = "It is missing"
    what = f"The parameter {place!a} cannot be used" if place else "The body cannot be used"
    return PlugskyError(ErrorKind.BAD_REQUEST, what, why=why, param=place or None)
