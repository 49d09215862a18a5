"""Receipts: only what an enrolled site signed over a bundle that was sealed here is believed."""

import base64
import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.delta_site import MODEL, NEW_TEMPLATE, Site
from bundles.forge import NOW, Forge
from plugsky_bundles import dsse, keys, receipt
from plugsky_bundles.errors import (
    MalformedMetadata,
    MixAndMatch,
    Rollback,
    SignatureInvalid,
    SignatureUnknown,
    UntrustedRoot,
    VerificationError,
)
from plugsky_bundles.format import ROLES, Chunk
from plugsky_bundles.receipt import MAX_RECEIPT, PAYLOAD_TYPE, Held, Receipt
from plugsky_bundles.since import Since, ascending_digests, decode_absent, encode_absent, since_of
from plugsky_bundles.strict_json import encode

KEY = keys.generate()
SITES = {KEY.public_key.keyid: KEY.public_key}
SAID = Receipt(
    site=KEY.public_key.keyid,
    at=NOW,
    channel="demo",
    version=3,
    bundle_id="b" * 64,
    content_id="c" * 64,
    generation=2,
    root_fingerprint="d" * 64,
    roles={role: Held(1, "e" * 64) for role in ROLES},
    python="3.11",
    machine="x86_64",
    blobs=frozenset({"0" * 64, "1" * 64, "f" * 64}),
)


def test_a_receipt_reads_back_as_it_was_signed():
    assert receipt.read(receipt.make(SAID, KEY), SITES) == SAID
    assert receipt.file_name(SAID) == f"demo-3-{SAID.site[:8]}.receipt.json"


def test_a_site_signs_for_itself_only():
    with pytest.raises(ValueError, match="its own site"):
        receipt.make(SAID, keys.generate())


def test_a_site_that_holds_too_much_names_its_longest_blobs(monkeypatch):
    monkeypatch.setattr(receipt, "MAX_BLOBS", 2)
    blobs = [Chunk(letter * 64, length) for letter, length in (("a", 1), ("b", 3), ("c", 2), ("b", 3))]
    assert receipt.longest(blobs) == {"b" * 64, "c" * 64}


def test_a_receipt_by_a_site_that_is_not_enrolled_is_refused():
    with pytest.raises(SignatureUnknown, match="1 sites are enrolled") as caught:
        receipt.read(receipt.make(SAID, KEY), {"x": keys.generate().public_key})
    assert KEY.public_key.keyid in str(caught.value)


def signed(change, **envelope) -> bytes:
    """A receipt whose payload was changed before it was signed."""
    payload = json.loads(base64.b64decode(json.loads(receipt.make(SAID, KEY))["payload"]))
    change(payload)
    return encode({**dsse.sign(KEY, PAYLOAD_TYPE, encode(payload)), **envelope})


def b64(*digests: bytes) -> str:
    return base64.b64encode(b"".join(digests)).decode()


BAD_PAYLOADS = {
    "another schema": lambda p: p.update(schema="plugsky.receipt/2"),
    "a member more": lambda p: p.update(also=1),
    "a member less": lambda p: p.pop("machine"),
    "another site than the one that signed": lambda p: p.update(site="a" * 64),
    "an id that is no digest": lambda p: p.update(bundle_id="../x"),
    "a version of zero": lambda p: p.update(version=0),
    "a version that is true": lambda p: p.update(version=True),
    "a generation that is text": lambda p: p.update(generation="1"),
    "no time": lambda p: p.update(at="yesterday"),
    "a role that there is not": lambda p: p["roles"].update(targets={"version": 1, "sha256": "0" * 64}),
    "a role without a digest": lambda p: p["roles"].update(debs={"version": 1}),
    "roles that are a list": lambda p: p.update(roles=[]),
    "blobs that are a list": lambda p: p.update(blobs=["0" * 64]),
    "blobs that are no base64": lambda p: p.update(blobs="~~~~"),
    "blobs cut short": lambda p: p.update(blobs=b64(bytes(31))),
    "blobs that are not sorted": lambda p: p.update(blobs=b64(b"\2" * 32, b"\1" * 32)),
    "a blob twice": lambda p: p.update(blobs=b64(b"\1" * 32, b"\1" * 32)),
    "a machine of a thousand letters": lambda p: p.update(machine="x" * 1000),
    "a Python that is a number": lambda p: p.update(python=3),
}


