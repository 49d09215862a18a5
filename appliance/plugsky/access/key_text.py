"""What an API key looks like, and where a request may carry one. Pure.

A key is ``psk_<id>_<secret>``: the id (no secret) is 8 characters of ``a-z2-7``, the secret 43 of base64url (32 random
bytes). Every form of header leads to the same key text and so to the same check: a form is one row of
:data:`FORMS`, never a second path (the lesson of Open WebUI's CVE-2026-45339).
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "psk_"
_KEY: Final = re.compile(r"psk_([a-z2-7]{8})_([A-Za-z0-9_-]{43})\Z")


@dataclass(frozen=True)
class Form:
    """A header that may carry a key: its name in lower case, and the scheme before the key, if any."""

    header: bytes
    scheme: bytes | None


FORMS: Final = (
    Form(b"authorization", b"bearer"),
    Form(b"authorization", b"deepl-auth-key"),
    Form(b"x-api-key", None),
    Form(b"api-key", None),
)


def new_key() -> tuple[str, str]:
    """A fresh key as ``(id, text)``."""
    key_id = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    return key_id, f"{PREFIX}{key_id}_{secrets.token_urlsafe(32)}"


def id_of(text: str) -> str | None:
    """The id inside a key's text, None where it is no key."""
    match = _KEY.match(text)
    return match[1] if match else None


def digest_of(text: str, pepper: bytes) -> bytes:
    """What is stored of a key: HMAC-SHA-256 of its text under the site's pepper (FIPS 198-1)."""
    return hmac.new(pepper, text.encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def key_in(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key that a request's headers carry; None where there is none, or where two could be meant.

    ``headers`` are raw pairs as ASGI gives them, names in lower case.
    """
    found = [key for name, value in headers for form in FORMS if name == form.header and (key := _key(form, value))]
    return found[0] if len(found) == 1 else None


def _key(form: Form, value: bytes) -> str | None:
    try:
        text = value.strip().decode("ascii")
    except UnicodeDecodeError:
        return None
    if form.scheme is None:
        return text or None
    scheme, _, rest = text.partition(" ")
    return rest.strip() or None if scheme.lower() == form.scheme.decode() else None
