"""Passwords of people: made, kept as scrypt digests, compared in constant time. Pure.

A digest is text: ``scrypt:<n>:<r>:<p>:<salt>:<digest>``, so that costs can be raised and old digests still compare.
The costs are those of OWASP's password storage cheat sheet (n = 2^15, r = 8, p = 3): 32 MiB and about a quarter of a
second. Passwords are compared in Unicode's form NFC, as RFC 8265's OpaqueString asks.
"""

import hashlib
import hmac
import secrets
import unicodedata
from base64 import b64decode, b64encode
from typing import Final

from plugsky.core.errors import ErrorKind, PlugskyError

SHORTEST: Final = 12
LONGEST: Final = 256
_ALPHABET: Final = "abcdefghjkmnpqrstuvwxyz23456789"
_GROUPS: Final = 5
_COSTS: Final = (1 << 15, 8, 3)
_MEMORY: Final = 64 << 20


def new_password() -> str:
    """A password to be told once and changed: five groups of five characters that look unlike each other."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(_GROUPS))


def checked_password(text: str, login: str) -> str:
    """A password that somebody chose. Raises BAD_REQUEST for one that is too short, too long, or the login's name."""
    text = unicodedata.normalize("NFC", text)
    if not SHORTEST <= len(text) <= LONGEST:
        raise _unfit(f"it has {SHORTEST} to {LONGEST} characters; a few words are easiest to keep in mind")
    if len(set(text)) < SHORTEST // 2 or login.casefold() in text.casefold():
        raise _unfit("it repeats few characters, or holds the login's name")
    return text


def digest(password: str) -> str:
    """What is kept of a password."""
    salt = secrets.token_bytes(16)
    made = _scrypt(password, salt, *_COSTS)
    return ":".join(["scrypt", *map(str, _COSTS), b64encode(salt).decode(), b64encode(made).decode()])


def fits(password: str, kept: str) -> bool:
    """Whether ``kept`` is the digest of ``password``. Raises TAMPERED for what no digest is."""
    try:
        _, n, r, p, salt, wanted = kept.split(":")
        made = _scrypt(password, b64decode(salt, validate=True), int(n), int(r), int(p))
        return hmac.compare_digest(made, b64decode(wanted, validate=True))
    except ValueError as error:
        raise PlugskyError(
            ErrorKind.TAMPERED, "a password's digest cannot be read", next="plugsky login reset NAME"
        ) from error


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=_MEMORY, dklen=32)


def _unfit(why: str) -> PlugskyError:
    return PlugskyError(
        ErrorKind.BAD_REQUEST, "this password is not taken", why=why, next="choose another one", param="new"
    )
