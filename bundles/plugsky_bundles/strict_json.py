"""JSON with one way to write each value, read with bounds before anything is trusted.

Reading, in this order: at most `limit` bytes; UTF-8; nesting at most `depth`; then parsed with duplicate keys, floats,
`NaN`, integers beyond 2^53 - 1 and lone surrogates refused. Writing: keys sorted, no spaces, ASCII escapes, integers
only. That is also the form python-tuf writes, so `is_canonical` can ask that a metadata file is nothing but its
content: then no byte can be added, dropped or changed without changing what is signed or who signed it.

Raises MalformedMetadata; `what` names the thing being read.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from plugsky_bundles.errors import MalformedMetadata

MAX_INTEGER: Final = (1 << 53) - 1
MAX_DIGITS: Final = 16
MAX_DEPTH: Final = 16

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_QUOTE: Final = ord('"')
_NO_MARK: Final = bytes(byte for byte in range(256) if byte not in b'"[]{}')


def parse(data: bytes, what: str, *, limit: int, depth: int = MAX_DEPTH) -> Any:
    """The value in `data`; `limit` in bytes."""
    if len(data) > limit:
        raise malformed(what, f"it has {len(data)} bytes, the limit is {limit}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise malformed(what, f"byte {error.start} is not UTF-8") from None
    if nesting(data) > depth:
        raise malformed(what, f"it is nested deeper than {depth}")
    try:
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_refuse, parse_constant=_refuse
        )
        if _SURROGATE.search(data):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise malformed(what, f"it is not strict JSON ({error})") from None
    return value


def parse_object(data: bytes, what: str, *, limit: int, depth: int = MAX_DEPTH) -> dict[str, Any]:
    """As `parse`, and the value is an object."""
    value = parse(data, what, limit=limit, depth=depth)
    if not isinstance(value, dict):
        raise malformed(what, "it is not a JSON object")
    return value


def encode(value: Any) -> bytes:
    """The one way to write `value`. Raises TypeError or ValueError for what has no exact form."""
    _check(value)
    return _WRITER.encode(value).encode("ascii")


def decode(data: bytes) -> Any:
    """The value that `encode` wrote as `data`, of bounded nesting. Raises ValueError for any other bytes."""
    value = _READER.decode(data.decode("ascii"))
    if _WRITER.encode(value).encode("ascii") != data:
        msg = "it is not in its canonical form"
        raise ValueError(msg)
    return value


def is_canonical(data: bytes, value: Any) -> bool:
    """Whether `data` is exactly how `value`, parsed from it, is written."""
    return encode(value) == data


def nesting(data: bytes) -> int:
    """The deepest nesting of brackets outside strings, as far as `data` is JSON; in linear time for any bytes."""
    marks = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_MARK)
    depth = deepest = 0
    inside = False
    for mark in marks:
        if mark == _QUOTE:
            inside = not inside
        elif not inside:
            depth += 1 if mark in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


def malformed(what: str, why: str) -> MalformedMetadata:
    return MalformedMetadata(f"{what} is malformed", why, "Do not use it; get another copy from where it came from")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        msg = "a key occurs twice"
        raise ValueError(msg)
    return members


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1 or abs(value := int(digits)) > MAX_INTEGER:
        msg = "an integer beyond 2^53 - 1"
        raise ValueError(msg)
    return value


def _refuse(token: str) -> Any:
    msg = f"{token[:20]!r} is not an integer"
    raise ValueError(msg)


_READER: Final = json.JSONDecoder(parse_int=_integer, parse_float=_refuse, parse_constant=_refuse)
_WRITER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _check(value: Any) -> None:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            msg = "an integer beyond 2^53 - 1 has no exact form"
            raise ValueError(msg)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                msg = "only strings can be keys"
                raise TypeError(msg)
            _check(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item)
    else:
        msg = f"a {type(value).__name__} has no exact form"
        raise TypeError(msg)
