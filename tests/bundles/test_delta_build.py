"""Deltas: what did not change is taken over as it is signed, and only what a site lacks travels."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from bundles.delta_site import GGUF, MODEL, NEW_TEMPLATE, Site, model
from bundles.forge import LIFETIME, NOW, PASSPHRASE, Forge, add_key, bound, put_blob, signed_parts
from plugsky_bundles import keys, revoking, signing
from plugsky_bundles.errors import BaseMissing, ExistsError, MixAndMatch, SignatureUnknown
from plugsky_bundles.format import BLOBS, METADATA, ROLES
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust


@pytest.fixture
def forge(tmp_path):
    return Forge(tmp_path)


@pytest.fixture
def site(forge, tmp_path):
    return Site(forge, tmp_path / "channels")


def versions(bundle: Path) -> dict[str, int]:
    """The version of each role file in a bundle."""
    names = [path.name.split(".") for path in (bundle / METADATA).iterdir()]
    return {parts[1]: int(parts[0]) for parts in names if len(parts) == 3 and parts[1] in ROLES}


def size(bundle: Path, below: str = "") -> int:
    return sum(file.stat().st_size for file in (bundle / below).rglob("*") if file.is_file())


def test_a_full_bundle_takes_over_the_roles_that_did_not_change(forge, site):
    first = forge.built(MODEL)
    second = forge.build(NEW_TEMPLATE)
    assert versions(second) == {"models": 2, "python": 1, "debs": 1, "playbooks": 1, "policy": 1}
    for role in ("python", "debs", "playbooks", "policy"):
        name = f"{METADATA}/1.{role}.json"
        assert (second / name).read_bytes() == (first / name).read_bytes()
    signed = signing.sign(second, forge.trust, PASSPHRASE, now=NOW)
    assert signed.signers == ("targets-1",)
    forge.finish(second)
    assert (second / f"{METADATA}/1.python.json").read_bytes() == (first / f"{METADATA}/1.python.json").read_bytes()
    site.accept(first)
    verified = site.accept(second)
    verify_payload(verified)
    assert verified.since is None
    assert verified.state.floors["demo"].versions == {
        "timestamp": 2, "snapshot": 2, "targets": 2, "models": 2, "python": 1, "debs": 1, "playbooks": 1, "policy": 1
    }  # fmt: skip


def test_a_further_signer_leaves_a_role_that_was_taken_over_as_it_is(tmp_path):
    forge = Forge(tmp_path, targets_keys=3, targets_threshold=2)
    first = forge.build(MODEL)
    signing.sign(first, forge.trust, PASSPHRASE, ["targets-1", "targets-2"], now=NOW)
    forge.finish(first)
    second = forge.build(NEW_TEMPLATE)
    before = (second / f"{METADATA}/1.python.json").read_bytes()
    signing.sign(second, forge.trust, PASSPHRASE, ["targets-3"], now=NOW)
    assert (second / f"{METADATA}/1.python.json").read_bytes() == before


def let_expire(forge):
    return {"now": NOW + LIFETIME * 0.6, "expires": NOW + LIFETIME * 1.6}


def rotate_targets(forge):
    def change(signed):
        signed["keys"].pop(signed["roles"]["targets"]["keyids"].pop())
        signer = keys.generate()
        add_key(signed, "targets", signer)
        signed["x-plugsky-names"] = {}
        keys.save(forge.trust / f"keys/{signer.public_key.keyid}.pem", signer, PASSPHRASE)

    forge.rotate(change)
    return {}


def revoke_key(forge):
    return {"revocations": Revocations(keys=frozenset({forge.signers("targets")[0].public_key.keyid}))}


NOT_TAKEN_OVER = {
    "less than half of their time is left": let_expire,
    "the root names other keys now": rotate_targets,
    "their key was revoked": revoke_key,
}


@pytest.mark.parametrize("happens", NOT_TAKEN_OVER.values(), ids=NOT_TAKEN_OVER.keys())
def test_role_files_are_made_anew_when(forge, happens):
    forge.built(MODEL)
    assert set(versions(forge.build(NEW_TEMPLATE, **happens(forge))).values()) == {2}


def test_a_delta_carries_only_what_the_site_lacks(forge, site):
    site.accept(forge.built(MODEL))
    delta = forge.built(NEW_TEMPLATE, since=site.receipt())
    assert versions(delta) == {"models": 2}
    verified = site.accept(delta)
    assert verified.since is not None
    assert set(verified.since.roles) == {"python", "debs", "playbooks", "policy"}
    blobs = [blob for entry in verified.entries.values() for blob in entry.blobs]
    here = [blob for blob in blobs if blob.sha256 not in verified.absent]
    assert len(here) == 1, "the header behind the vocabulary, with the template"
    assert size(delta, BLOBS) < len(MODEL[GGUF]) // 10
    assert verified.content_id == forge_content(forge)


def forge_content(forge) -> str:
    record = open_trust(forge.trust).channel("demo")
    assert record is not None
    return record.content_id


def test_a_delta_where_nothing_changed_is_metadata_only(forge, site):
    site.accept(forge.built(MODEL))
    delta = forge.built(MODEL, since=site.receipt())
    assert not (delta / BLOBS).exists()
    assert versions(delta) == {}
    assert size(delta) < 200_000
    assert site.accept(delta).content_id == forge_content(forge)


def test_deltas_of_deltas_build_on_each_other(forge, site):
    site.accept(forge.built(MODEL))
    for number in range(5):
        files = {**MODEL, "playbooks/site.yml": b"- hosts: all\n" * number, GGUF: model(f"{number}")}
        verified = site.accept(forge.built(files, since=site.receipt()))
        assert verified.version == number + 2
        assert "python" in verified.since.roles
        assert {blob.sha256 for blob in verified.contents.blobs}.isdisjoint(verified.absent)
    assert verified.state.floors["demo"].versions["python"] == 1


def test_a_delta_by_an_older_receipt_serves_a_site_that_went_on(forge, site):
    site.accept(forge.built(MODEL))
    old = site.receipt()
    site.accept(forge.built(NEW_TEMPLATE))
    assert site.accept(forge.built({**NEW_TEMPLATE, "playbooks/b.yml": b"b"}, since=old)).version == 3


def test_revocations_alone_are_a_small_bundle_for_every_site(forge, site, tmp_path):
    site.accept(forge.built(MODEL))
    bad = hashlib.sha256(b"bad").hexdigest()
    bundle = forge.revocations_only(Revocations(digests=frozenset({bad})))
    assert versions(bundle) == {"policy": 2}
    assert size(bundle) < 100_000
    other = Site(forge, tmp_path / "another")
    other.accept(tmp_path / "plugsky-demo-1")
    for one in (site, other):
        before = one.accepted
        verified = one.accept(bundle)
        assert bad in verified.state.revocations.digests
        changed = {path for path, entry in verified.entries.items() if before.entries[path].sha256 != entry.sha256}
        assert changed == {"policy/revocations.json"}


def test_revocations_alone_need_something_to_be_revoked(forge):
    forge.built(MODEL)
    with pytest.raises(ExistsError, match="Nothing was revoked"):
        forge.revocations_only(Revocations())


def test_nothing_builds_on_a_channel_without_copies(forge):
    with pytest.raises(BaseMissing, match="holds no copies"):
        forge.revocations_only(Revocations(digests=frozenset({"0" * 64})))


def test_the_same_delta_twice_changes_nothing(forge, site):
    site.accept(forge.built(MODEL))
    receipt = site.receipt()
    first = forge.build(NEW_TEMPLATE, since=receipt)
    before = {str(path): path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert forge.build(NEW_TEMPLATE, since=receipt) == first
    assert {str(path): path.read_bytes() for path in first.rglob("*") if path.is_file()} == before
    forge.finish(first)
    assert forge.build(NEW_TEMPLATE, since=receipt) == first


def test_a_full_bundle_is_made_although_a_delta_with_the_same_content_lies_there(forge, site):
    site.accept(forge.built(MODEL))
    delta = forge.built(NEW_TEMPLATE, since=site.receipt())
    full = forge.built(NEW_TEMPLATE)
    assert full != delta
    assert site.accept(full).absent == frozenset()


def test_every_role_file_and_chunk_list_lies_in_the_draft_of_a_delta(forge, site):
    site.accept(forge.built(MODEL))
    draft = forge.build(NEW_TEMPLATE, since=site.receipt())
    assert set(versions(draft)) == set(ROLES)
    assert json.loads((draft / METADATA / "since.json").read_bytes())["bundle_id"] == site.accepted.bundle_id
    forge.finish(draft)
    assert not (draft / METADATA / "since.json").exists()


def test_a_role_file_of_an_older_bundle_cannot_be_slipped_into_a_draft(forge):
    first = forge.built({**MODEL, "playbooks/a.yml": b"old and weak"})
    forge.built(MODEL)
    draft = forge.build(NEW_TEMPLATE)
    (draft / f"{METADATA}/2.playbooks.json").unlink()
    shutil.copy(first / f"{METADATA}/1.playbooks.json", draft / METADATA)
    put_blob(draft, b"old and weak")
    with pytest.raises(MixAndMatch, match="from another release"):
        forge.sign(draft)
    targets = signed_parts(draft)["targets"]
    targets["x-plugsky-binds"].update(bound(signed_parts(draft)))
    (draft / METADATA / "3.targets.json").write_bytes(encode({"signatures": [], "signed": targets}))
    forge.sign(draft)
    with pytest.raises(MixAndMatch, match="sealed last"):
        forge.finish(draft)


def test_a_draft_is_made_anew_when_what_it_took_over_has_expired(forge):
    forge.built(MODEL)
    draft = forge.build(NEW_TEMPLATE, expires=NOW + 2 * LIFETIME)
    assert versions(draft)["python"] == 1
    assert forge.build(NEW_TEMPLATE, now=NOW + LIFETIME * 0.9) == draft
    assert versions(draft)["python"] == 1
    assert forge.build(NEW_TEMPLATE, now=NOW + LIFETIME, expires=NOW + 2 * LIFETIME) == draft
    assert versions(draft)["python"] == 2


def test_a_receipt_by_a_site_whose_key_was_revoked_does_not_count(forge, site):
    site.accept(forge.built(MODEL))
    receipt = site.receipt()
    revoked = Revocations(keys=frozenset({forge.enrolled_site().public_key.keyid}))
    (forge.trust / revoking.REVOKED).write_bytes(revoked.to_json())
    with pytest.raises(SignatureUnknown, match="not enrolled"):
        forge.build(NEW_TEMPLATE, since=receipt)
