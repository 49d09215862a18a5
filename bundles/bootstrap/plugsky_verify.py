#!/usr/bin/env python3
"""Verify a Plugsky bundle with nothing but Python 3.9 and its standard library.

    python3 -I plugsky_verify.py BUNDLE --pin FINGERPRINT [--all] [--json] [--copy PREFIX DIRECTORY]
    python3 -I plugsky_verify.py BUNDLE --site DIRECTORY

This file is written to be read: it is the specification, in the order in which things are checked. It says the same as
`plugsky bundle verify` about every bundle, with the same name for what is wrong, and shares no code with it.

 1. Arguments. Trust comes from the fingerprint on paper (64 hex digits, or as words) or from a site's trust state.
 2. The directory is listed; links, devices and pipes are refused, none is followed or opened.
 3. JSON is read with bounds: size, UTF-8, depth, no key twice, integers up to 2^53 - 1; a metadata file is its own
    canonical form, and says what it is, from when and until when.
 4. Keys: ed25519 or ECDSA P-256 with SHA-256, written in one way only, named by the SHA-256 of their canonical form.
 5. Signatures: over the OLPC canonical JSON of `signed`. Every one is by a key that the role names and fits; there are
    at least as many as the threshold. More would not help: one that does not fit refuses the file.
 6. Roots: a chain without gaps, at most 8 MiB; the pinned one is among them, by its digest, before any is looked into;
    each signed by its own root keys and by those of the root before. The newest counts.
 7. Timestamp, the snapshot that it names by length and SHA-256, then targets and its five roles likewise. Targets binds
    what its people signed together: the roles, the content, and the files beside it, so that the snapshot, which the
    build machine signs, can mix nothing. All are of one channel; none is older than what the site accepted before;
    none has expired by the latest of the clock, the site's newest time and the time of sealing, which may be at most
    two days ahead.
 8. Names of files, chunk lists, and the exact set: what is listed is there with its length, and nothing else is.
 9. Revocations: of this bundle, its files, their chunks, its keys.
10. Bytes: by default of everything but models/ and debs/, with --all of everything: each blob against its name, each
    file against its SHA-256; the custody log against its chain and its key.

Exit code: 0 verified, 2 usage, 5 not verified (do not use the bundle), 7 no bundle there, 1 the copy could not be
written, 130 interrupted. Nothing is written anywhere, but for --copy. Times are UTC. Formats: docs/formats.md.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import errno
import hashlib
import json
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any, BinaryIO, Callable, NamedTuple, NoReturn

ROLES = ("models", "python", "debs", "playbooks", "policy")
TOP_LEVEL = ("root", "snapshot", "targets", "timestamp")
LIMITS = {"root": 512_000, "timestamp": 16_384, "snapshot": 2_000_000, "targets": 5_000_000}
MAX_ROOTS, MAX_ROOT_CHAIN, MAX_KEYS, MAX_SIGNATURES, MAX_VERSION = 256, 8 << 20, 64, 32, (1 << 31) - 1
MAX_LISTED, MAX_DIRECTORIES_DEEP, MAX_JSON_DEEP, MAX_INTEGER = 2_000_000, 10, 16, (1 << 53) - 1
MAX_TARGETS, MAX_FILE, MAX_CHUNK, MAX_CHUNKS = 100_000, 1 << 46, 64 << 20, 1 << 20
MAX_STATE, MAX_REVOCATIONS, MAX_LINE = 16 << 20, 1 << 20, 1 << 20
CLOCKS_APART = timedelta(days=2)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
NOT_IN_BOOTSTRAP = ("models", "debs")
CUSTODY, REVOCATIONS = "evidence/custody.jsonl", "policy/revocations.json"
HEAD_TYPE = "application/vnd.plugsky.chain-head+json"

RECOPY = "Copy the bundle again from its source"
REFUSE = "Do not use it; get another copy from where it came from"
NEWER = "Ask for a newer bundle"
ERRORS = {  # the name that `plugsky bundle verify --json` gives it, too: what happened, and what to do
    "bad_key": ("A key is not allowed", REFUSE),
    "base_missing": (
        "A part is not on the media and not held here",
        "Name its site by --site, or ask for a full bundle",
    ),
    "blob_missing": ("A file is missing", RECOPY),
    "chain_error": ("The custody log is not intact", "Keep it as evidence, and compare it with a copy made earlier"),
    "digest_mismatch": ("Bytes are not the ones that were signed", RECOPY),
    "malformed_chunk_list": ("A chunk list is malformed", REFUSE),
    "malformed_metadata": ("Metadata is malformed", REFUSE),
    "media_unreadable": ("The media cannot be read", "Try another reader, port or copy"),
    "metadata_expired": ("Metadata has expired", NEWER + "; if the clock is wrong, set it"),
    "metadata_missing": ("Metadata is missing", RECOPY),
    "mix_and_match": ("Metadata is from another bundle", RECOPY),
    "not_found": ("There is no bundle, or no site", "Give the directory named plugsky-CHANNEL-VERSION"),
    "not_sealed": ("The bundle is not sealed", "Run `plugsky bundle seal` on it"),
    "revoked": ("The bundle holds what has been revoked", NEWER),
    "rollback": ("The bundle is not newer than what was accepted before", "Use the newest bundle of this channel"),
    "sealed_in_future": ("The time of sealing has not come yet", "Set this host's clock; or ask for a right bundle"),
    "signature_invalid": ("A signature does not fit", RECOPY),
    "signature_missing": ("A file is not signed", RECOPY),
    "signature_unknown": ("A signature is by a key that may not sign this", REFUSE),
    "threshold_not_met": ("Too few have signed", "Have more of its signers sign, where it is built"),
    "unlisted_file": ("Something does not belong in the bundle", "Remove it; or copy the bundle again from its source"),
    "unsafe_name": ("A name is not allowed", REFUSE),
    "usage": ("The fingerprint given with --pin is none", "Compare it with the paper, word by word, and run it again"),
    "untrusted_root": ("The bundle is not signed for here", "Compare with --pin FINGERPRINT from the paper"),
}


class Refused(Exception):  # noqa: N818 - it says what happened to the bundle
    """The bundle is not verified. `why` may quote the media; then it is escaped."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(code, why)
        self.code, self.why, (self.what, self.then) = code, shown(why), ERRORS[code]
        self.exit_code = {"not_found": 7, "usage": 2}.get(code, 5)


def shown(text: str) -> str:
    """Text from media on one line, with nothing in it that a terminal obeys."""
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return safe if len(safe) <= 600 else safe[:600] + "..."


def malformed(what: str, why: str) -> Refused:
    return Refused("malformed_metadata", f"{what}: {why}")


# 3. JSON and times


QUOTE = ord('"')
NO_MARK = bytes(byte for byte in range(256) if byte not in b'"[]{}')
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def is_sha256(text: Any) -> bool:
    return isinstance(text, str) and SHA256.fullmatch(text) is not None


def nesting(data: bytes) -> int:
    marks = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, NO_MARK)
    depth = deepest = 0
    inside = False
    for mark in marks:
        if mark == QUOTE:
            inside = not inside
        elif not inside:
            depth += 1 if mark in b"[{" else -1
            deepest = max(deepest, depth)
    return deepest