@pytest.mark.parametrize("change", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
def test_a_signed_receipt_is_refused_with(change):
    with pytest.raises(VerificationError) as caught:
        receipt.read(signed(change), SITES)
    assert caught.value.exit_code == 5


def test_a_receipt_with_too_many_blobs_is_refused(monkeypatch):
    data = receipt.make(SAID, KEY)
    monkeypatch.setattr(receipt, "MAX_BLOBS", 2)
    with pytest.raises(MalformedMetadata, match="3 blobs"):
        receipt.read(data, SITES)


def test_a_file_that_is_too_large_is_not_even_parsed():
    with pytest.raises(MalformedMetadata, match="the limit is"):
        receipt.read(b" " * (MAX_RECEIPT + 1), SITES)


def test_a_receipt_in_another_writing_is_refused():
    with pytest.raises(MalformedMetadata, match="canonical"):
        receipt.read(receipt.make(SAID, KEY) + b"\n", SITES)
    payload = json.dumps(json.loads(base64.b64decode(json.loads(receipt.make(SAID, KEY))["payload"]))).encode()
    with pytest.raises(MalformedMetadata, match="canonical"):
        receipt.read(encode(dsse.sign(KEY, PAYLOAD_TYPE, payload)), SITES)


def test_what_was_signed_as_something_else_is_no_receipt():
    envelope = dsse.sign(KEY, "application/vnd.plugsky.approval+json", b"{}")
    with pytest.raises(MalformedMetadata, match="type"):
        receipt.read(encode(envelope), SITES)
    with pytest.raises(SignatureInvalid):
        receipt.read(encode({**envelope, "payloadType": PAYLOAD_TYPE}), SITES)


def test_two_signatures_are_one_too_many():
    envelope = json.loads(receipt.make(SAID, KEY))
    with pytest.raises(MalformedMetadata, match="exactly one"):
        receipt.read(encode({**envelope, "signatures": envelope["signatures"] * 2}), SITES)


# What a delta may build on


@pytest.fixture(scope="module")
def site(forge) -> Site:
    site = Site(forge, forge.base / "channels")
    site.accept(forge.built(MODEL))
    return site


BAD_BASES = {
    "of another channel": ({"channel": "other"}, MixAndMatch, "another channel"),
    "of a site that trusts another root": ({"root_fingerprint": "0" * 64}, UntrustedRoot, "another root"),
    "newer than what was sealed here": ({"version": 2}, Rollback, "newest known here is 1"),
    "of a bundle that was never sealed here": ({"bundle_id": "0" * 64}, MixAndMatch, "never sealed here"),
}


@pytest.mark.parametrize(("changes", "error", "why"), BAD_BASES.values(), ids=BAD_BASES.keys())
def test_no_delta_builds_on_a_receipt(forge, site, changes, error, why):
    with pytest.raises(error, match=why):
        forge.build(NEW_TEMPLATE, since=site.receipt(**changes))
    assert not (forge.base / "plugsky-demo-2").exists()


def test_no_delta_builds_on_a_receipt_that_nobody_enrolled_signed(forge, site):
    data = site.receipt(site=keys.generate())
    with pytest.raises(SignatureUnknown):
        forge.build(NEW_TEMPLATE, since=data)


def test_a_receipt_of_a_version_that_was_drafted_and_never_sealed_is_refused(tmp_path):
    forge = Forge(tmp_path)
    site = Site(forge, tmp_path / "channels")
    site.accept(forge.built(MODEL))
    (forge.trust / "channels/demo.json").unlink()
    custody = forge.trust / "custody.jsonl"
    custody.write_bytes(custody.read_bytes().replace(b"bundle.sealed", b"bundle.sealer"))
    with pytest.raises(VerificationError):
        forge.build(NEW_TEMPLATE, since=site.receipt())


# Whatever the bytes are


HEX = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(st.frozensets(HEX, min_size=1, max_size=40))
def test_a_list_of_absent_blobs_reads_back(digests):
    data = encode_absent(digests)
    assert decode_absent(data) == digests
    assert len(data) == 16 + 32 * len(digests)


@given(st.binary(max_size=200) | st.binary(max_size=120).map(lambda tail: b"PLUGSKYA\0\0\0\1\0\0\0\2" + tail))
def test_no_bytes_make_the_reader_of_absent_blobs_do_anything_but_read_or_refuse(data):
    with contextlib.suppress(MalformedMetadata):
        assert encode_absent(decode_absent(data)) == data


@given(st.frozensets(HEX, max_size=20), st.integers(0, 19))
def test_digests_in_another_order_are_refused(digests, at):
    ordered = [bytes.fromhex(digest) for digest in sorted(digests)]
    assert ascending_digests(b"".join(ordered), "It") == digests
    if len(ordered) > 1:
        one = at % (len(ordered) - 1)
        ordered[one], ordered[one + 1] = ordered[one + 1], ordered[one]
        with pytest.raises(MalformedMetadata):
            ascending_digests(b"".join(ordered), "It")


BLOB = st.builds(Chunk, HEX, st.integers(17, 1 << 20))
SINCE = st.builds(
    Since,
    HEX,
    st.none() | HEX,
    st.frozensets(st.sampled_from(ROLES)).map(lambda roles: tuple(sorted(roles))),
    st.none() | BLOB,
)


@given(SINCE)
def test_what_a_delta_leaves_out_reads_back(since):
    assert since_of(since.to_dict(), "It") == since


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 1 << 40) | st.text(max_size=5) | HEX,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["absent", "roles", "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["bundle_id", "receipt", "roles", "absent", "x"]), JSON))
def test_no_value_makes_the_reader_of_the_field_do_anything_but_read_or_refuse(members):
    try:
        since = since_of(members, "It")
        assert since is not None
        assert since.to_dict() == members
    except MalformedMetadata:
        pass


@settings(max_examples=60)
@given(st.data())
def test_no_change_of_a_receipt_makes_the_reader_do_anything_but_read_or_refuse(data):
    members = json.loads(base64.b64decode(json.loads(receipt.make(SAID, KEY))["payload"]))
    members[data.draw(st.sampled_from(sorted(members)))] = data.draw(JSON)
    try:
        found = receipt.read(encode(dsse.sign(KEY, PAYLOAD_TYPE, encode(members))), SITES)
        assert receipt.read(receipt.make(found, KEY), SITES) == found
    except VerificationError:
        pass


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=3))
def test_no_damage_of_a_receipt_is_read_as_something_else(at, damage):
    right = receipt.make(SAID, KEY)
    at %= len(right)
    wrong = right[:at] + damage + right[at + len(damage) :]
    try:
        assert receipt.read(wrong, SITES) == SAID
        assert wrong == right
    except VerificationError:
        pass


@given(st.builds(lambda blobs: dataclasses.replace(SAID, blobs=blobs), st.frozensets(HEX, max_size=30)))
@settings(max_examples=30)
def test_any_receipt_reads_back(said):
    assert receipt.read(receipt.make(said, KEY), SITES) == said
