"""One-time codes (RFC 6238) as every authenticator app has them: six digits, 30 seconds, SHA-1. Pure."""

import hmac
import secrets
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.hotp import HOTP

STEP_S: Final = 30
DIGITS: Final = 6
AROUND: Final = 1
"""Steps that a clock may be off, either way."""
_SECRET_BYTES: Final = 20


def new_secret() -> bytes:
    """A secret of 160 bits (RFC 4226, section 4)."""
    return secrets.token_bytes(_SECRET_BYTES)


def uri(secret: bytes, login: str, issuer: str) -> str:
    """What an authenticator app takes in, as ``otpauth://``. It holds the secret."""
    return (
        _hotp(secret)
        .get_provisioning_uri(login, 0, issuer)
        .replace("otpauth://hotp/", "otpauth://totp/")
        .replace("&counter=0", f"&period={STEP_S}")
    )


def step_of(secret: bytes, code: str, now_s: int) -> int | None:
    """The step that ``code`` is of, counted from the Unix epoch; None where it is none of the steps around now.

    The caller must not take a step twice, nor one before it (RFC 6238, section 5.2).
    """
    given = code.encode("utf-8", "surrogatepass")
    now = now_s // STEP_S
    found = None
    for step in range(now - AROUND, now + AROUND + 1):
        if hmac.compare_digest(_hotp(secret).generate(step), given):
            found = step
    return found


def _hotp(secret: bytes) -> HOTP:
    return HOTP(secret, DIGITS, SHA1())  # noqa: S303 - what authenticator apps speak; HMAC-SHA-1 is sound