def parse_object(data: bytes, what: str, limit: int) -> dict[str, Any]:
    """A JSON object, or malformed_metadata."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def integer(digits: str) -> int:
        if len(digits) > 17 or abs(int(digits)) > MAX_INTEGER:
            raise ValueError("an integer beyond 2^53 - 1")
        return int(digits)

    def refuse(token: str) -> NoReturn:
        raise ValueError(f"{token[:20]!r} is not an integer")

    if len(data) > limit:
        raise malformed(what, f"it has {len(data)} bytes, the limit is {limit}")
    if nesting(data) > MAX_JSON_DEEP:
        raise malformed(what, f"it is nested deeper than {MAX_JSON_DEEP}")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=unique, parse_int=integer, parse_float=refuse, parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except ValueError as error:
        raise malformed(what, f"it is not strict JSON ({error})") from None
    if not isinstance(value, dict):
        raise malformed(what, "it is not a JSON object")
    return value


def encode(value: Any) -> bytes:
    """Canonical JSON, in which every file of ours is written."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def olpc(value: Any) -> str:
    """OLPC canonical JSON, which TUF signs: as above, but strings escape only the quote and the backslash."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, dict):
        return "{" + ",".join(f"{olpc(key)}:{olpc(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(olpc(item) for item in value) + "]"
    return json.dumps(value)


STAMP = "%Y-%m-%dT%H:%M:%SZ"


def parse_time(text: Any, what: str) -> datetime:
    try:
        moment = datetime.strptime(text, STAMP).replace(tzinfo=timezone.utc)
        if moment.strftime(STAMP) == text:
            return moment
    except (TypeError, ValueError):
        pass
    raise malformed(what, f"{text!r} is not a UTC time like 2026-01-31T12:00:00Z")


# 4. and 5. Signatures. All values are public, so constant time does not matter; both groups use formulas without
# exceptional cases, so that adding and doubling are one function.


Sink = Callable[[bytes], Any]
Point = Any  # (X, Y, Z, T) on edwards25519, (X, Y, Z) on P-256: projective coordinates


def combine(add: Callable[[Point, Point], Point], zero: Point, a: int, p: Point, b: int, q: Point) -> Point:
    """a*p + b*q, both scalars bit by bit together."""
    choices = (zero, p, q, add(p, q))
    total = zero
    for bit in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        total = add(total, total)
        choice = (a >> bit & 1) | (b >> bit & 1) << 1
        if choice:
            total = add(total, choices[choice])
    return total


P25519 = 2**255 - 19
L25519 = 2**252 + 27742317777372353535851937790883648493
D25519 = -121665 * pow(121666, -1, P25519) % P25519
SQRT_MINUS_1 = pow(2, (P25519 - 1) // 4, P25519)
SMALL_ORDER = (  # y of the eight points whose multiple by eight is the neutral element
    0,
    1,
    P25519 - 1,
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
)


def add_25519(p: Point, q: Point) -> Point:
    """RFC 8032, section 5.1.4."""
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P25519, (p[1] + p[0]) * (q[1] + q[0]) % P25519
    c, d = 2 * p[3] * q[3] * D25519 % P25519, 2 * p[2] * q[2] % P25519
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % P25519, g * h % P25519, f * g % P25519, e * h % P25519)


def decode_25519(data: bytes) -> Point | None:
    """RFC 8032, section 5.1.3; None when the bytes are no point."""
    number = int.from_bytes(data, "little")
    y, sign = number & ((1 << 255) - 1), number >> 255
    u, v = (y * y - 1) % P25519, (D25519 * y * y + 1) % P25519
    x = u * pow(v, 3, P25519) * pow(u * pow(v, 7, P25519), (P25519 - 5) // 8, P25519) % P25519
    if (v * x * x - u) % P25519:
        x = x * SQRT_MINUS_1 % P25519
        if (v * x * x - u) % P25519:
            return None
    if x & 1 != sign:
        x = -x % P25519
    return (x, y, 1, x * y % P25519)


BASE_25519 = decode_25519((4 * pow(5, -1, P25519) % P25519).to_bytes(32, "little"))


def verify_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    """RFC 8032, section 5.1.7, without cofactor: S below the group order, and R exactly the bytes of S*B - k*A."""
    if len(public) != 32 or len(signature) != 64:
        return False
    key, s = decode_25519(public), int.from_bytes(signature[32:], "little")
    if key is None or s >= L25519:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L25519
    minus_key = (-key[0] % P25519, key[1], 1, -key[3] % P25519)
    x, y, z, _ = combine(add_25519, (0, 1, 1, 0), s, BASE_25519, k, minus_key)
    inverse = pow(z, -1, P25519)
    encoded = y * inverse % P25519 | (x * inverse % P25519 & 1) << 255
    return bool(encoded.to_bytes(32, "little") == signature[:32])


P256 = 2**256 - 2**224 + 2**192 + 2**96 - 1
N256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
B256 = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
BASE_256 = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
    1,
)
SPKI_256 = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")  # what stands before x and y


def add_256(p: Point, q: Point) -> Point:
    """y^2 = x^3 - 3x + b: the complete addition of Renes, Costello and Batina (2015), equation (1) with a = -3."""
    (x1, y1, z1), (x2, y2, z2) = p, q
    xx, yy, zz = x1 * x2, y1 * y2, z1 * z2
    xy, xz, yz = x1 * y2 + x2 * y1, x1 * z2 + x2 * z1, y1 * z2 + y2 * z1
    right = -3 * xz + 3 * B256 * zz
    u, v, w, t = yy - right, yy + right, 3 * xx - 3 * zz, -3 * xx + 3 * B256 * xz - 9 * zz
    return ((xy * u - yz * t) % P256, (v * u + w * t) % P256, (yz * v + xy * w) % P256)


def decode_256(pem: str) -> Point | None:
    """A SubjectPublicKeyInfo with an uncompressed point, in the one way that PEM is written here; None otherwise."""
    body = "".join(pem.split("\n")[1:-2])
    try:
        der = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
    text = base64.b64encode(der).decode("ascii")
    if pem != f"-----BEGIN PUBLIC KEY-----\n{text[:64]}\n{text[64:]}\n-----END PUBLIC KEY-----\n":
        return None
    x, y = int.from_bytes(der[27:59], "big"), int.from_bytes(der[59:], "big")
    if len(der) != 91 or der[:27] != SPKI_256 or max(x, y) >= P256 or (y * y - x * x * x + 3 * x - B256) % P256:
        return None
    return (x, y, 1)


def decode_der_pair(data: bytes) -> tuple[int, int] | None:
    """SEQUENCE { r INTEGER, s INTEGER } in DER: shortest form, not negative, nothing after it; None otherwise."""
    values, rest = [], data[2:]
    if len(data) < 8 or len(data) > 72 or data[0] != 0x30 or data[1] != len(rest):
        return None
    for _ in range(2):
        if len(rest) < 3 or rest[0] != 2 or not 1 <= rest[1] <= len(rest) - 2:
            return None
        number, rest = rest[2 : 2 + rest[1]], rest[2 + rest[1] :]
        if number[0] >= 0x80 or (len(number) > 1 and number[0] == 0 and number[1] < 0x80):
            return None
        values.append(int.from_bytes(number, "big"))
    return None if rest else (values[0], values[1])


def verify_p256(pem: str, signature: bytes, message: bytes) -> bool:
    """FIPS 186-5, section 6.4.2, with SHA-256."""
    key, pair = decode_256(pem), decode_der_pair(signature)
    if key is None or pair is None or not all(1 <= value < N256 for value in pair):
        return False
    r, s = pair
    inverse = pow(s, -1, N256)
    e = int.from_bytes(hashlib.sha256(message).digest(), "big")
    x, _, z = combine(add_256, (0, 1, 0), e * inverse % N256, BASE_256, r * inverse % N256, key)
    return bool(z != 0 and x * pow(z, -1, P256) % P256 % N256 == r)


def fits(key: dict[str, Any], signature: bytes, message: bytes) -> bool:
    public: str = key["keyval"]["public"]
    if key["scheme"] == "ed25519":
        return verify_ed25519(bytes.fromhex(public), signature, message)
    return verify_p256(public, signature, message)


def check_key(keyid: str, key: dict[str, Any]) -> None:
    kind, keyval = (key.get("keytype"), key.get("scheme")), key.get("keyval")
    public: Any = keyval.get("public") if isinstance(keyval, dict) and len(keyval) == 1 else None
    if kind == ("ed25519", "ed25519") and is_sha256(public):
        y = int.from_bytes(bytes.fromhex(public), "little") & ((1 << 255) - 1)
        usable = y < P25519 and y not in SMALL_ORDER
    else:
        allowed = kind == ("ecdsa", "ecdsa-sha2-nistp256") and isinstance(public, str)
        usable = allowed and decode_256(public) is not None
    if not usable or set(key) != {"keytype", "scheme", "keyval"}:
        raise Refused("bad_key", f"{keyid} is not an ed25519 or P-256 key in its one form")
    name = hashlib.sha256(olpc(key).encode("utf-8")).hexdigest()
    if name != keyid:
        raise Refused("bad_key", f"{keyid} is not the hash of its key, which is {name}")


# 3. to 5. One metadata file

HEX = re.compile(r"(?:[0-9a-f]{2}){1,128}", re.ASCII)
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
CHANNEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)


def check_keys(keys: Any, what: str) -> None:
    if not isinstance(keys, dict) or not all(isinstance(key, dict) for key in keys.values()):
        raise malformed(what, "its keys are not objects by keyid")
    if len(keys) > MAX_KEYS:
        raise Refused("bad_key", f"{what}: more than {MAX_KEYS} keys")
    for keyid, key in keys.items():
        check_key(keyid, key)


class Metadata(NamedTuple):
    """A file of `metadata/`; `what` names it, `signatures` are hex by keyid."""

    what: str
    signed: dict[str, Any]
    signatures: dict[str, str]


def check_version(version: Any) -> int:
    if type(version) is not int or not 1 <= version <= MAX_VERSION:
        raise malformed("A version", f"{version!r} is out of range")
    return version


def check_channel(channel: Any) -> str:
    if not isinstance(channel, str) or CHANNEL.fullmatch(channel) is None:
        raise Refused("unsafe_name", f"the channel {channel!r}")
    return channel


def read_metadata(data: bytes, kind: str, what: str) -> Metadata:
    members = parse_object(data, what, LIMITS[kind])
    signed, entries = members.get("signed"), members.get("signatures")
    if encode(members) != data:
        raise malformed(what, "it is not written in its canonical form")
    if set(members) != {"signatures", "signed"} or not isinstance(signed, dict) or not isinstance(entries, list):
        raise malformed(what, "it does not have exactly signatures and signed")
    good = [
        isinstance(entry, dict)
        and set(entry) == {"keyid", "sig"}
        and is_sha256(entry["keyid"])
        and isinstance(entry["sig"], str)
        and HEX.fullmatch(entry["sig"]) is not None
        for entry in entries[: MAX_SIGNATURES + 1]
    ]
    if len(entries) > MAX_SIGNATURES or not all(good):
        raise malformed(what, f"its signatures are not at most {MAX_SIGNATURES} keyids with lower-case hex")
    signatures = {entry["keyid"]: entry["sig"] for entry in entries}
    if [entry["keyid"] for entry in entries] != sorted(signatures):
        raise malformed(what, "its signatures are not sorted by keyid, each once")
    if signed.get("_type") != kind:
        raise malformed(what, f"it is {signed.get('_type')!r}, not {kind!r}")
    check_version(signed.get("version"))
    parse_time(signed.get("expires"), what)
    if kind == "root":
        check_keys(signed.get("keys"), what)
    try:
        complete = check_shape(signed, kind)
    except (AttributeError, KeyError, TypeError, ValueError):
        complete = False
    if not complete:
        raise malformed(what, "a field that TUF needs is missing or of another type")
    return Metadata(what, signed, signatures)


def check_shape(signed: dict[str, Any], kind: str) -> bool:
    """What every TUF client asks of a file before it looks at signatures; the rules of this format come after them."""

    def target(entry: dict[str, Any]) -> bool:
        hashes = entry["hashes"].values()
        return bool(hashes) and all(isinstance(text, str) for text in hashes) and bool(entry["length"] >= 0)

    def metafile(entry: dict[str, Any]) -> bool:
        return bool(entry["version"] > 0) and target({"hashes": {"": ""}, "length": 0, **entry})

    def role(members: dict[str, Any]) -> bool:
        keyids = members["keyids"]
        return len(set(keyids)) == len(keyids) and bool(members["threshold"] >= 1)

    numbers = signed["spec_version"].split(".")
    if len(numbers) not in (2, 3) or numbers[0] != "1" or not all(number.isdigit() for number in numbers):
        return False
    if kind == "root":
        return set(signed["roles"]) == set(TOP_LEVEL) and all(map(role, signed["roles"].values()))
    if kind == "targets":
        return all(map(target, signed["targets"].values())) and isinstance(signed.get("delegations", {}), dict)
    others = kind == "timestamp" and set(signed["meta"]) != {"snapshot.json"}
    return not others and all(map(metafile, signed["meta"].values()))


def count_signatures(delegators: list[dict[str, Any]], role: str, metadata: Metadata) -> None:
    """Refuse unless each of `delegators` (signed parts of roots) finds its threshold for `role` met."""
    if not metadata.signatures:
        raise Refused("signature_missing", metadata.what)
    for keyid in metadata.signatures:
        if not any(keyid in root["roles"][role]["keyids"] for root in delegators):
            raise Refused("signature_unknown", f"{metadata.what}: {keyid} may not sign {role}")
    message = olpc(metadata.signed).encode("utf-8")
    keys = {keyid: key for root in delegators for keyid, key in root["keys"].items()}
    for keyid, signature in metadata.signatures.items():
        if not fits(keys[keyid], bytes.fromhex(signature), message):
            raise Refused("signature_invalid", f"{metadata.what}: {keyid} signed other bytes")
    for root in delegators:
        threshold, keyids = root["roles"][role]["threshold"], root["roles"][role]["keyids"]
        good = len(metadata.signatures.keys() & set(keyids))
        if good < threshold:
            raise Refused("threshold_not_met", f"{metadata.what}: {good} of the {threshold} that {role} needs")


def check_root(root: dict[str, Any], what: str) -> None:
    keys, roles, names = root["keys"], root["roles"], root.get("x-plugsky-names", {})
    if root.get("consistent_snapshot") is not True:
        raise malformed(what, "it does not ask for consistent snapshots")
    if not all(isinstance(role["keyids"], list) for role in roles.values()):
        raise malformed(what, "the keys of a role are not a list")
    if {keyid for role in roles.values() for keyid in role["keyids"]} != set(keys):
        raise Refused("bad_key", f"{what}: its roles and its list of keys do not match")
    for name, role in roles.items():
        if type(role["threshold"]) is not int or role["threshold"] > len(role["keyids"]):
            raise malformed(what, f"the threshold of {name} does not fit its keys")
    usable = isinstance(names, dict) and names.keys() <= keys.keys()
    if not usable or not all(isinstance(name, str) and KEY_NAME.fullmatch(name) for name in names.values()):
        raise malformed(what, "its names of keys are not usable")
    if len(set(names.values())) < len(names):
        raise malformed(what, "two keys have one name")


def void_floors(old: dict[str, Any], new: dict[str, Any]) -> frozenset[str]:
    """The roles whose floors do not count under a new root, because it took keys away (TUF 5.3.11)."""
    taken = {role for role in TOP_LEVEL if set(old["roles"][role]["keyids"]) - set(new["roles"][role]["keyids"])}
    if not taken & {"timestamp", "snapshot"}:
        return frozenset()
    return frozenset(("timestamp", "snapshot", *(("targets", *ROLES) if "targets" in taken else ())))


# 2. The directory

NO_FOLLOW = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Media:
    """What lies in a bundle's directory. Nothing is opened before it is asked for, and no link is ever followed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.files: dict[str, int] = {}
        self.directories: set[str] = set()
        try:
            top = os.open(path, DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            raise Refused("not_found", f"{path} is not a directory") from None
        try:
            self.list("", top, 0)
        except OSError as error:
            raise Refused("media_unreadable", f"{path}: {error.strerror}") from None
        finally:
            os.close(top)
        if not any(name.startswith("metadata/") for name in self.files):
            raise Refused("not_found", f"{path} has no metadata")

    def list(self, prefix: str, handle: int, depth: int) -> None:
        with os.scandir(handle) as entries:
            for entry in entries:
                name, info = prefix + entry.name, entry.stat(follow_symlinks=False)
                if len(self.files) + len(self.directories) >= MAX_LISTED:
                    raise Refused("unlisted_file", f"{self.path} holds more than {MAX_LISTED} files")
                if stat.S_ISREG(info.st_mode):
                    self.files[name] = info.st_size
                elif stat.S_ISDIR(info.st_mode) and depth < MAX_DIRECTORIES_DEEP:
                    self.directories.add(name)
                    below = os.open(entry.name, NO_FOLLOW | os.O_DIRECTORY, dir_fd=handle)
                    try:
                        self.list(name + "/", below, depth + 1)
                    finally:
                        os.close(below)
                else:
                    raise Refused("unlisted_file", f"{name} is a link, a device or a directory too deep")

    def blocks(self, name: str, length: int) -> Iterable[bytes]:
        """The bytes of a file, at most one more than `length`."""
        *parents, last = name.split("/")
        handles, rest = [], length + 1
        try:
            handles.append(os.open(self.path, DIRECTORY))
            for parent in parents:
                handles.append(os.open(parent, NO_FOLLOW | os.O_DIRECTORY, dir_fd=handles[-1]))
            handles.append(os.open(last, NO_FOLLOW | os.O_NONBLOCK, dir_fd=handles[-1]))
            if not stat.S_ISREG(os.fstat(handles[-1]).st_mode):
                raise Refused("unlisted_file", f"{name} changed while it was read")
            while rest:
                block = os.read(handles[-1], min(1 << 20, rest))
                if not block:
                    break
                rest -= len(block)
                yield block
        except FileNotFoundError:
            raise missing(name) from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
                raise Refused("unlisted_file", f"{name} changed while it was read") from None
            raise Refused("media_unreadable", f"{name}: {error.strerror}") from None
        finally:
            for handle in handles:
                os.close(handle)

    def read(self, name: str, limit: int) -> bytes:
        """A small file; of one longer than `limit` bytes no more than that is read."""
        data = b"".join(self.blocks(name, limit))
        if len(data) > limit:
            raise Refused("digest_mismatch", f"{name} has more than {limit} bytes")
        return data


def missing(name: str) -> Refused:
    return Refused("metadata_missing" if name.startswith("metadata/") else "blob_missing", name)


# 8. Files, chunks and names

SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]{0,199}", re.ASCII)
DEVICE = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.ASCII | re.IGNORECASE)
EVIDENCE_FILES, EVIDENCE_DIRECTORIES = ("README.txt", "install.sh"), ("docs", "evidence", "tools")


