"""The verifier's own ed25519 and P-256 judge every signature as cryptography does, and keys as the kernel does."""

import base64
import hashlib
import re
from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256K1,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    derive_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from hypothesis import given
from hypothesis import strategies as st

from bootstrap import plugsky_verify as verifier
from bundles.forge import olpc, sha256
from plugsky_bundles import fingerprint_words, keys
from plugsky_bundles.errors import BadKey

L, P = verifier.L25519, verifier.P25519
N = verifier.N256

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        (
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe246"
            "55141438e7a100b"
        ),
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        (
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb"
            "00d291612bb0c00"
        ),
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        (
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc"
            "027beceea1ec40a"
        ),
    ),
]


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_vectors_of_rfc_8032_hold(secret, public, message, signature):
    assert Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)).sign(bytes.fromhex(message)).hex() == signature
    assert verifier.verify_ed25519(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message))
    assert not verifier.verify_ed25519(bytes.fromhex(public), bytes.fromhex(signature), bytes.fromhex(message) + b"x")


def test_the_vector_of_rfc_6979_holds():
    """Appendix A.2.5, P-256 with SHA-256, message `sample`."""
    x = 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
    y = 0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299
    r = 0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716
    s = 0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8
    der = verifier.SPKI_256 + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    assert verifier.verify_p256(pem(der), der_pair(r, s), b"sample")
    assert not verifier.verify_p256(pem(der), der_pair(r, s), b"Sample")


