"""DSSE: a signature over raw bytes and the type they are meant as, never over re-written JSON.

Source: https://github.com/secure-systems-lab/dsse, protocol v1: what is signed is
`DSSEv1 SP len(type) SP type SP len(payload) SP payload`. Everything of ours outside TUF metadata is signed this way.
An envelope of one person has exactly one signature; one of several (`open_joint`) has each key once, sorted by keyid.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, Signer, SSlibKey

from plugsky_bundles.errors import MalformedMetadata, SignatureInvalid, SignatureUnknown
from plugsky_bundles.strict_json import malformed


def pae(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding: the bytes that are signed."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


MAX_SIGNATURES: Final = 32


@dataclass(frozen=True, slots=True)
class Joint:
    """What several people sign: a payload, the type that it is meant as, and signatures by keyid."""

    payload_type: str
    payload: bytes
    signatures: Mapping[str, bytes]

    def signed_by(self, signers: Iterable[Signer]) -> Joint:
        """With the signatures of these; one that is there stays as it is."""
        signatures = dict(self.signatures)
        for signer in signers:
            if signer.public_key.keyid not in signatures:
                signed = signer.sign(pae(self.payload_type, self.payload))
                signatures[signed.keyid] = bytes.fromhex(signed.signature)
        return Joint(self.payload_type, self.payload, dict(sorted(signatures.items())))

    def check(self, keys: Mapping[str, SSlibKey]) -> None:
        """Refuse it when any signature is not by one of `keys` or does not fit."""
        for keyid, signature in self.signatures.items():
            if keyid not in keys:
                raise _unknown(f"{keyid} may not sign this")
            _fits(keys[keyid], self.payload_type, self.payload, signature)

    def to_dict(self) -> dict[str, Any]:
        signatures = [{"keyid": keyid, "sig": _b64(sig)} for keyid, sig in sorted(self.signatures.items())]
        return {"payload": _b64(self.payload), "payloadType": self.payload_type, "signatures": signatures}


def sign(signer: Signer, payload_type: str, payload: bytes) -> dict[str, Any]:
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
    payload, keyid, signature = _open_single(envelope, payload_type)
    if keyid != key.keyid:
        raise _unknown(f"{keyid} is not {key.keyid}")
    _fits(key, payload_type, payload, signature)
    return payload


def keyid_of(envelope: Any, payload_type: str) -> str:
    """Whose signature an envelope of one person claims to carry; nothing is checked but the form."""
    return _open_single(envelope, payload_type)[1]


def open_joint(envelope: Any, payload_type: str) -> Joint:
    """An envelope of several people, perhaps of none yet. No signature is checked. Raises MalformedMetadata."""
    payload, signatures = _open(envelope, payload_type)
    keyids = [keyid for keyid, _ in signatures]
    if keyids != sorted(set(keyids)):
        raise _bad("its signatures are not sorted by keyid, each once")
    return Joint(payload_type, payload, dict(signatures))


def _open_single(envelope: Any, payload_type: str) -> tuple[bytes, str, bytes]:
    payload, signatures = _open(envelope, payload_type)
    if len(signatures) != 1:
        raise _bad("it must have exactly one signature")
    ((keyid, signature),) = signatures
    return payload, keyid, signature


def _open(envelope: Any, payload_type: str) -> tuple[bytes, list[tuple[str, bytes]]]:
    if not isinstance(envelope, dict) or set(envelope) != {"payload", "payloadType", "signatures"}:
        raise _bad("it has other fields than payload, payloadType and signatures")
    if envelope["payloadType"] != payload_type:
        raise _bad(f"its type is {envelope['payloadType']!r}, not {payload_type!r}")
    signatures = envelope["signatures"]
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise _bad(f"its signatures are not a list of at most {MAX_SIGNATURES}")
    for entry in signatures:
        if not isinstance(entry, dict) or set(entry) != {"keyid", "sig"} or not isinstance(entry["keyid"], str):
            raise _bad("its signature must have exactly keyid and sig")
    payload = _unb64(envelope["payload"])
    return payload, [(entry["keyid"], _unb64(entry["sig"])) for entry in signatures]


def _fits(key: SSlibKey, payload_type: str, payload: bytes, signature: bytes) -> None:
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), pae(payload_type, payload))
    except UnverifiedSignatureError:
        raise SignatureInvalid(
            "A signature does not fit", f"key {key.keyid} signed something else", "Do not trust it"
        ) from None


def _unknown(why: str) -> SignatureUnknown:
    return SignatureUnknown("A signature is by an unknown key", why, "Do not trust it")


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