class Blob(NamedTuple):
    """A digest and a length in bytes, of a blob or of any other file."""

    sha256: str
    length: int

    @property
    def name(self) -> str:
        return f"blobs/{self.sha256[:2]}/sha256-{self.sha256}"


class File(NamedTuple):
    """A file of a role; its bytes are those of its blobs in order."""

    path: str
    length: int
    sha256: str
    blobs: tuple[Blob, ...]
    chunked: bool


def check_path(path: Any, first: tuple[str, ...]) -> None:
    parts = path.split("/") if isinstance(path, str) and len(path) <= 512 else [""]
    placed = (2 <= len(parts) <= 8 and parts[0] in first) or (first is EVIDENCE_DIRECTORIES and path in EVIDENCE_FILES)
    if not placed or not all(SEGMENT.fullmatch(p) and p[-1] != "." and not DEVICE.fullmatch(p) for p in parts):
        raise Refused("unsafe_name", repr(path))


def check_collisions(paths: list[str]) -> None:
    if len(paths) > MAX_TARGETS:
        raise malformed("The list of files", f"it has more than {MAX_TARGETS}")
    for path in paths:
        check_path(path, ROLES)
    folded = {path.lower() for path in paths}
    parents = {path[:cut] for path in folded for cut, char in enumerate(path) if char == "/"}
    if len(folded) != len(paths) or folded & parents:
        raise Refused("unsafe_name", "two files differ by case at most, or one is a directory of the other")


