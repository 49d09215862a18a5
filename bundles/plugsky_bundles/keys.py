"""Signing keys: made, kept encrypted, and named by nothing but their own hash.

* Schemes: `ed25519`, and `ecdsa-sha2-nistp256` for hardware keys. Nothing else is ever accepted.
* A **keyid** is SHA-256 of the key's canonical JSON (TUF specification, section 4.2, as securesystemslib computes it).
  A key is accepted only in its one canonical writing, so the same key cannot count twice under two names
  (GHSA-3633-5h82-39pq, GHSA-pwqf-9h7j-7mv8).
* Private keys rest as PKCS#8 PEM with mode 0600, encrypted with a passphrase; keys of an unattended machine may rest
  without one. A wrong passphrase names the file and says nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, SSlibKey

from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import BadKey, KeyUnusable, NotFound, PassphraseError

ED25519: Final = "ed25519"
P256: Final = "ecdsa-sha2-nistp256"
KEYTYPES: Final = {ED25519: "ed25519", P256: "ecdsa"}
MAX_KEY_FILE: Final = 16_384

_P: Final = 2**255 - 19
_SMALL_ORDER: Final = frozenset(  # y of the eight points whose multiple by eight is the neutral element
    {
        0,
        1,
        _P - 1,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7,
    }
)

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey


def generate(scheme: str = ED25519) -> CryptoSigner:
    """A new key pair, in memory only."""
    if scheme == ED25519:
        return CryptoSigner(Ed25519PrivateKey.generate())
    if scheme == P256:
        return CryptoSigner(generate_ec_key(SECP256R1()))
    raise BadKey(f"The scheme {scheme!r} is not allowed", f"allowed are {ED25519} and {P256}", "Choose one of them")


def private_pem(signer: CryptoSigner, passphrase: bytes | None) -> bytes:
    """The private key as PKCS#8 PEM, encrypted unless `passphrase` is None. An empty passphrase is refused."""
    if passphrase == b"":
        raise PassphraseError("The passphrase is empty", "it would protect nothing", "Give a passphrase")
    guard: KeySerializationEncryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    key = _private(signer.private_bytes, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, guard)


def save(path: Path, signer: CryptoSigner, passphrase: bytes | None) -> None:
    """Write the private key to `path`, mode 0600, all at once."""
    write_file(path, private_pem(signer, passphrase), mode=0o600)


def load(path: Path, passphrase: bytes | None) -> CryptoSigner:
    """Open the private key at `path`. Raises NotFound, PassphraseError or KeyUnusable, each naming the file."""
    try:
        with path.open("rb") as file:
            pem = file.read(MAX_KEY_FILE + 1)
    except FileNotFoundError:
        raise NotFound(f"There is no key {path}", "the file does not exist", "Check the trust directory") from None
    locked = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    if locked and not passphrase:
        raise PassphraseError(f"The key {path} is locked", "no passphrase was given", "Give its passphrase")
    try:
        return CryptoSigner(_private(pem, passphrase if locked else None))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if locked:
            raise PassphraseError(
                f"The key {path} does not open", "the passphrase is wrong", "Give the passphrase it was made with"
            ) from None
        raise KeyUnusable(
            f"{path} is not a usable key",
            "it is not a PKCS#8 PEM private key of an allowed scheme",
            "Restore it from its copy",
        ) from None


def public_dict(key: SSlibKey) -> dict[str, str]:
    """A public key as plain data: `keyid`, `keytype`, `scheme`, `public`."""
    return {"keyid": key.keyid, "keytype": key.keytype, "scheme": key.scheme, "public": key.keyval["public"]}


def public_from_dict(data: Any) -> SSlibKey:
    """The inverse of `public_dict`, checked as `check_key` does."""
    wanted = {"keyid", "keytype", "scheme", "public"}
    if not isinstance(data, Mapping) or set(data) != wanted or not all(isinstance(v, str) for v in data.values()):
        raise _bad("A key is malformed", f"it must have exactly {', '.join(sorted(wanted))}")
    key = SSlibKey(data["keyid"], data["keytype"], data["scheme"], {"public": data["public"]})
    check_key(key.keyid, key.to_dict())
    return key


def check_key(keyid: str, key: Mapping[str, Any]) -> None:
    """Refuse a TUF key object unless it is an allowed scheme, canonically written, and named by its own hash."""
    scheme, keyval = key.get("scheme"), key.get("keyval")
    if (
        set(key) != {"keytype", "scheme", "keyval"}
        or not isinstance(scheme, str)
        or KEYTYPES.get(scheme) != key["keytype"]
        or not isinstance(keyval, Mapping)
        or set(keyval) != {"public"}
        or not isinstance(keyval["public"], str)
    ):
        raise _bad(f"The key {keyid!r} is not allowed", f"keys are {ED25519} or {P256} and hold nothing else")
    try:
        canonical = SSlibKey.from_crypto(_public(scheme, keyval["public"]))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _bad(f"The key {keyid!r} is malformed", f"its value is not an {scheme} public key") from None
    if canonical.keyval["public"] != keyval["public"] or (scheme == ED25519 and not _is_strong(keyval["public"])):
        raise _bad(f"The key {keyid!r} is malformed", "it is not written in its canonical form, or fits any signature")
    if canonical.keyid != keyid:
        raise _bad(f"The key {keyid!r} is misnamed", f"the hash of the key is {canonical.keyid}")


def _private(pem: bytes, passphrase: bytes | None) -> PrivateKey:
    key = load_pem_private_key(pem, passphrase)
    if isinstance(key, Ed25519PrivateKey):
        return key
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return key
    msg = "not an allowed scheme"
    raise ValueError(msg)


def _public(scheme: str, public: str) -> PublicKey:
    if scheme == ED25519:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
    key = load_pem_public_key(public.encode("utf-8"))
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return key
    msg = "not a P-256 key"
    raise ValueError(msg)


def _is_strong(public: str) -> bool:
    """Whether an ed25519 key is no point of small order, and written as RFC 8032, section 5.1.3 has it.

    OpenSSL accepts both kinds. A key of small order fits signatures that anyone can make; a coordinate of p and more is
    another writing of the same point.
    """
    y = int.from_bytes(bytes.fromhex(public), "little") & ((1 << 255) - 1)
    return y < _P and y not in _SMALL_ORDER


def _bad(what: str, why: str) -> BadKey:
    return BadKey(what, why, "Do not use it; ask whoever holds the root keys")
