"""What trusted keys may say and who may say it: every rule of the metadata walk, broken once."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from bundles.corpus import (
    ALTERED,
    BAD_ROOTS,
    BAD_SIGNATURE_LISTS,
    resign_role,
    with_root,
    with_signatures,
    with_unsigned_entry,
)
from bundles.forge import LIFETIME, NOW, PASSPHRASE, Forge, envelope, put_blob, sha256, signed_parts, take_over
from plugsky_bundles import keys
from plugsky_bundles.errors import (
    DigestMismatch,
    MalformedMetadata,
    MetadataExpired,
    NotSealed,
    Revoked,
    Rollback,
    SealedInFuture,
    SignatureInvalid,
    SignatureMissing,
    SignatureUnknown,
    ThresholdNotMet,
    UntrustedRoot,
    VerificationError,
)
from plugsky_bundles.format import ROLES, encode_chunk_list
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import Floor, Revocations, TrustState
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import check_still_valid, verify_metadata
from plugsky_bundles.walk import fingerprint


def verify(bundle: Path, anchor=None, now=NOW) -> VerifiedBundle:
    """Verify as a site would that pinned the newest root on the media."""
    if anchor is None:
        anchor = fingerprint((bundle / "metadata/1.root.json").read_bytes())
    return verify_metadata(open_bundle(bundle), anchor, now=now)


def refused(bundle: Path, error: type[VerificationError], why: str = "", **options) -> None:
    with pytest.raises(error, match=why or None) as caught:
        verify(bundle, **options)
    assert caught.value.exit_code == 5
    assert type(caught.value) is error


# Signatures


def test_a_role_without_signatures_is_refused_by_name(forge, bundle):
    for role in ("targets", *ROLES):
        copy = bundle.with_name(f"copy-{role}")
        shutil.copytree(bundle, copy)
        resign_role(forge, copy, role, encode(envelope(signed_parts(copy)[role], [])))
        refused(copy, SignatureMissing, role)


def test_a_signature_by_a_key_nobody_names_is_refused(forge, bundle):
    stranger = keys.generate()
    for signers in ([stranger], [*forge.signers("targets"), stranger]):
        resign_role(forge, bundle, "models", encode(envelope(signed_parts(bundle)["models"], signers)))
        refused(bundle, SignatureUnknown, stranger.public_key.keyid)


@pytest.mark.parametrize("role", ["snapshot", "root", "timestamp"])
def test_a_known_key_may_not_sign_for_another_role(forge, bundle, role):
    resign_role(forge, bundle, "models", encode(envelope(signed_parts(bundle)["models"], forge.signers(role))))
    refused(bundle, SignatureUnknown)


def test_a_signature_over_other_bytes_is_refused(forge, bundle):
    signed = signed_parts(bundle)["models"]
    whole = envelope(signed, forge.signers("targets"))
    whole["signed"] = {**signed, "expires": "2031-01-01T00:00:00Z"}
    resign_role(forge, bundle, "models", encode(whole))
    refused(bundle, SignatureInvalid)


def test_a_signature_of_one_role_does_not_serve_for_another(forge, bundle):
    parts = signed_parts(bundle)
    whole = envelope(parts["python"], forge.signers("targets"))
    whole["signed"] = parts["models"]
    resign_role(forge, bundle, "models", encode(whole))
    refused(bundle, SignatureInvalid)


def test_signatures_over_other_writings_of_the_same_json_do_not_count(forge, bundle):
    signed = signed_parts(bundle)["models"]
    (signer,) = forge.signers("targets")
    signature = signer.sign(json.dumps(signed, indent=1).encode())
    whole = {"signatures": [{"keyid": signature.keyid, "sig": signature.signature}], "signed": signed}
    resign_role(forge, bundle, "models", encode(whole))
    refused(bundle, SignatureInvalid)


@pytest.mark.parametrize("change", BAD_SIGNATURE_LISTS.values(), ids=BAD_SIGNATURE_LISTS.keys())
def test_a_list_of_signatures_in_another_form_is_refused(forge, bundle, change):
    with_signatures(change)(forge, bundle)
    with pytest.raises((MalformedMetadata, SignatureMissing)):
        verify(bundle)


def test_an_ed25519_signature_has_one_form_only(forge, bundle):
    """Adding the group order to S gives the same point; RFC 8032 section 5.1.7 refuses it."""
    order = 2**252 + 27742317777372353535851937790883648493

    def stretch(signatures):
        raw = bytes.fromhex(signatures[0]["sig"])
        s = int.from_bytes(raw[32:], "little") + order
        return [{**signatures[0], "sig": (raw[:32] + s.to_bytes(32, "little")).hex()}]

    with_signatures(stretch)(forge, bundle)
    refused(bundle, SignatureInvalid)


def test_one_of_two_signatures_is_not_enough(tmp_path):
    forge = Forge(tmp_path, targets_keys=3, targets_threshold=2)
    bundle = forge.sealed()
    assert len(verify(bundle).signers["targets"]) == 3
    first, second, _ = forge.signers("targets")
    resign_role(forge, bundle, "models", encode(envelope(signed_parts(bundle)["models"], [first, second])))
    assert len(verify(bundle).signers["models"]) == 2
    resign_role(forge, bundle, "models", encode(envelope(signed_parts(bundle)["models"], [first])))
    refused(bundle, ThresholdNotMet, "1 of the 2")


def test_p256_keys_sign_bundles_too(tmp_path):
    forge = Forge(tmp_path, scheme=keys.P256)
    assert verify(forge.sealed()).signers["targets"][0].name == "targets-1"


# The root


@pytest.mark.parametrize(("change", "error"), BAD_ROOTS.values(), ids=BAD_ROOTS.keys())
def test_a_root_that_means_less_than_it_says_is_refused(forge, bundle, change, error):
    with_root(change)(forge, bundle)
    refused(bundle, error)


def test_a_root_nobody_pinned_is_not_trusted(forge, bundle, tmp_path):
    refused(bundle, UntrustedRoot, anchor="0" * 64)
    refused(bundle, UntrustedRoot, anchor="")
    refused(bundle, UntrustedRoot, anchor=TrustState(open_trust(Forge(tmp_path / "other").trust).root_bytes))
    refused(bundle, UntrustedRoot, forge.fingerprint, anchor="0" * 64)


@pytest.fixture
def rotated(tmp_path):
    """A trust directory with two roots and a bundle that carries both."""
    forge = Forge(tmp_path / "rotated")
    first = open_trust(forge.trust).root_bytes
    second = forge.rotate()
    return forge, forge.sealed(), first, second


def test_a_new_root_is_followed_from_the_old_one(rotated):
    _, bundle, first, second = rotated
    for anchor in (fingerprint(first), fingerprint(second), TrustState(first), TrustState(second)):
        verified = verify(bundle, anchor)
        assert verified.state.root == second
        assert verified.root_fingerprint == fingerprint(second)
    (bundle / "metadata/1.root.json").unlink()
    assert verify(bundle, TrustState(first)).state.root == second
    refused(bundle, UntrustedRoot, anchor=fingerprint(first))


def test_a_root_is_never_skipped(rotated):
    forge, _, first, _ = rotated
    forge.rotate()
    bundle = forge.sealed(name="third")
    (bundle / "metadata/2.root.json").unlink()
    refused(bundle, UntrustedRoot, "follow", anchor=fingerprint(first))
    (bundle / "metadata/1.root.json").unlink()
    refused(bundle, UntrustedRoot, anchor=TrustState(first))


def test_media_older_than_the_sites_root_is_judged_by_the_sites_root(rotated):
    forge, bundle, _, _ = rotated
    third = forge.rotate()
    assert verify(bundle, TrustState(third)).state.root == third


def test_a_new_root_that_the_old_keys_did_not_sign_is_refused(tmp_path):
    forge = Forge(tmp_path)
    bundle = forge.sealed()
    stranger = keys.generate()
    (bundle / "metadata/2.root.json").write_bytes(forge.rotate(partial(take_over, signer=stranger), by=[stranger]))
    refused(bundle, ThresholdNotMet, anchor=forge.fingerprint)
    (bundle / "metadata/2.root.json").write_bytes(
        encode(envelope(json.loads((bundle / "metadata/2.root.json").read_bytes())["signed"], forge_root(forge)))
    )
    refused(bundle, ThresholdNotMet, anchor=forge.fingerprint)


def forge_root(forge: Forge):
    return [keys.load(forge.trust / "keys/root-1.pem", PASSPHRASE)]


# Timestamp, snapshot, targets


@pytest.mark.parametrize(("role", "change", "error"), ALTERED.values(), ids=ALTERED.keys())
def test_signed_metadata_outside_the_format_is_refused(forge, bundle, role, change, error):
    forge.alter(bundle, role, change)
    refused(bundle, error)


def test_nothing_can_be_added_where_no_signature_covers_it(forge, bundle):
    with_unsigned_entry(forge, bundle)
    refused(bundle, MalformedMetadata, "no signature would cover it")


def test_a_file_whose_chunks_make_another_file_is_found_by_the_full_read(forge, bundle):
    verified = verify(bundle)
    chunks = verified.entries["models/tiny/tiny.gguf"].chunks
    swapped = (chunks[1], chunks[0], chunks[2])
    data = encode_chunk_list(swapped)
    blob = put_blob(bundle, data)
    old = verified.lists["models/tiny/tiny.gguf"]
    (bundle / f"blobs/{old.sha256[:2]}/sha256-{old.sha256}").unlink()
    if not any((bundle / f"blobs/{old.sha256[:2]}").iterdir()):
        (bundle / f"blobs/{old.sha256[:2]}").rmdir()

    def point(signed):
        signed["targets"]["models/tiny/tiny.gguf"]["custom"]["chunks"] = {"length": blob.length, "sha256": blob.sha256}

    forge.alter(bundle, "models", point)
    with pytest.raises(DigestMismatch, match="does not fit together"):
        verify_payload(verify(bundle))


def test_a_role_file_of_another_bundle_is_refused(forge, bundle, tmp_path):
    other = forge.sealed(channel="other", files={"policy/channel.json": b"{}"})
    shutil.copy(other / "metadata/1.models.json", bundle / "metadata/1.models.json")
    refused(bundle, DigestMismatch)


def test_a_snapshot_of_another_bundle_is_refused(forge, bundle):
    other = forge.sealed(channel="third", files={"policy/channel.json": b"{}"})
    shutil.copy(other / "metadata/1.snapshot.json", bundle / "metadata/1.snapshot.json")
    refused(bundle, DigestMismatch)


def test_a_draft_is_not_a_bundle_yet(tmp_path):
    forge = Forge(tmp_path)
    refused(forge.draft(), NotSealed, "seal")


@pytest.mark.parametrize("version", ["9223372036854775808", "1" * 10_000, "1.0", "1e0"])
def test_a_version_that_no_counter_holds_is_refused(forge, bundle, version):
    path = bundle / "metadata/timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version":1,"x-', f'"version":{version},"x-'.encode()))
    refused(bundle, MalformedMetadata)


def test_metadata_written_in_another_form_is_refused(forge, bundle):
    path = bundle / "metadata/timestamp.json"
    path.write_bytes(json.dumps(json.loads(path.read_bytes()), indent=1).encode())
    refused(bundle, MalformedMetadata, "canonical")


# Time, floors and revocation


def test_the_clock_may_be_two_days_behind_but_not_beyond_the_date(bundle):
    assert verify(bundle, now=NOW - timedelta(days=2)).time == NOW
    refused(bundle, SealedInFuture, now=NOW - timedelta(days=2, seconds=1))
    verify(bundle, now=NOW + LIFETIME - timedelta(seconds=1))
    refused(bundle, MetadataExpired, now=NOW + LIFETIME)
    refused(bundle, MetadataExpired, now=datetime(2099, 1, 1, tzinfo=UTC))


def test_a_build_clock_that_runs_years_ahead_cannot_make_every_later_bundle_expire(forge, tmp_path):
    ahead = forge.sealed(now=NOW + timedelta(days=70), expires=NOW + 2 * LIFETIME)
    refused(ahead, SealedInFuture)
    state = TrustState(open_trust(forge.trust).root_bytes, time=NOW + timedelta(days=69))
    assert verify(ahead, state).state.time == NOW + timedelta(days=70), "a time accepted before counts as the clock"


def test_the_newest_time_ever_accepted_counts_when_the_clock_is_set_back(forge, bundle):
    state = TrustState(open_trust(forge.trust).root_bytes, time=NOW + LIFETIME)
    refused(bundle, MetadataExpired, anchor=state, now=datetime(1970, 1, 1, tzinfo=UTC))


def test_a_time_without_a_zone_is_a_mistake_of_the_caller(bundle):
    with pytest.raises(ValueError, match="zone"):
        verify(bundle, now=datetime(2026, 11, 22))  # noqa: DTZ001 - the mistake under test


def test_an_older_version_of_a_channel_is_refused_after_a_newer_one(tmp_path):
    forge = Forge(tmp_path)
    old, new = forge.sealed(), forge.sealed(files={"policy/channel.json": b"{}"})
    other = forge.sealed(channel="other")
    state = verify(old, forge.fingerprint).state
    assert verify(old, state).state == state
    state = verify(new, state).state
    refused(old, Rollback, "version 1", anchor=state)
    assert verify(other, state).version == 1
    assert set(verify(other, state).state.floors) == {"demo", "other"}


def test_other_content_under_an_accepted_version_is_refused(forge, bundle):
    state = verify(bundle, forge.fingerprint).state
    forge.alter(bundle, "models", lambda signed: signed["targets"].pop("models/tiny/LICENSE"))
    refused(bundle, Rollback, "accepted before", anchor=state)


def test_a_role_file_older_than_its_floor_is_refused(forge, bundle):
    known = verify(bundle, forge.fingerprint).state.floors["demo"]
    floor = Floor({**known.versions, "models": 2, "timestamp": 1}, known.bundle_id)
    state = TrustState(open_trust(forge.trust).root_bytes, {"demo": floor})
    refused(bundle, Rollback, "models", anchor=state)


def test_what_is_revoked_is_refused_whoever_signed_it(forge, bundle):
    verified = verify(bundle, forge.fingerprint)
    chunk = verified.entries["models/tiny/tiny.gguf"].chunks[1].sha256
    file = verified.entries["models/tiny/tiny.gguf"].sha256
    lists = {
        "bundle": Revocations(bundles=frozenset({verified.bundle_id})),
        "chunk": Revocations(digests=frozenset({chunk})),
        "file": Revocations(digests=frozenset({file})),
        "targets": Revocations(keys=frozenset({verified.signers["targets"][0].keyid})),
        "timestamp": Revocations(keys=frozenset({verified.signers["timestamp"][0].keyid})),
    }
    for revocations in lists.values():
        state = TrustState(open_trust(forge.trust).root_bytes, revocations=revocations)
        refused(bundle, Revoked, anchor=state)


def test_a_revoked_key_does_not_spoil_enough_other_signatures(tmp_path):
    forge = Forge(tmp_path, targets_keys=3, targets_threshold=2)
    bundle = forge.sealed()
    one, two, _ = (signer.public_key.keyid for signer in forge.signers("targets"))
    root = open_trust(forge.trust).root_bytes
    verify(bundle, TrustState(root, revocations=Revocations(keys=frozenset({one}))))
    refused(bundle, Revoked, anchor=TrustState(root, revocations=Revocations(keys=frozenset({one, two}))))


def test_revocations_in_a_bundle_are_kept_by_the_site_and_only_grow(tmp_path):
    forge = Forge(tmp_path)
    first, second = "aa" * 32, "bb" * 32
    one = forge.sealed(revocations=Revocations(digests=frozenset({first})))
    two = forge.sealed(revocations=Revocations(digests=frozenset({second})))
    state = verify(two, verify(one, forge.fingerprint).state).state
    assert state.revocations.digests == {first, second}
    ordinary = forge.sealed(channel="other")
    revoking = Revocations(digests=frozenset({sha256(b'{"channel":"demo"}')}))
    state = verify(forge.sealed(files={"policy/a": b"a"}, revocations=revoking), state).state
    refused(ordinary, Revoked, r"policy/channel\.json", anchor=state)


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"schema":"plugsky.revocations/1","bundles":[]}', b"x"])
def test_a_list_of_revocations_that_cannot_be_read_refuses_the_bundle(tmp_path, data):
    bundle = Forge(tmp_path)
    with pytest.raises(MalformedMetadata):
        verify(bundle.sealed(files={"policy/revocations.json": data}))


def test_revocations_write_and_read_the_same(tmp_path):
    revocations = Revocations(frozenset({"aa" * 32}), frozenset({"bb" * 32}), frozenset({"cc" * 32}))
    assert Revocations.from_json(revocations.to_json()) == revocations
    for bad in ({"bundles": ["x"]}, {"bundles": [], "digests": [], "keys": ["../x"]}):
        with pytest.raises(MalformedMetadata):
            Revocations.from_json(encode({"schema": "plugsky.revocations/1", **bad}))


def test_a_trust_state_writes_and_reads_the_same(bundle):
    state = verify(bundle).state
    assert TrustState.from_json(state.to_json()) == state


def edited(**fields):
    return lambda members: members.update(fields)


BAD_STATES = {
    "empty": lambda m: m.clear(),
    "another schema": edited(schema="plugsky.trust-state/2"),
    "no floors": lambda m: m.pop("floors"),
    "floors as a list": edited(floors=[]),
    "a floor without versions": lambda m: m["floors"]["demo"].pop("versions"),
    "a floor of minus one": lambda m: m["floors"]["demo"]["versions"].update(models=-1),
    "a floor without an id": lambda m: m["floors"]["demo"].update(bundle_id="x"),
    "a root that is a number": edited(root=1),
    "a time that is none": edited(time="yesterday"),
    "revocations that are none": edited(revocations={}),
}


@pytest.mark.parametrize("edit", BAD_STATES.values(), ids=BAD_STATES.keys())
def test_an_edited_trust_state_is_never_taken_as_a_new_site(bundle, edit):
    members = json.loads(verify(bundle).state.to_json())
    edit(members)
    with pytest.raises(MalformedMetadata):
        TrustState.from_json(encode(members))


def test_what_expires_while_somebody_is_asked_is_not_installed_any_more(tmp_path):
    forge = Forge(tmp_path)
    verified = verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW)
    check_still_valid(verified, verified.expires - timedelta(seconds=1))
    with pytest.raises(MetadataExpired, match="has expired"):
        check_still_valid(verified, verified.expires)
    check_still_valid(verified, NOW - timedelta(days=400))