def listed(entry: dict[str, Any], what: str) -> Blob:
    """Length and SHA-256 as TUF lists a file; no other hash may stand for it."""
    hashes = entry.get("hashes", {})
    if set(hashes) != {"sha256"}:
        raise malformed(what, "it must list exactly one hash, SHA-256")
    return named({"length": entry.get("length"), **hashes}, what, 0, MAX_FILE)


def named(entry: Any, what: str, least: int, most: int) -> Blob:
    """A blob, or another file, that signed metadata names by exactly `length` and `sha256`."""
    if not isinstance(entry, dict) or set(entry) != {"length", "sha256"} or not is_sha256(entry["sha256"]):
        raise malformed(what, "it does not name a file by length and sha256")
    if type(entry["length"]) is not int or not least <= entry["length"] <= most:
        raise malformed(what, f"the length {entry['length']!r} is out of range")
    return Blob(entry["sha256"], entry["length"])


def describe(role: str, path: str, entry: dict[str, Any], what: str) -> tuple[Blob, Blob | None]:
    """A target's length and SHA-256, and the blob that holds its chunk list, if it has one."""
    whole, custom = listed(entry, what), entry.get("custom", {})
    if not isinstance(custom, dict) or path.split("/", 1)[0] != role:
        raise malformed(what, f"{path} is not its own, or has custom data that is no object")
    if "chunks" in custom:
        return whole, named(custom["chunks"], path, 1, 16 + 36 * MAX_CHUNKS)
    if whole.length > MAX_CHUNK:
        raise malformed(what, f"{path} is too large for one blob")
    return whole, None


def records(data: bytes, magic: bytes, length: int, most: int, error: Refused) -> list[bytes]:
    """A binary list: a name of eight bytes, u32 version 1, u32 count, then `count` records of `length` bytes."""
    head = struct.unpack_from(">8sII", data) if len(data) >= 16 else (b"", 0, 0)
    if head[:2] != (magic, 1) or not 1 <= head[2] <= most or len(data) != 16 + length * head[2]:
        raise error
    return [data[at : at + length] for at in range(16, len(data), length)]


def decode_chunk_list(data: bytes, path: str) -> tuple[Blob, ...]:
    error = Refused("malformed_chunk_list", f"{path}: it is not a version 1 list")
    found = records(data, b"PLUGSKYC", 36, MAX_CHUNKS, error)
    chunks = tuple(Blob(record[:32].hex(), int.from_bytes(record[32:], "big")) for record in found)
    if not all(1 <= chunk.length <= MAX_CHUNK for chunk in chunks):
        raise error
    return chunks


def decode_absent(data: bytes) -> frozenset[str]:
    error = malformed("The list of absent blobs", "it is not a version 1 list in ascending order")
    digests = records(data, b"PLUGSKYA", 32, MAX_LISTED, error)
    if any(one >= two for one, two in zip(digests, digests[1:])):
        raise error
    return frozenset(digest.hex() for digest in digests)


def read_since(since: Any, what: str) -> dict[str, Any]:
    """What a delta builds on: `bundle_id`, the `roles` that it leaves out, the blob `absent`; empty for a full one."""
    if since is None:
        return {"roles": []}
    fields = {"bundle_id", "receipt", "roles", "absent"}
    if not isinstance(since, dict) or not {"bundle_id", "roles"} <= set(since) <= fields:
        raise malformed(what, "what it says of the bundle before has other fields than the format's")
    roles = since["roles"]
    if not isinstance(roles, list) or roles != sorted(role for role in ROLES if role in roles):
        raise malformed(what, "the roles that it leaves out are not sorted names of roles, each once")
    if not is_sha256(since["bundle_id"]) or not is_sha256(since.get("receipt", since["bundle_id"])):
        raise malformed(what, "the bundle before or its receipt is not named by a SHA-256")
    absent = {"absent": named(since["absent"], what, 17, 16 + 32 * MAX_LISTED)} if "absent" in since else {}
    return {**since, **absent}


