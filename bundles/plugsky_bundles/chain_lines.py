"""One line of a hash-chained log, read and written exactly. Pure.

A chain is a file of lines. Each line is one canonical JSON object (`strict_json.encode`) and a newline, with `seq`
counting from 0, `prev` = SHA-256 of the raw line before it, newline included (64 zeros before the first), and one of:

* `genesis`: `{schema: "plugsky.chain/1", origin, key: {keyid, keytype, scheme, public}}`; the first line, only there.
* `record`: an object of the caller's.
* `commit`: a DSSE envelope of type `application/vnd.plugsky.chain-head+json` whose payload is the canonical JSON of
  `{schema: "plugsky.chain-head/1", origin, seq, head}`: the number and the hash of the line before it.

A later file of the same chain (a segment) starts with a genesis whose `seq` and `prev` continue the file before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from securesystemslib.signer import Signer, SSlibKey

from plugsky_bundles import dsse
from plugsky_bundles.keys import public_dict, public_from_dict
from plugsky_bundles.strict_json import MAX_DEPTH, decode, encode, malformed, nesting

SCHEMA: Final = "plugsky.chain/1"
HEAD_SCHEMA: Final = "plugsky.chain-head/1"
HEAD_TYPE: Final = "application/vnd.plugsky.chain-head+json"
MAX_LINE: Final = 1 << 20
BODIES: Final = frozenset({"genesis", "record", "commit"})


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a chain: the number of a line and the SHA-256 of its raw bytes."""

    seq: int
    hash: str


START: Final = Position(-1, "0" * 64)


@dataclass(frozen=True, slots=True)
class Line:
    """A parsed line; `kind` is genesis, record or commit and `body` what stands under it."""

    seq: int
    prev: str
    kind: str
    body: Mapping[str, Any]
    hash: str

    @property
    def position(self) -> Position:
        return Position(self.seq, self.hash)


def write_line(after: Position, kind: str, body: Mapping[str, Any]) -> tuple[bytes, Position]:
    """The raw line after `after`, and its position. Raises ValueError or TypeError for a body without exact form."""
    raw = encode({"seq": after.seq + 1, "prev": after.hash, kind: dict(body)}) + b"\n"
    if len(raw) > MAX_LINE or nesting(raw) > MAX_DEPTH:
        msg = f"a line of a chain has at most {MAX_LINE} bytes and {MAX_DEPTH} levels"
        raise ValueError(msg)
    return raw, Position(after.seq + 1, hashlib.sha256(raw).hexdigest())


def read_line(raw: bytes) -> Line:
    """Parse one raw line, newline included. Raises MalformedMetadata unless it is exactly what `write_line` writes."""
    if len(raw) > MAX_LINE or not raw.endswith(b"\n"):
        raise malformed("A line of the log", "it is cut short or too long")
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and nesting(raw) > MAX_DEPTH:
        raise malformed("A line of the log", "it is nested too deep")
    try:
        value = decode(raw[:-1])
    except ValueError as error:
        raise malformed("A line of the log", f"it is not canonical JSON of exact values ({error})") from None
    if not isinstance(value, dict) or len(value) != 3:
        raise malformed("A line of the log", "it does not have seq, prev and one body")
    seq, prev = value.pop("seq", None), value.pop("prev", None)
    kind, body = value.popitem()
    if type(seq) is not int or not isinstance(prev, str) or kind not in BODIES or not isinstance(body, dict):
        raise malformed("A line of the log", "it does not have seq, prev and one body")
    return Line(seq, prev, kind, body, hashlib.sha256(raw).hexdigest())


def genesis(key: SSlibKey, origin: str) -> dict[str, Any]:
    """The body of a first line."""
    return {"schema": SCHEMA, "origin": origin, "key": public_dict(key)}


def read_genesis(line: Line) -> tuple[SSlibKey, str]:
    """The key and the origin that a first line names. Raises MalformedMetadata or BadKey."""
    body = line.body
    if line.kind != "genesis" or set(body) != {"schema", "origin", "key"} or body["schema"] != SCHEMA:
        raise malformed("The log", f"its first line is not a genesis of {SCHEMA}")
    if not isinstance(body["origin"], str):
        raise malformed("The log", "its origin is not text")
    return public_from_dict(body["key"]), body["origin"]


def head_payload(origin: str, head: Position) -> bytes:
    """What a commit signs."""
    return encode({"schema": HEAD_SCHEMA, "origin": origin, "seq": head.seq, "head": head.hash})


def sign_head(signer: Signer, origin: str, head: Position) -> dict[str, Any]:
    """The body of a commit line after `head`."""
    return dsse.sign(signer, HEAD_TYPE, head_payload(origin, head))