def theirs_ed25519(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def ed25519_edges() -> Iterator[tuple[str, bytes, bytes]]:
    """Public key and signature of the message `m`, by English name."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public, good = key.public_key().public_bytes_raw(), key.sign(b"m")
    r, s = good[:32], int.from_bytes(good[32:], "little")
    yield "right", public, good
    for name, number in {
        "S plus the order": s + L,
        "S plus twice the order": s + 2 * L,
        "S of zero": 0,
        "S of the order": L,
        "S one below the order": L - 1,
        "S with its top bit set": s | 1 << 255,
        "S all ones": (1 << 256) - 1,
    }.items():
        yield name, public, r + number.to_bytes(32, "little")
    for name, point in {
        "R of zero": 0,
        "R the neutral element": 1,
        "R the neutral element, written beyond the prime": P + 1,
        "R with its sign flipped": int.from_bytes(r, "little") ^ 1 << 255,
        "R no point": 2,
        "R all ones": (1 << 256) - 1,
    }.items():
        yield name, public, point.to_bytes(32, "little") + good[32:]
    for length in (0, 1, 32, 63):
        yield f"cut to {length} bytes", public, good[:length]
    yield "a byte more", public, good + b"\0"
    for bit in (0, 7, 100, 255, 256, 300, 511):
        yield f"bit {bit} flipped", public, (int.from_bytes(good, "little") ^ 1 << bit).to_bytes(64, "little")
    for y in (0, 1, 2, P - 1, *verifier.SMALL_ORDER[3:], *range(P, 1 << 255)):
        for sign in (0, 1):
            weak = (y | sign << 255).to_bytes(32, "little")
            yield f"key {weak.hex()}", weak, good
            point = verifier.decode_25519(weak)
            if point is not None:
                yield f"key {weak.hex()} with a signature that fits it", weak, fitting(weak, point)


def fitting(public: bytes, point: verifier.Point) -> bytes:
    """For a key of small order: R = S*B - k*A, with k guessed until it is right modulo eight."""
    for s in range(1, 200):
        for k in range(8):
            minus = (-point[0] % P, point[1], 1, -point[3] % P)
            x, y, z, _ = verifier.combine(verifier.add_25519, (0, 1, 1, 0), s, verifier.BASE_25519, k, minus)
            inverse = pow(z, -1, P)
            r = (y * inverse % P | (x * inverse % P & 1) << 255).to_bytes(32, "little")
            if int.from_bytes(hashlib.sha512(r + public + b"m").digest(), "little") % L % 8 == k:
                return r + s.to_bytes(32, "little")
    raise AssertionError


@pytest.mark.parametrize(("public", "signature"), [pytest.param(p, s, id=name) for name, p, s in ed25519_edges()])
def test_edges_of_ed25519_are_judged_as_cryptography_does(public, signature):
    assert verifier.verify_ed25519(public, signature, b"m") == theirs_ed25519(public, signature, b"m")


def pem(der: bytes, width: int = 64) -> str:
    text = base64.b64encode(der).decode()
    lines = "\n".join(text[at : at + width] for at in range(0, len(text), width))
    return f"-----BEGIN PUBLIC KEY-----\n{lines}\n-----END PUBLIC KEY-----\n"


def der_integer(value: int, *, pad: int = 0) -> bytes:
    body = value.to_bytes(value.bit_length() // 8 + 1, "big", signed=value < 0)
    return bytes([2, len(body) + pad]) + bytes(pad) + body


def der_pair(r: int, s: int) -> bytes:
    body = der_integer(r) + der_integer(s)
    return bytes([0x30, len(body)]) + body


def p256_key(secret: int = 12345) -> EllipticCurvePrivateKey:
    return derive_private_key(secret, SECP256R1())


def public_pem(key: EllipticCurvePrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def theirs_p256(text: str, signature: bytes, message: bytes) -> bool:
    key = load_pem_public_key(text.encode())
    assert isinstance(key, EllipticCurvePublicKey)
    try:
        key.verify(signature, message, ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def p256_edges() -> Iterator[tuple[str, bytes]]:
    good = p256_key().sign(b"m", ECDSA(SHA256()))
    r, s = decode_dss_signature(good)
    yield "right", good
    yield "s in the other half", der_pair(r, N - s)
    for name, pair in {
        "r of zero": (0, s),
        "s of zero": (r, 0),
        "both zero": (0, 0),
        "r of the order": (N, s),
        "s of the order": (r, N),
        "r plus the order": (r + N, s),
        "s plus the order": (r, s + N),
        "r negative": (-r, s),
        "s negative": (r, -s),
        "r minus the order": (r - N, s),
        "r of one": (1, s),
        "s of one": (r, 1),
        "r of the prime": (verifier.P256, s),
        "swapped": (s, r),
    }.items():
        yield name, der_pair(*pair)
    one, two = der_integer(r), der_integer(s)
    body = one + two
    size = len(body)
    yield "r with a zero too many", bytes([0x30, size + 1]) + der_integer(r, pad=1) + two
    yield "s with a zero too many", bytes([0x30, size + 1]) + one + der_integer(s, pad=1)
    yield "a long length", bytes([0x30, 0x81, size]) + body
    yield "a longer length", bytes([0x30, 0x82, 0, size]) + body
    yield "an indefinite length", b"\x30\x80" + body + b"\0\0"
    yield "an integer with a long length", bytes([0x30, size + 1, 2, 0x81]) + one[1:] + two
    yield "a byte behind it", good + b"\0"
    yield "a byte inside, behind the integers", bytes([0x30, size + 1]) + body + b"\0"
    yield "a null inside", bytes([0x30, size + 2]) + body + b"\5\0"
    yield "three integers", bytes([0x30, size + 3]) + body + b"\2\1\1"
    yield "one integer", bytes([0x30, len(one)]) + one
    yield "another tag", b"\x31" + good[1:]
    yield "an integer that is an octet string", bytes([0x30, size, 4]) + body[1:]
    yield "an empty integer", bytes([0x30, 2 + len(two), 2, 0]) + two
    yield "an empty sequence", b"\x30\0"
    yield "nothing", b""
    yield "cut short", good[:-1]
    yield "the plain pair", r.to_bytes(32, "big") + s.to_bytes(32, "big")
    yield "a length beyond the end", bytes([0x30, size + 5]) + body
    yield "a length before the end", bytes([0x30, size - 5]) + body
    yield "integers of sixty bytes", der_pair(r << 224, s)


@pytest.mark.parametrize("signature", [pytest.param(signature, id=name) for name, signature in p256_edges()])
def test_edges_of_ecdsa_are_judged_as_cryptography_does(signature):
    text = public_pem(p256_key())
    assert verifier.verify_p256(text, signature, b"m") == theirs_p256(text, signature, b"m")


def test_a_signature_whose_point_is_at_infinity_is_refused():
    """u1*G + u2*Q = 0 when e = -r*d: the message cannot be chosen so, but e can, through the key."""
    e = int.from_bytes(hashlib.sha256(b"m").digest(), "big")
    r = 7
    text = public_pem(p256_key(-e * pow(r, -1, N) % N))
    assert not verifier.verify_p256(text, der_pair(r, 5), b"m")
    assert not theirs_p256(text, der_pair(r, 5), b"m")


@pytest.mark.parametrize("secret", [1, 2, 3, N - 1, N - 2, N // 2])
def test_keys_beside_the_base_point_are_no_special_case(secret):
    key = p256_key(secret)
    assert verifier.verify_p256(public_pem(key), key.sign(b"m", ECDSA(SHA256())), b"m")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=300), st.integers(0, 511))
def test_any_ed25519_signature_verifies_and_no_flipped_bit_does(secret, message, bit):
    key = Ed25519PrivateKey.from_private_bytes(secret)
    public, good = key.public_key().public_bytes_raw(), key.sign(message)
    assert verifier.verify_ed25519(public, good, message)
    flipped = (int.from_bytes(good, "little") ^ 1 << bit).to_bytes(64, "little")
    assert not verifier.verify_ed25519(public, flipped, message)


@given(st.integers(1, N - 1), st.binary(max_size=300), st.integers(0, 2**600))
def test_any_p256_signature_verifies_and_damaged_ones_are_judged_alike(secret, message, damage):
    key = p256_key(secret)
    text, good = public_pem(key), key.sign(message, ECDSA(SHA256()))
    assert verifier.verify_p256(text, good, message)
    at = damage % len(good)
    damaged = good[:at] + bytes([good[at] ^ (damage >> 16) % 255 + 1]) + good[at + 1 :]
    assert verifier.verify_p256(text, damaged, message) == theirs_p256(text, damaged, message)


# Keys


def key_object(scheme: str, public: str) -> dict:
    keytype = "ed25519" if scheme == "ed25519" else "ecdsa"
    return {"keytype": keytype, "scheme": scheme, "keyval": {"public": public}}


def key_edges() -> Iterator[tuple[str, dict]]:
    raw = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()
    for name, public in {
        "right": raw,
        "in capitals": raw.upper(),
        "cut short": raw[:-2],
        "a byte more": raw + "00",
        "no hex": "x" * 64,
        "with spaces": " " + raw,
        "empty": "",
    }.items():
        yield f"ed25519 {name}", key_object("ed25519", public)
    for y in (0, 1, P - 1, *verifier.SMALL_ORDER[3:], P, P + 1, P + 3, P + 18):
        for sign in (0, 1):
            public = (y | sign << 255).to_bytes(32, "little").hex()
            yield f"ed25519 {public}", key_object("ed25519", public)
    p256 = key_object(keys.P256, public_pem(p256_key()))["keyval"]["public"]
    der = base64.b64decode("".join(p256.split("\n")[1:-2]))
    point = p256_key().public_key()
    compressed = point.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    other = derive_private_key(5, SECP256K1())
    for name, text in {
        "right": p256,
        "without the last newline": p256[:-1],
        "with another newline": p256 + "\n",
        "with returns": p256.replace("\n", "\r\n"),
        "with text before": "x\n" + p256,
        "in lines of 76": pem(der, 76),
        "in one line": pem(der, 1000),
        "under another heading": p256.replace("PUBLIC", "EC PUBLIC"),
        "compressed": pem(bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + compressed),
        "with x of zero": pem(der[:27] + bytes(32) + der[59:]),
        "with x beyond the prime": pem(der[:27] + b"\xff" * 32 + der[59:]),
        "off the curve": pem(der[:-1] + bytes([der[-1] ^ 1])),
        "at infinity": pem(bytes.fromhex("3019301306072a8648ce3d020106082a8648ce3d03010703020000")),
        "with a byte more": pem(der + b"\0"),
        "cut short": pem(der[:-1]),
        "of another curve": public_pem(other),
        "with base64 that has spare bits": re.sub(r"(.)==", lambda match: chr(ord(match[1]) + 1) + "==", p256),
        "of ed25519": Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        .decode(),
        "empty": "",
        "no pem": "p256",
    }.items():
        yield f"p256 {name}", key_object(keys.P256, text)
    yield "p256 of keytype ed25519", {**key_object(keys.P256, p256), "keytype": "ed25519"}
    yield "of no scheme", {**key_object("ed25519", raw), "scheme": None}
    yield "with a field more", {**key_object("ed25519", raw), "x": 1}
    yield "with its private half", {**key_object("ed25519", raw), "keyval": {"public": raw, "private": raw}}


@pytest.mark.parametrize("key", [pytest.param(key, id=name) for name, key in key_edges()])
def test_keys_are_allowed_and_refused_as_the_kernel_does(key):
    keyid = sha256(olpc(key))
    verdicts = []
    for check, error in ((keys.check_key, BadKey), (verifier.check_key, verifier.Refused)):
        try:
            check(keyid, key)
            verdicts.append("allowed")
        except error as refused:
            verdicts.append(refused.code)
    assert verdicts in (["allowed"] * 2, ["bad_key"] * 2)


def test_a_key_has_to_be_named_by_its_hash():
    key = next(key for name, key in key_edges() if name == "p256 right")
    with pytest.raises(verifier.Refused, match="bad_key"):
        verifier.check_key("0" * 64, key)


# The fingerprint on paper


@given(st.binary(min_size=32, max_size=32))
def test_words_on_paper_are_read_as_the_appliance_writes_them(data):
    words = fingerprint_words.to_words(data.hex())
    assert verifier.read_fingerprint(words) == verifier.read_fingerprint(data.hex().upper()) == data.hex()


WORDS = fingerprint_words.to_words("00112233" * 8)
ODD = [
    "",
    "x",
    "0" * 63,
    "a\n" * 64,
    "0 " * 64,
    "é" * 64,
    "bababé" * 17,
    f"{WORDS} babab",
    WORDS[:-1],
    WORDS.replace("-", " "),
]


@given(st.integers(0, len(WORDS) - 1), st.sampled_from("abdefgh -2é"), st.sampled_from(["", *ODD]))
def test_slips_on_paper_are_refused_where_the_appliance_refuses_them(at, letter, odd):
    """The verifier's reader is a copy of the appliance's: what one takes, the other takes, and both name one slip."""
    text = odd or WORDS[:at] + letter + WORDS[at + 1 :]
    verdicts = []
    for read in (fingerprint_words.read_fingerprint, verifier.read_fingerprint):
        try:
            verdicts.append(read(text))
        except ValueError as error:
            verdicts.append(f"refused: {error}")
    assert verdicts[0] == verdicts[1], text