def read_files(members: Any, what: str) -> dict[str, Blob]:
    """Files beside metadata and blobs by path."""
    if not isinstance(members, dict):
        raise malformed(what, "it does not list the bundle's other files")
    for path in members:
        check_path(path, EVIDENCE_DIRECTORIES)
    return {path: named(entry, what, 0, MAX_FILE) for path, entry in members.items()}


def read_binds(binds: Any, what: str) -> dict[str, Any]:
    """What people sign with targets: `content_id`, of each of the `roles` version and sha256, and `files`."""
    if not isinstance(binds, dict) or set(binds) != {"content_id", "roles", "files"}:
        raise malformed(what, "it does not bind exactly content_id, roles and files")
    roles = binds["roles"]
    if not is_sha256(binds["content_id"]) or not isinstance(roles, dict) or set(roles) != set(ROLES):
        raise malformed(what, "it does not bind a content id and each role")
    for role in roles.values():
        if not isinstance(role, dict) or set(role) != {"version", "sha256"} or not is_sha256(role["sha256"]):
            raise malformed(what, "it does not bind each role by version and sha256")
        check_version(role["version"])
    files = read_files(binds["files"], what)
    if CUSTODY in files:
        raise malformed(what, f"it binds {CUSTODY}, which is written until the bundle is sealed")
    return {**binds, "files": files}


def read_revocations(members: Any, what: str) -> dict[str, frozenset[str]]:
    if not isinstance(members, dict) or set(members) != {"bundles", "digests", "keys"}:
        raise malformed(what, "it must have exactly bundles, digests and keys")
    if not all(isinstance(ids, list) and all(map(is_sha256, ids)) for ids in members.values()):
        raise malformed(what, "its entries are not all 64 lower-case hex digits")
    return {kind: frozenset(ids) for kind, ids in members.items()}


# 6. to 10. A bundle, in order


class Site(NamedTuple):
    """What a site believes and keeps."""

    root: bytes
    floors: dict[str, Any]
    time: datetime
    revoked: dict[str, frozenset[str]]
    copies: str


NO_SITE = Site(b"", {}, EPOCH, {"bundles": frozenset(), "digests": frozenset(), "keys": frozenset()}, "")


