import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from securesystemslib.signer import SSlibKey
from securesystemslib.signer._utils import compute_default_keyid

from plugsky_bundles import dsse, keys
from plugsky_bundles.errors import (
    BadKey,
    KeyUnusable,
    MalformedMetadata,
    NotFound,
    PassphraseError,
    SignatureInvalid,
    SignatureUnknown,
)

SCHEMES = [keys.ED25519, keys.P256]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("passphrase", [b"secret", None])
def test_a_saved_key_opens_again_and_is_private(tmp_path, scheme, passphrase):
    signer = keys.generate(scheme)
    keys.save(tmp_path / "k.pem", signer, passphrase)
    assert stat.S_IMODE((tmp_path / "k.pem").stat().st_mode) == 0o600
    assert (b"ENCRYPTED" in (tmp_path / "k.pem").read_bytes()) == (passphrase is not None)
    assert keys.load(tmp_path / "k.pem", passphrase).public_key == signer.public_key


def test_a_wrong_passphrase_names_the_file_and_nothing_secret(tmp_path):
    keys.save(tmp_path / "root-1.pem", keys.generate(), b"right horse")
    for wrong in (b"wrong horse", b"", None):
        with pytest.raises(PassphraseError) as caught:
            keys.load(tmp_path / "root-1.pem", wrong)
        assert "root-1.pem" in str(caught.value)
        assert "horse" not in str(caught.value)
        assert caught.value.exit_code == 4


def test_an_empty_passphrase_protects_nothing():
    with pytest.raises(PassphraseError):
        keys.private_pem(keys.generate(), b"")


def test_what_is_not_a_key_of_ours_is_unusable(tmp_path):
    other = generate_private_key(SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content in (b"", b"hello", other):
        (tmp_path / "k.pem").write_bytes(content)
        with pytest.raises(KeyUnusable):
            keys.load(tmp_path / "k.pem", None)
    with pytest.raises(NotFound):
        keys.load(tmp_path / "nothing.pem", None)


def test_an_unknown_scheme_is_not_made():
    with pytest.raises(BadKey):
        keys.generate("rsassa-pss-sha256")


def public(scheme=keys.ED25519) -> SSlibKey:
    return keys.generate(scheme).public_key


def altered(key: SSlibKey, **fields):
    return key.keyid, {**key.to_dict(), **fields}


def self_named(scheme: str, keytype: str, value: str):
    """A key that is named by its own hash, whatever it holds."""
    key = SSlibKey("", keytype, scheme, {"public": value})
    return compute_default_keyid(keytype, scheme, key.keyval), key.to_dict()


ED, EC = public(), public(keys.P256)
BAD_KEYS = {
    "another key under this name": (ED.keyid, public().to_dict()),
    "a name of the holder's choice": ("0" * 64, ED.to_dict()),
    "a scheme that is not allowed": altered(ED, scheme="rsassa-pss-sha256"),
    "a key type of another scheme": altered(ED, keytype="ecdsa"),
    "the deprecated key type": altered(EC, keytype="ecdsa-sha2-nistp256"),
    "a field more": altered(ED, note="x"),
    "no value": altered(ED, keyval={}),
    "a second value": altered(ED, keyval={**ED.keyval, "private": "00"}),
    "the same key in capitals": self_named(keys.ED25519, "ed25519", ED.keyval["public"].upper()),
    "the same key with a space": self_named(keys.ED25519, "ed25519", " " + ED.keyval["public"]),
    "the same key with another line end": self_named(keys.P256, "ecdsa", EC.keyval["public"] + "\n"),
    "half a key": self_named(keys.ED25519, "ed25519", ED.keyval["public"][:-2]),
    "a key of another curve": self_named(
        keys.P256, "ecdsa", SSlibKey.from_crypto(generate_private_key(SECP384R1()).public_key()).keyval["public"]
    ),
}


@pytest.mark.parametrize(("keyid", "key"), BAD_KEYS.values(), ids=BAD_KEYS.keys())
def test_a_key_that_is_not_named_by_the_hash_of_its_one_writing_is_refused(keyid, key):
    with pytest.raises(BadKey):
        keys.check_key(keyid, key)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_public_key_travels_as_plain_data(scheme):
    key = public(scheme)
    keys.check_key(key.keyid, key.to_dict())
    assert keys.public_from_dict(keys.public_dict(key)) == key
    for bad in ({}, [], {**keys.public_dict(key), "x": "y"}, {**keys.public_dict(key), "public": 1}):
        with pytest.raises(BadKey):
            keys.public_from_dict(bad)


TYPE = "application/vnd.plugsky.test"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_envelope_gives_back_what_was_signed(scheme):
    signer = keys.generate(scheme)
    assert dsse.verify(dsse.sign(signer, TYPE, b"payload"), signer.public_key, TYPE) == b"payload"


def test_dsse_signs_type_and_payload_with_their_lengths():
    assert dsse.pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_an_envelope_signed_as_another_type_or_by_another_key_is_refused():
    signer, other = keys.generate(), keys.generate()
    envelope = dsse.sign(signer, TYPE, b"payload")
    with pytest.raises(MalformedMetadata):
        dsse.verify(envelope, signer.public_key, "application/other")
    with pytest.raises(SignatureUnknown):
        dsse.verify(envelope, other.public_key, TYPE)
    with pytest.raises(SignatureInvalid):
        dsse.verify({**envelope, "payload": "AAAA"}, signer.public_key, TYPE)
    confused = dsse.sign(signer, "application/other", b"payload") | {"payloadType": TYPE}
    with pytest.raises(SignatureInvalid):
        dsse.verify(confused, signer.public_key, TYPE)


ENVELOPE = dsse.sign(keys.generate(), TYPE, b"payload")
BAD_ENVELOPES = {
    "not an object": [],
    "a field more": {**ENVELOPE, "x": 1},
    "no signature": {**ENVELOPE, "signatures": []},
    "two signatures": {**ENVELOPE, "signatures": ENVELOPE["signatures"] * 2},
    "a signature that is text": {**ENVELOPE, "signatures": ["x"]},
    "base64 with a line end": {**ENVELOPE, "payload": ENVELOPE["payload"] + "\n"},
    "base64 with stray bits": {**ENVELOPE, "payload": "AB=="},
    "a payload that is a number": {**ENVELOPE, "payload": 1},
    "nothing signed": {**ENVELOPE, "payload": ""},
}


@pytest.mark.parametrize("envelope", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES.keys())
def test_an_envelope_of_another_shape_is_refused(envelope):
    with pytest.raises(MalformedMetadata):
        dsse.verify(envelope, keys.generate().public_key, TYPE)
