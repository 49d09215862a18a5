"""Wrong signatures, roots, metadata and times brought to a site that runs: each refused by name, nothing changed."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from bundles.corpus import ALTERED, BAD_ROOTS, BAD_SIGNATURE_LISTS, with_root, with_signatures
from bundles.forge import LIFETIME, NOW, envelope, sha256, signed_parts
from bundles.standing_site import StandingSite
from plugsky_bundles import keys
from plugsky_bundles.errors import (
    MalformedMetadata,
    MetadataExpired,
    Revoked,
    Rollback,
    SealedInFuture,
    SignatureInvalid,
    SignatureMissing,
    SignatureUnknown,
    TrustLost,
    UntrustedRoot,
)
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode
from plugsky_bundles.walk import fingerprint


@pytest.mark.parametrize("name", ALTERED)
def test_signed_nonsense_changes_nothing(site, bundle, name):
    role, change, error = ALTERED[name]
    site.forge.alter(bundle, role, change)
    site.refuses(bundle, error)


@pytest.mark.parametrize("name", BAD_SIGNATURE_LISTS)
def test_odd_lists_of_signatures_change_nothing(site, bundle, name):
    with_signatures(BAD_SIGNATURE_LISTS[name])(site.forge, bundle)
    site.refuses(bundle, MalformedMetadata)


@pytest.mark.parametrize("name", BAD_ROOTS)
def test_a_wrong_root_begins_no_site(site, bundle, tmp_path, name):
    change, error = BAD_ROOTS[name]
    with_root(change)(site.forge, bundle)
    (tmp_path / "fresh").mkdir()
    fresh = StandingSite(tmp_path / "fresh", site.forge)
    fresh.refuses(bundle, error, pin=fingerprint((bundle / "metadata/1.root.json").read_bytes()))
    assert fresh.listing() == {}


SIGNERS = {
    "nobody": (lambda _: [], SignatureMissing),
    "a stranger": (lambda _: [keys.generate()], SignatureUnknown),
    "the right key and a stranger": (lambda forge: [*forge.signers("targets"), keys.generate()], SignatureUnknown),
    "the key of another role": (lambda forge: forge.signers("snapshot"), SignatureUnknown),
}


@pytest.mark.parametrize("name", SIGNERS)
def test_signatures_of_others_change_nothing(site, bundle, name):
    signers, error = SIGNERS[name]
    path = bundle / f"metadata/{signed_parts(bundle)['models']['version']}.models.json"
    path.write_bytes(encode(envelope(signed_parts(bundle)["models"], signers(site.forge))))
    site.forge.resign(bundle, {})
    site.refuses(bundle, error)


def test_a_signature_over_another_writing_changes_nothing(site, bundle):
    signed = signed_parts(bundle)["timestamp"]
    (signer,) = site.forge.signers("timestamp")
    made = signer.sign(json.dumps(signed, sort_keys=True).encode())
    whole = {"signatures": [{"keyid": made.keyid, "sig": made.signature}], "signed": signed}
    (bundle / "metadata/timestamp.json").write_bytes(encode(whole))
    site.refuses(bundle, SignatureInvalid)


@pytest.mark.parametrize("role", ["../targets", "targets\0", "TARGETS", "models/../root"])
def test_a_role_under_a_name_that_leads_elsewhere_changes_nothing(site, bundle, role):
    """In the snapshot's list, where a name would become a path."""
    site.forge.alter(bundle, "snapshot", lambda s: s["meta"].update({f"{role}.json": s["meta"].pop("models.json")}))
    site.refuses(bundle, MalformedMetadata)


# Time and versions


def test_a_new_site_whose_clock_says_1970_takes_no_bundle_of_today(site, right, tmp_path):
    fresh = StandingSite(tmp_path, site.forge)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    fresh.refuses(right, SealedInFuture, pin=site.forge.fingerprint, now=epoch)


def test_a_site_that_knows_the_time_is_not_deceived_by_a_clock_set_to_1970(site, right):
    expiring = site.bundle({"policy/a": b"a"}, channel="short", expires=NOW + timedelta(minutes=30))
    believed = site.verify(right).state.time
    assert believed == NOW
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert site.verify(right, now=epoch).time == NOW
    site.refuses(expiring, MetadataExpired, now=LIFETIME + NOW)
    stale = site.bundle({"policy/a": b"a"}, channel="stale", now=NOW - timedelta(days=9), expires=NOW)
    site.refuses(stale, MetadataExpired, now=epoch)