class Bundle:
    """A bundle while it is verified: each method is one step, and takes for granted that those above it passed."""

    def __init__(self, media: Media, pin: str | None, site: Site, now: datetime) -> None:
        self.media, self.pin, self.site = media, pin, site
        self.time = max(now.replace(microsecond=0), site.time)
        self.used: set[str] = set()
        self.checks: list[str] = []
        self.accepted: dict[str, Metadata] = {}
        self.since: dict[str, Any] = {"roles": []}
        self.read_roots()
        self.read_timestamp()
        self.read_snapshot()
        self.read_targets()
        self.check_expiry()
        self.collect_files()
        self.check_exact_set()
        self.check_revocations()

    def read(self, name: str, limit: int) -> bytes:
        self.used.add(f"metadata/{name}")
        return self.media.read(f"metadata/{name}", limit)

    @property
    def versions(self) -> dict[str, int]:
        return {role: metadata.signed["version"] for role, metadata in self.accepted.items()}

    # 6. Roots

    def read_roots(self) -> None:
        found = (re.fullmatch(r"metadata/([1-9][0-9]{0,9})\.root\.json", name, re.ASCII) for name in self.media.files)
        numbers = sorted(int(match[1]) for match in found if match)
        if not numbers:
            raise Refused("metadata_missing", "metadata/1.root.json")
        if len(numbers) > MAX_ROOTS or numbers != list(range(numbers[0], numbers[-1] + 1)):
            raise Refused("untrusted_root", f"the roots {numbers[:10]} do not follow each other")
        own = read_metadata(self.site.root, "root", "The trusted root of this site") if self.site.root else None
        if own is not None:
            check_root(own.signed, own.what)
        prints, total = [], 0
        for number in numbers:  # by their digests alone: nobody says yet that any of them is trusted
            data = self.read(f"{number}.root.json", LIMITS["root"])
            prints.append(hashlib.sha256(data).hexdigest())
            total += len(data)
            if total > MAX_ROOT_CHAIN:
                raise Refused("untrusted_root", f"its roots have more than {MAX_ROOT_CHAIN} bytes together")
        before = own if own is not None and own.signed["version"] == numbers[0] - 1 else None
        newer = own is not None and own.signed["version"] > numbers[-1]
        anchor = hashlib.sha256(self.site.root).hexdigest() if own is not None else self.pin
        anchored = before is not None or anchor in prints
        if not anchored and not newer:
            raise Refused("untrusted_root", f"its root is {prints[0]}")
        for number, printed in zip(numbers, prints):
            data = self.read(f"{number}.root.json", LIMITS["root"])
            root = read_metadata(data, "root", f"metadata/{number}.root.json")
            if hashlib.sha256(data).hexdigest() != printed:
                raise Refused("digest_mismatch", f"{root.what} changed while it was read")
            if root.signed["version"] != number:
                raise malformed(root.what, f"it says that it is version {root.signed['version']}")
            check_root(root.signed, root.what)
            count_signatures([root.signed] if before is None else [before.signed, root.signed], "root", root)
            before = root
        trusted = prints if anchored else []
        if own is not None:
            trusted = [*trusted, hashlib.sha256(self.site.root).hexdigest()]
            if newer:
                root, prints = own._replace(signatures={}), trusted
        if self.pin is not None and self.pin not in trusted:
            raise Refused("untrusted_root", f"its root is {prints[-1]}")
        self.root, self.fingerprint, self.accepted["root"] = root.signed, prints[-1], root
        self.void = void_floors(own.signed, root.signed) if own is not None else frozenset()
        self.checks.append(f"root version {root.signed['version']} leads back to the trusted root")

    # 7. Timestamp, snapshot, targets and its roles

    def check_floor(self, role: str, version: int) -> None:
        least = self.floor["versions"].get(role, 0)
        if version < least:
            raise Refused("rollback", f"{role} is at version {version}, this site has seen {least}")

    def read_timestamp(self) -> None:
        what, names = "metadata/timestamp.json", self.media.files
        if what not in names and not any(name.startswith("metadata/") and ".snapshot." in name for name in names):
            raise Refused("not_sealed", "it has no timestamp yet")
        timestamp = read_metadata(self.read("timestamp.json", LIMITS["timestamp"]), "timestamp", what)
        count_signatures([self.root], "timestamp", timestamp)
        self.channel = check_channel(timestamp.signed.get("x-plugsky-channel"))
        floor = self.site.floors.get(self.channel, {"versions": {}, "bundle_id": ""})
        versions = {role: version for role, version in floor["versions"].items() if role not in self.void}
        self.floor = {"versions": versions, "bundle_id": floor["bundle_id"]}
        sealed_at = parse_time(timestamp.signed.get("x-plugsky-time"), what)
        if sealed_at > self.time + CLOCKS_APART:
            raise Refused("sealed_in_future", f"it says {sealed_at:{STAMP}}, and here it is {self.time:{STAMP}}")
        self.time = max(self.time, sealed_at)
        self.checks.append("timestamp is signed")
        self.check_floor("timestamp", timestamp.signed["version"])
        self.accepted["timestamp"] = timestamp

    def read_listed(self, role: str, by: str) -> Metadata:
        """A metadata file that the one `by` lists: the same bytes, signed, of that version and channel."""
        entry, kind = self.accepted[by].signed["meta"][f"{role}.json"], "targets" if by == "snapshot" else role
        blob, version = listed(entry, f"{self.accepted[by].what}, {role}"), check_version(entry["version"])
        what = f"metadata/{version}.{role}.json"
        if role in self.since["roles"] and blob.length <= LIMITS[kind]:
            data = self.read_copy(blob, what)
        else:
            data = self.read(f"{version}.{role}.json", min(LIMITS[kind], blob.length))
        if len(data) != blob.length or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise Refused("digest_mismatch", what)
        metadata = read_metadata(data, kind, what)
        count_signatures([self.root], kind, metadata)
        if metadata.signed["version"] != version:
            raise malformed(what, f"it says that it is version {metadata.signed['version']}")
        if check_channel(metadata.signed.get("x-plugsky-channel")) != self.channel:
            raise Refused("mix_and_match", f"{what} is not of channel {self.channel}")
        return metadata

    def read_snapshot(self) -> None:
        snapshot = self.read_listed("snapshot", "timestamp")
        self.bundle_id = self.accepted["timestamp"].signed["meta"]["snapshot.json"]["hashes"]["sha256"]
        meta, evidence = snapshot.signed["meta"], snapshot.signed.get("x-plugsky-evidence")
        if set(meta) != {f"{role}.json" for role in ("targets", *ROLES)}:
            raise malformed(snapshot.what, "it must list exactly targets and its five roles")
        self.evidence = read_files(evidence, snapshot.what)
        self.since = read_since(snapshot.signed.get("x-plugsky-since"), snapshot.what)
        self.check_floor("snapshot", snapshot.signed["version"])
        self.accepted["snapshot"] = snapshot
        for role in ("targets", *ROLES):
            self.check_floor(role, meta[f"{role}.json"]["version"])
        seen = self.floor["versions"].get("timestamp") == self.versions["timestamp"]
        if seen and self.floor["bundle_id"] != self.bundle_id:
            raise Refused("rollback", f"this version was accepted as bundle {self.floor['bundle_id']}")
        self.checks.append("snapshot is the one that the timestamp names, and is signed")

    def read_targets(self) -> None:
        own = self.root["roles"]["targets"]
        for role in ("targets", *ROLES):
            targets = self.accepted[role] = self.read_listed(role, "snapshot")
            if role == "targets":
                self.check_delegations(targets, own)
                self.binds = read_binds(targets.signed.get("x-plugsky-binds"), targets.what)
                self.check_listed()
                continue
            if "delegations" in targets.signed:
                raise malformed(targets.what, "it delegates further")
            signed = hashlib.sha256(olpc(targets.signed).encode("utf-8")).hexdigest()
            if self.binds["roles"][role] != {"version": targets.signed["version"], "sha256": signed}:
                raise Refused("mix_and_match", f"{targets.what} is not the one that people signed targets with")
        self.checks.append(
            f"targets and each role under it are signed by at least {own['threshold']} of its keys, as one release"
        )

    def check_listed(self) -> None:
        """The snapshot lists the files that people bound, the custody log, and no other."""
        bound = self.binds["files"]
        for path in sorted((bound.keys() | self.evidence.keys()) - {CUSTODY}):
            if bound.get(path) != self.evidence.get(path):
                raise Refused("mix_and_match", f"{path} is not what people signed targets with")

    def check_delegations(self, targets: Metadata, own: dict[str, Any]) -> None:
        if targets.signed.get("x-plugsky-format") != 1:
            raise malformed(targets.what, "it is of another bundle format than 1")
        delegations = targets.signed.get("delegations")
        if targets.signed["targets"] or not isinstance(delegations, dict):
            raise malformed(targets.what, "it must list no files itself and delegate every role")
        common = {"keyids": own["keyids"], "threshold": own["threshold"], "terminating": True}
        roles = [{**common, "name": r, "paths": [r + "/*" * depth for depth in range(1, 8)]} for r in ROLES]
        keys = {keyid: self.root["keys"][keyid] for keyid in own["keyids"]}
        if delegations.get("keys") != keys or encode(delegations.get("roles")) != encode(roles):
            raise malformed(targets.what, "its delegations differ from what the format fixes")

    def check_expiry(self) -> None:
        for role, metadata in self.accepted.items():
            if self.time >= parse_time(metadata.signed["expires"], metadata.what):
                until = f"{role} was good until {metadata.signed['expires']}"
                raise Refused("metadata_expired", f"{until}, and it is at least {self.time:{STAMP}}")
        self.checks.append(f"nothing has expired at {self.time:{STAMP}}")
        for name in sorted(self.media.files):
            if name.startswith("metadata/") and name not in self.used:
                raise Refused("unlisted_file", f"no signed list names {name}")

    # 8. Files

    def read_blob(self, blob: Blob, what: str, away: bool = False) -> bytes:
        """A small blob: from the media, or when a delta leaves it out, as the site accepted it before."""
        if away:
            return self.read_copy(blob, what)
        data = self.media.read(blob.name, blob.length)
        if len(data) != blob.length or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise Refused("digest_mismatch", f"{blob.name} ({what})")
        return data

    def read_copy(self, blob: Blob, what: str) -> bytes:
        path, data = os.path.join(self.site.copies, self.channel, f"sha256-{blob.sha256}"), b""
        with contextlib.suppress(OSError):  # what cannot be read is not held
            if self.site.copies:
                with os.fdopen(os.open(path, NO_FOLLOW), "rb") as file:
                    data = file.read(blob.length + 1)
        if len(data) != blob.length or hashlib.sha256(data).hexdigest() != blob.sha256:
            raise Refused("base_missing", f"{what}: this is a delta for a site with bundle {self.since['bundle_id']}")
        return data

    def collect_files(self) -> None:
        """Every file with its chunks; which blobs must lie on the media; which ones a delta leaves to the site."""
        absent = self.since.get("absent")
        left_out = decode_absent(self.read_blob(absent, "the list of absent blobs")) if absent else frozenset()
        roles = {role: self.accepted[role].signed["targets"] for role in ROLES}
        check_collisions([path for role in ROLES for path in roles[role]])
        self.files: dict[str, File] = {}
        self.blobs: dict[str, Blob] = {}
        known: set[str] = set()
        elsewhere: set[str] = set()
        for role, path in [(owner, path) for owner in ROLES for path in roles[owner]]:
            whole, chunk_list = describe(role, path, roles[role][path], self.accepted[role].what)
            away = role in self.since["roles"]
            blobs: tuple[Blob, ...] = (whole,)
            if chunk_list is not None:
                list_away = away or chunk_list.sha256 in left_out
                blobs = decode_chunk_list(self.read_blob(chunk_list, f"the chunk list of {path}", list_away), path)
                if sum(blob.length for blob in blobs) != whole.length:
                    raise Refused("malformed_chunk_list", f"{path}: it does not add up to the file")
            self.files[path] = File(path, whole.length, whole.sha256, blobs, chunk_list is not None)
            for blob in blobs if chunk_list is None else (*blobs, chunk_list):
                if not away:
                    known.add(blob.sha256)
                if away or blob.sha256 in left_out:
                    elsewhere.add(blob.sha256)
                elif self.blobs.setdefault(blob.sha256, blob).length != blob.length:
                    raise malformed(blob.name, "two files list it with different lengths")
        if left_out - known:
            raise malformed("The list of absent blobs", "it names one that no role on the media lists")
        if absent is not None:
            self.blobs[absent.sha256] = absent
        self.absent = elsewhere - self.blobs.keys()
        lines = sorted(f"{file.path} {file.length} {file.sha256}\n" for file in self.files.values())
        self.content_id = hashlib.sha256("".join(lines).encode("ascii")).hexdigest()
        if self.content_id != self.binds["content_id"]:
            raise Refused("mix_and_match", f"the content id is {self.content_id}, not the one that people signed")
        self.checks.append(f"{len(self.files)} file names are safe and their chunk lists add up")

    def check_exact_set(self) -> None:
        expected = {path: blob.length for path, blob in self.evidence.items()}
        expected.update({blob.name: blob.length for blob in self.blobs.values()})
        for name, length in expected.items():
            if name not in self.media.files:
                raise missing(name)
            if self.media.files[name] != length:
                raise Refused("digest_mismatch", f"{name} has {self.media.files[name]} bytes instead of {length}")
        names = {*expected, *self.used}
        parents = {name[:cut] for name in names for cut, char in enumerate(name) if char == "/"}
        for name in sorted((self.media.files.keys() - names) | (self.media.directories - parents)):
            raise Refused("unlisted_file", f"no signed list names {name}")
        self.checks.append("every listed file is there with its size, and nothing else is")

    # 9. Revocations

    def check_revocations(self) -> None:
        revoked, file, what = self.site.revoked, self.files.get(REVOCATIONS), "The list of revocations"
        if file is not None:
            if file.length > MAX_REVOCATIONS or file.chunked:
                raise malformed(what, f"it must be one blob of at most {MAX_REVOCATIONS} bytes")
            data = self.read_blob(file.blobs[0], what, file.sha256 in self.absent)
            members = parse_object(data, what, MAX_REVOCATIONS)
            if members.pop("schema", None) != "plugsky.revocations/1":
                raise malformed(what, "its schema is not plugsky.revocations/1")
            revoked = {kind: ids | revoked[kind] for kind, ids in read_revocations(members, what).items()}
        digests = {file.sha256: file.path for file in self.files.values()}
        digests.update({blob.sha256: file.path for file in self.files.values() for blob in file.blobs})
        found = [self.bundle_id] if self.bundle_id in revoked["bundles"] else []
        found += [f"{digests[digest]} ({digest})" for digest in sorted(revoked["digests"] & digests.keys())]
        for role, metadata in self.accepted.items():
            threshold = self.root["roles"][role if role in TOP_LEVEL else "targets"]["threshold"]
            good = metadata.signatures.keys() - revoked["keys"]
            if len(good) < min(threshold, len(metadata.signatures)):
                found.append(f"without a key of it {len(good)} of {threshold} have signed {role}")
        if found:
            raise Refused("revoked", found[0])
        self.checks.append("no bundle, key or digest in it has been revoked")

    # 10. Bytes

    def check_bytes(self, roles: tuple[str, ...], progress: Progress, copy: tuple[str, str] | None) -> None:
        """Read the files of these roles and all evidence; files below the prefix `copy[0]` are written to `copy[1]`."""
        files = [file for file in self.files.values() if file.path.split("/", 1)[0] in roles]
        here = [blob for file in files for blob in file.blobs if blob.sha256 not in self.absent]
        progress.total = sum(blob.length for blob in (*here, *self.evidence.values()))
        for file in files:
            whole, out = hashlib.sha256(), None
            complete = all(blob.sha256 not in self.absent for blob in file.blobs)
            if copy is not None and file.path.startswith(copy[0] + "/"):
                if not complete:
                    raise Refused("base_missing", f"{file.path}: this is a delta")
                out = new_file(copy[1], file.path[len(copy[0]) + 1 :])
            for blob in file.blobs:
                if blob.sha256 not in self.absent:
                    self.check_blob(blob.name, blob, progress, [whole.update, *([out.write] if out else [])])
            if out is not None:
                out.close()
            if complete and whole.hexdigest() != file.sha256:
                raise Refused("digest_mismatch", f"the chunks of {file.path} are intact, but not those of this file")
        for path, blob in self.evidence.items():
            chain = Chain(self.root["roles"]["snapshot"]["keyids"])
            self.check_blob(path, blob, progress, [chain.feed] if path == CUSTODY else [])
            if path == CUSTODY:
                chain.finish()
        self.checks.append(f"every byte of {', '.join(roles)} and of what lies beside them is as it was signed")

    def check_blob(self, name: str, blob: Blob, progress: Progress, sinks: list[Sink]) -> None:
        digest, length = hashlib.sha256(), 0
        for block in self.media.blocks(name, blob.length):
            length += len(block)
            for sink in (digest.update, *sinks):
                sink(block)
            progress.add(len(block), name)
        if length != blob.length or digest.hexdigest() != blob.sha256:
            raise Refused("digest_mismatch", name)


