"""Reading JSON that strangers send.

Strict RFC 8259 in UTF-8: no NaN or Infinity, no number beyond what a float or 64 bits hold, no half of a surrogate
pair, no nesting beyond what the decoder's stack allows; also in what is not read, or only passed on. Whatever is wrong
is ``bad_request`` with the place, and the message repeats nothing of the value.
"""

import re
from typing import Final, TypeVar

import msgspec

from plugsky.core.errors import ErrorKind, PlugskyError

ValueT = TypeVar("ValueT")

_MAYBE_LARGE: Final = re.compile(rb"\d{19}|\d[eE]\+?\d{3}")
_PLACE: Final = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`\Z")
_FIELD: Final = re.compile(r"Object (contains unknown|missing required) field `(.*)`\Z", re.DOTALL)
_VALUE: Final = re.compile(r"Invalid enum value .*", re.DOTALL)


def decode(body: bytes, kind: type[ValueT]) -> ValueT:
    """``body`` as a value of ``kind``. Raises ``bad_request``, or ``unsupported_field`` for a field none knows."""
    try:
        value = msgspec.json.decode(body, type=kind)
        if _MAYBE_LARGE.search(body):
            _refuse_large(body)
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
    return value


def _refuse_large(body: bytes) -> None:
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        members = {"": msgspec.Raw(body)}
    for place, raw in members.items():
        try:
            member = msgspec.json.decode(raw)
            large = not isinstance(member, int) and _holds_large(member)  # a seed may be as large as it likes
        except msgspec.ValidationError:
            large = True
        if large:
            raise _unusable(place[:120], "It holds a number beyond what 64 bits hold")


def _holds_large(value: object) -> bool:
    """Whether a whole number in it has no place in 64 bits: frames cannot carry it."""
    left = [value]
    while left:
        match left.pop():
            case int(number) if not -(1 << 63) <= number < 1 << 64:
                return True
            case dict(members):
                left += members.values()
            case list(items):
                left += items
    return False


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
    return _unusable(place, why)


def _unusable(place: str, why: str) -> PlugskyError:
    what = f"The parameter {place!a} cannot be used" if place else "The body cannot be used"
    return PlugskyError(ErrorKind.BAD_REQUEST, what, why=why, param=place or None)