def test_a_clock_in_2099_takes_nothing(site, right):
    site.refuses(right, MetadataExpired, now=datetime(2099, 1, 1, tzinfo=UTC))


def test_the_old_and_valid_set_is_refused_after_a_newer_one(tmp_path):
    site = StandingSite(tmp_path)
    old, new = site.bundle(), site.bundle({**site.files, "policy/channel.json": b"[]"})
    site.install(new, pin=site.forge.fingerprint)
    site.refuses(old, Rollback, "version 1")
    site.refuses(old, Rollback, pin=site.forge.fingerprint)


def test_the_accepted_version_with_other_bytes_is_refused(tmp_path):
    site = StandingSite(tmp_path)
    bundle = site.bundle()
    site.install(bundle, pin=site.forge.fingerprint)
    site.forge.alter(bundle, "models", lambda signed: signed["targets"].pop("models/small/LICENSE"))
    site.refuses(bundle, Rollback, "accepted with other content|accepted before")


def test_the_first_installation_needs_the_paper(site, right, tmp_path):
    fresh = StandingSite(tmp_path, site.forge)
    fresh.refuses(right, UntrustedRoot, "paper")
    fresh.refuses(right, UntrustedRoot, pin="0" * 64)
    assert fresh.listing() == {}


@pytest.fixture
def lost(tmp_path):
    """A site that runs on version 2, its older bundle, and what it believes."""
    site = StandingSite(tmp_path)
    old, new = site.bundle(), site.bundle({**site.files, "policy/channel.json": b"[]"})
    site.install(new, pin=site.forge.fingerprint)
    return site, old, new


def test_a_site_whose_floors_were_deleted_does_not_begin_anew(lost):
    """Else whoever can delete one file and bring an old stick takes a site back to every hole it had."""
    site, old, new = lost
    site.paths.trust_state.unlink()
    for bundle in (old, new):
        site.refuses(bundle, TrustLost, pin=site.forge.fingerprint)
        site.refuses(bundle, TrustLost)


EDITED = {
    "emptied": lambda _: b"",
    "cut": lambda data: data[:-9],
    "floors dropped": lambda data: encode({**json.loads(data), "floors": []}),
    "the root dropped": lambda data: encode({**json.loads(data), "root": ""}),
    "a floor of zero": lambda data: data.replace(b'"models":2', b'"models":0'),
    "a version that is text": lambda data: data.replace(b'"models":2', b'"models":"2"'),
    "revocations dropped": lambda data: encode({**json.loads(data), "revocations": None}),
}


@pytest.mark.parametrize("edit", EDITED.values(), ids=EDITED.keys())
def test_a_site_whose_floors_were_edited_takes_nothing(lost, edit):
    site, old, _ = lost
    before = site.paths.trust_state.read_bytes()
    site.paths.trust_state.write_bytes(edit(before))
    assert site.paths.trust_state.read_bytes() != before
    site.refuses(old, MalformedMetadata)


def test_an_older_list_of_revocations_takes_nothing_back(tmp_path):
    site = StandingSite(tmp_path)
    gone, also = sha256(b"[]"), sha256(b"{}")
    first = site.bundle(revocations=Revocations(digests=frozenset({gone, also})))
    later = site.bundle(revocations=Revocations(digests=frozenset({gone})))
    site.install(first, pin=site.forge.fingerprint)
    site.install(later)
    assert site.verify(later).state.revocations.digests == {gone, also}
    site.refuses(site.bundle({**site.files, "policy/channel.json": b"{}"}), Revoked, "policy/channel.json")


def test_a_revoked_bundle_is_refused_although_nothing_newer_of_its_channel_was_seen(tmp_path):
    site = StandingSite(tmp_path)
    stolen = site.bundle(channel="other")
    bundle_id = sha256((stolen / "metadata/1.snapshot.json").read_bytes())
    site.install(site.bundle(revocations=Revocations(bundles=frozenset({bundle_id}))), pin=site.forge.fingerprint)
    site.refuses(stolen, Revoked, "This bundle has been revoked")