class Chain:
    """The custody log: each line names the one before by its hash; the last is a signature by one of `keyids`."""

    def __init__(self, keyids: list[str]) -> None:
        self.keyids, self.rest, self.seq, self.head, self.why = keyids, b"", -1, "0" * 64, ""
        self.commit: tuple[dict[str, Any], bytes] | None = None

    def feed(self, block: bytes) -> None:
        *lines, self.rest = (self.rest + block).split(b"\n")
        try:
            for line in lines if not self.why else ():
                self.read_line(line + b"\n")
        except Refused as error:
            self.why = error.why
        except (KeyError, TypeError, ValueError) as error:
            self.why = f"line {self.seq + 1}: {error}"
        if len(self.rest) > MAX_LINE:
            self.why, self.rest = self.why or "a line is too long", b""

    def read_line(self, raw: bytes) -> None:
        if len(raw) > MAX_LINE or nesting(raw) > MAX_JSON_DEEP:
            raise ValueError("it is too long or too deep")
        value = json.loads(raw)
        if not isinstance(value, dict) or len(value) != 3 or encode(value) + b"\n" != raw:
            raise ValueError("it is not canonical JSON of three members")
        seq, prev = value.pop("seq"), value.pop("prev")
        ((kind, body),) = value.items()
        if type(seq) is not int or (seq, prev) != (self.seq + 1, self.head):
            raise ValueError("it does not follow the line before")
        allowed = ("genesis",) if seq == 0 else ("record", "commit")
        if kind not in allowed or not isinstance(body, dict):
            raise ValueError(f"{kind!r} does not belong there")
        if kind == "genesis":
            self.read_genesis(body)
        head = {"schema": "plugsky.chain-head/1", "origin": self.origin, "seq": self.seq, "head": self.head}
        self.commit = (body, encode(head)) if kind == "commit" else None
        self.seq, self.head = seq, hashlib.sha256(raw).hexdigest()

    def read_genesis(self, body: dict[str, Any]) -> None:
        self.origin, key, fields = body["origin"], body["key"], {"keyid", "keytype", "scheme", "public"}
        if set(body) != {"schema", "origin", "key"} or body["schema"] != "plugsky.chain/1" or set(key) != fields:
            raise ValueError("it is not a genesis of plugsky.chain/1")
        if not all(isinstance(text, str) for text in (self.origin, *key.values())):
            raise ValueError("its origin or its key is not text")
        self.keyid, public = key.pop("keyid"), key.pop("public")
        self.key = {**key, "keyval": {"public": public}}
        check_key(self.keyid, self.key)
        if self.keyid not in self.keyids:
            raise ValueError(f"{self.keyid} may not sign it")

    def signed(self, envelope: dict[str, Any], payload: bytes) -> bool:
        """Whether a DSSE v1 envelope is the signature of the log's key over `payload`, all in canonical base64."""
        signature = base64.b64decode(envelope["signatures"][0]["sig"])
        again = {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": HEAD_TYPE,
            "signatures": [{"keyid": self.keyid, "sig": base64.b64encode(signature).decode("ascii")}],
        }
        pae = b"DSSEv1 %d %s %d %s" % (len(HEAD_TYPE), HEAD_TYPE.encode("ascii"), len(payload), payload)
        return envelope == again and fits(self.key, signature, pae)

    def finish(self) -> None:
        try:
            good = not self.rest and self.commit is not None and self.signed(*self.commit)
        except (KeyError, IndexError, TypeError, ValueError):
            good = False
        if self.why or not good:
            raise Refused("chain_error", self.why or "no signature of its key covers its last line")


# 1. Arguments, trust, and what is said

