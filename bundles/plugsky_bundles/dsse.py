"""DSSE: a signature over raw bytes and the type they are meant as, never over re-written JSON.

Source: https://github.com/secure-systems-lab/dsse, protocol v1: what is signed is
`DSSEv1 SP len(type) SP type SP len(payload) SP payload`. Everything of ours outside TUF metadata is signed this way.
An envelope here has exactly one signature.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Signature, SSlibKey

from plugsky_bundles.errors import MalformedMetadata, SignatureInvalid, SignatureUnknown
from plugsky_bundles.strict_json import malformed


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(signer: CryptoSigner, payload_type: str, payload: bytes) -> dict[str, Any]:
    """A DSSE envelope with one signature, as plain data."""
    signature = signer.sign(pae(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode("ascii"),
        "payloadType": payload_type,
        "signatures": [{"keyid": signature.keyid, "sig": _b64(bytes.fromhex(signature.signature))}],
    }


def verify(envelope: Any, key: SSlibKey, payload_type: str) -> bytes:
    """The payload, if `key` signed it as `payload_type`.

    Raises MalformedMetadata, SignatureUnknown (another key) or SignatureInvalid.
    """
    payload, keyid, signature = _open(envelope, payload_type)
    if keyid != key.keyid:
        raise SignatureUnknown("A signature is by an unknown key", f"{keyid} is not {key.keyid}", "Do not trust it")
    try:
        key.verify_signature(Signature(keyid, signature.hex()), pae(payload_type, payload))
    except UnverifiedSignatureError:
        raise SignatureInvalid(
            "A signature does not fit", f"key {keyid} signed something else", "Do not trust it"
        ) from None
    return payload


def keyid_of(envelope: Any, payload_type: str) -> str:
    """The key that a well-formed envelope says it is signed by; nothing is believed yet. Raises MalformedMetadata."""
    return _open(envelope, payload_type)[1]


def _open(envelope: Any, payload_type: str) -> tuple[bytes, str, bytes]:
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise _bad("it has other fields than payload, payloadType and signatures")
    if envelope["payloadType"] != payload_type:
        raise _bad(f"its type is {envelope['payloadType']!r}, not {payload_type!r}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise _bad("it must have exactly one signature")
    (entry,) = signatures
    if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"} or not isinstance(entry["keyid"], str):
        raise _bad("its signature must have exactly keyid and sig")
    return _unb64(envelope["payload"]), entry["keyid"], _unb64(entry["sig"])


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _unb64(text: Any) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raise _bad("it holds something that is not base64") from None
    if not data or _b64(data) != text:
        raise _bad("it holds something that is not canonical base64")
    return data


def _bad(why: str) -> MalformedMetadata:
    return malformed("A signed envelope", why)