CONSONANTS, VOWELS = "bdfghjklmnprstvz", "aiou"
WORD = re.compile(f"[{CONSONANTS}][{VOWELS}][{CONSONANTS}][{VOWELS}][{CONSONANTS}]")


def read_fingerprint(text: str) -> str:
    """64 hex digits, also in groups; or sixteen proquints (arXiv:0901.4016) and a 17th that checks them."""
    joined = "".join(text.split()).lower()
    if SHA256.fullmatch(joined):
        return joined
    words = [word for word in re.split(r"[\s,;:._|/-]+", text.lower()) if word]
    if not re.search(f"[{CONSONANTS}][{VOWELS}]", joined):
        raise ValueError("one has 64 hexadecimal digits, or 17 words")
    for number, word in enumerate(words, 1):
        if not WORD.fullmatch(word):
            raise ValueError(f"word {number}, {word!r}, is none: a word is five letters like 'rirud'")
    if len(words) != 17:
        raise ValueError(f"there are {len(words)} words: a fingerprint has 16, and one that checks them")
    if not agree(words):
        raise ValueError(suspect(words))
    return packed(words)[:32].hex()


def packed(words: list[str]) -> bytes:
    """Four bits a consonant, two a vowel."""
    value = 0
    for word in words:
        for place, letter in enumerate(word):
            value = value << 2 | VOWELS.index(letter) if place % 2 else value << 4 | CONSONANTS.index(letter)
    return value.to_bytes(2 * len(words), "big")


def agree(words: list[str]) -> bool:
    data = packed(words)
    return hashlib.sha256(data[:32]).digest()[:2] == data[32:]


def suspect(words: list[str]) -> str:
    """Which word to look at again, where a single slip would explain the last one; it is never corrected."""
    swaps = [i for i in range(16) if agree([*words[:i], words[i + 1], words[i], *words[i + 2 :]])]
    if len(swaps) == 1:
        (i,) = swaps
        return f"words {i + 1} and {i + 2}, {words[i]!r} and {words[i + 1]!r}, seem to have changed places"
    slips = {
        i
        for i, word in enumerate(words)
        for at in range(5)
        for letter in (VOWELS if at % 2 else CONSONANTS)
        if agree([*words[:i], word[:at] + letter + word[at + 1 :], *words[i + 1 :]])
    }
    if len(slips) == 1:
        (i,) = slips
        return f"word {i + 1}, {words[i]!r}, seems to have a wrong letter: compare it with the paper"
    return f"the last word, {words[16]!r}, does not fit the others: at least one word is wrong"


def read_site(path: str) -> Site:
    """The trust state of a site. One that cannot be read is never taken as that of a new site."""
    what, name = "The stored trust state", os.path.join(path, "trust", "state.json")
    try:
        with open(name, "rb") as file:
            members = parse_object(file.read(MAX_STATE + 1), what, MAX_STATE)
    except OSError as error:
        raise Refused("not_found", f"{name}: {error.strerror}") from None
    fields = {"schema", "root", "floors", "time", "revocations"}
    if set(members) != fields or members["schema"] != "plugsky.trust-state/1" or not isinstance(members["root"], str):
        raise malformed(what, "it is not a plugsky.trust-state/1")
    if not isinstance(members["floors"], dict):
        raise malformed(what, "its floors are missing")
    for channel, floor in members["floors"].items():
        check_channel(channel)
        if not isinstance(floor, dict) or set(floor) != {"versions", "bundle_id"} or not is_sha256(floor["bundle_id"]):
            raise malformed(what, f"the floor of {channel} is not readable")
        if not isinstance(floor["versions"], dict):
            raise malformed(what, f"the floor of {channel} is not readable")
        for version in floor["versions"].values():
            check_version(version)
    moment, revoked = parse_time(members["time"], what), read_revocations(members["revocations"], what)
    copies = os.path.join(path, "trust", "channels")
    return Site(members["root"].encode("utf-8"), members["floors"], moment, revoked, copies)


class Progress:
    """Bytes, rate and time left on stderr, every two seconds; ten times a second and on one line on a terminal."""

    def __init__(self, *, silent: bool) -> None:
        self.live = sys.stderr.isatty()
        self.pause = float("inf") if silent else 0.1 if self.live else 2.0
        self.total = self.done = 0
        self.started = self.said = time.monotonic()

    def add(self, count: int, name: str) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= self.pause:
            self.said, rate = now, self.done / max(now - self.started, 1e-6)
            text = f"  {self.done / 1e6:.1f} of {self.total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s,"
            text += f" {(self.total - self.done) / rate:.0f} s left  {shown(name)}"
            sys.stderr.write(f"\r\x1b[2K{text[: columns() - 1]}" if self.live else text + "\n")
            sys.stderr.flush()

    def end(self) -> None:
        if self.live and self.said > self.started:
            sys.stderr.write("\r\x1b[2K")


def columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def new_file(directory: str, path: str) -> BinaryIO:
    """A file that was not there, to be written."""
    name = os.path.join(directory, path)
    os.makedirs(os.path.dirname(name), mode=0o700, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(name, flags, 0o600), "wb")


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="plugsky_verify.py",
        description="Verify a Plugsky bundle with nothing but Python.",
        epilog="Exit code: 0 verified, 2 usage, 5 not verified: do not use it, 7 no bundle there.",
    )
    parser.add_argument("bundle", help="the bundle's directory, plugsky-CHANNEL-VERSION")
    parser.add_argument("--pin", metavar="FINGERPRINT", help="the root's fingerprint on paper: hex digits, or words")
    parser.add_argument("--site", metavar="DIR", help="a site whose trust decides; with --pin, both must agree")
    parser.add_argument("--all", action="store_true", help="read every byte, also of models and Debian packages")
    parser.add_argument(
        "--copy", nargs=2, metavar=("PREFIX", "DIR"), help="write what is below PREFIX, verified, to DIR"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, and no progress")
    return parser.parse_args(given)


def verify(chosen: argparse.Namespace) -> Bundle:
    try:
        pin = None if chosen.pin is None else read_fingerprint(chosen.pin)
    except ValueError as error:
        raise Refused("usage", str(error)) from None
    media = Media(chosen.bundle)
    site = read_site(chosen.site) if chosen.site else NO_SITE
    if pin is None and site is NO_SITE:
        raise Refused("untrusted_root", "nobody has said whom to trust, and a bundle proves nothing about itself")
    bundle = Bundle(media, pin, site, datetime.now(timezone.utc))
    progress = Progress(silent=chosen.json)
    try:
        roles = ROLES if chosen.all else tuple(role for role in ROLES if role not in NOT_IN_BOOTSTRAP)
        bundle.check_bytes(roles, progress, chosen.copy)
    finally:
        progress.end()
    return bundle


def main(given: list[str] | None = None) -> int:
    chosen = arguments(given)
    try:
        bundle = verify(chosen)
    except Refused as error:
        if chosen.json:
            said = {"code": error.code, "what": error.what, "why": error.why, "next": error.then}
            print(json.dumps({"schema": "plugsky.error/1", "error": said}), file=sys.stderr)
        else:
            print(f"error: {error.what}\n  why:  {error.why}\n  next: {error.then}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {shown(str(error.filename))} cannot be read or written: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    found: dict[str, Any] = {
        "channel": bundle.channel,
        "version": bundle.versions["targets"],
        "bundle_id": bundle.bundle_id,
        "content_id": bundle.content_id,
        "root_fingerprint": bundle.fingerprint,
    }
    if "bundle_id" in bundle.since:
        found["delta_for"] = bundle.since["bundle_id"]
    if chosen.json:
        head = {"schema": "plugsky.verifier/1", "verified": True, "all": chosen.all}
        print(json.dumps({**head, **found, "checks": bundle.checks}))
        return 0
    for check in bundle.checks:
        print(f"ok  {check}")
    for name, value in found.items():
        print(f"{name.replace('_', ' '):17} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
