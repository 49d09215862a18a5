"""What k people sign fixes all that runs or counts: the build machine's own keys can exchange nothing."""

import json
import shutil

import pytest

from bundles.forge import CUT, FILES, NOW, Forge, encode, envelope, file_name, put_file, sha256, signed_parts
from bundles.judges import site_with, verdict
from plugsky_bundles import signing
from plugsky_bundles.binding import BINDS, binds_of
from plugsky_bundles.errors import BlobMissing, DigestMismatch, UnlistedFile
from plugsky_bundles.format import ROLES, content_id
from plugsky_bundles.kept import read_kept
from plugsky_bundles.media import open_bundle
from plugsky_bundles.sealing import seal
from plugsky_bundles.state import Revocations
from plugsky_bundles.trusted_copies import CHANNELS, keep
from plugsky_bundles.verify import verify_metadata

PASSPHRASE = b"correct horse"
SCRIPT = b"#!/bin/sh\necho install\n"
ROGUE = b"#!/bin/sh\necho anything, as root\n"
TOP = {"install.sh": SCRIPT, "tools/plugsky_verify.py": b"print('verify')\n", "evidence/models/x.txt": b"x\n"}


@pytest.fixture
def forge(tmp_path):
    return Forge(tmp_path, root_keys=3, root_threshold=2, targets_keys=3, targets_threshold=2)


def sealed_by_rogue(forge, bundle, change):
    """Seal again with the keys of the build machine, which has no one else's."""
    parts = signed_parts(bundle)
    snapshot, timestamp = parts["snapshot"], parts["timestamp"]
    change(snapshot)
    data = encode(envelope(snapshot, forge.signers("snapshot")))
    (bundle / "metadata" / file_name("snapshot", snapshot)).write_bytes(data)
    timestamp["meta"]["snapshot.json"].update(length=len(data), hashes={"sha256": sha256(data)})
    (bundle / "metadata/timestamp.json").write_bytes(encode(envelope(timestamp, forge.signers("timestamp"))))


def list_role(role, data):
    """What puts another role file into a snapshot."""
    version = json.loads(data)["signed"]["version"]
    entry = {"version": version, "length": len(data), "hashes": {"sha256": sha256(data)}}
    return lambda snapshot: snapshot["meta"].update({f"{role}.json": entry})


def list_file(path, data):
    entry = {"length": len(data), "sha256": sha256(data)}
    return lambda snapshot: snapshot["x-plugsky-evidence"].update({path: entry})


@pytest.mark.parametrize("role", ["policy", "models"])
@pytest.mark.parametrize("known", [True, False], ids=["at a site with the old release", "at first use"])
def test_a_role_of_an_older_release_does_not_pass_in_a_newer_one(forge, tmp_path, role, known):
    old = forge.sealed()
    news = {**FILES, "models/tiny/LICENSE": b"MIT\n"}
    bundle = forge.sealed(files=news, revocations=Revocations(digests=frozenset({"ab" * 32})))
    site = site_with(tmp_path / "site", verify_metadata(open_bundle(old), forge.fingerprint, now=NOW).state)
    before = (old / f"metadata/1.{role}.json").read_bytes()
    (bundle / f"metadata/2.{role}.json").unlink()
    (bundle / f"metadata/1.{role}.json").write_bytes(before)
    for path, data in FILES.items():
        put_file(bundle, path, data, CUT.get(path, ()))
    sealed_by_rogue(forge, bundle, list_role(role, before))
    assert verdict(bundle, forge.fingerprint, site if known else None, full=False) == "mix_and_match"


@pytest.mark.parametrize("path", ["install.sh", "README.txt", "tools/plugsky_verify.py", "evidence/models/x.txt"])
def test_what_was_exchanged_after_signing_is_not_sealed(forge, path):
    draft = forge.draft(beside=TOP)
    forge.sign(draft)
    (draft / path).write_bytes(ROGUE)
    with pytest.raises(DigestMismatch, match=path):
        seal(draft, forge.trust, PASSPHRASE, NOW)
    with pytest.raises(DigestMismatch, match=path):
        forge.sign(draft)


def test_what_was_added_or_removed_after_signing_is_not_sealed(forge):
    draft = forge.draft(beside=TOP)
    forge.sign(draft)
    (draft / "docs").mkdir()
    (draft / "docs/more.txt").write_bytes(b"more\n")
    with pytest.raises(UnlistedFile, match=r"docs/more\.txt"):
        seal(draft, forge.trust, PASSPHRASE, NOW)
    shutil.rmtree(draft / "docs")
    (draft / "tools/plugsky_verify.py").unlink()
    with pytest.raises(BlobMissing, match=r"plugsky_verify\.py"):
        seal(draft, forge.trust, PASSPHRASE, NOW)


@pytest.mark.parametrize("path", ["install.sh", "README.txt", "tools/plugsky_verify.py", "docs/new.html"])
def test_a_site_refuses_what_only_the_build_machine_lists(forge, path):
    bundle = forge.finish(forge.draft(beside=TOP))
    assert verdict(bundle, forge.fingerprint) == "ok"
    (bundle / path).parent.mkdir(exist_ok=True)
    (bundle / path).write_bytes(ROGUE)
    sealed_by_rogue(forge, bundle, list_file(path, ROGUE))
    assert verdict(bundle, forge.fingerprint) == "mix_and_match"


def test_a_site_refuses_a_release_without_a_file_that_people_bound(forge):
    bundle = forge.finish(forge.draft(beside=TOP))
    (bundle / "evidence/models/x.txt").unlink()
    (bundle / "evidence/models").rmdir()
    sealed_by_rogue(forge, bundle, lambda snapshot: snapshot["x-plugsky-evidence"].pop("evidence/models/x.txt"))
    assert verdict(bundle, forge.fingerprint) == "mix_and_match"


def test_the_custody_log_alone_may_be_listed_unbound(forge):
    bundle = forge.finish(forge.draft(beside=TOP))
    parts = signed_parts(bundle)
    unbound = parts["snapshot"]["x-plugsky-evidence"].keys() - parts["targets"][BINDS]["files"].keys()
    assert unbound == {"evidence/custody.jsonl"}


def test_roles_that_were_taken_over_are_bound_with_their_older_versions(forge):
    forge.built()
    second = forge.built({**FILES, "policy/channel.json": b"{}"})
    bound = signed_parts(second)["targets"][BINDS]["roles"]
    assert {role: bound[role]["version"] for role in ROLES} == {**dict.fromkeys(ROLES, 1), "policy": 2}
    assert verdict(second, forge.fingerprint) == "ok"


@pytest.mark.parametrize("kind", ["by receipt", "revocations only"])
def test_a_delta_binds_the_roles_that_it_leaves_out(forge, tmp_path, kind):
    first = forge.built()
    state = verify_metadata(open_bundle(first), forge.fingerprint, now=NOW)
    site = site_with(tmp_path / "site", state.state)
    keep(site / "trust/channels/demo", state.copies())
    revoked = Revocations(digests=frozenset({"ab" * 32}))
    if kind == "by receipt":
        kept = read_kept(forge.trust / CHANNELS / "demo", state.bundle_id)
        delta = forge.built({**FILES, "policy/channel.json": b"{}"}, since=forge.receipt(kept))
    else:
        delta = forge.revocations_only(revoked)
    assert not (delta / "metadata/1.models.json").exists()
    assert verdict(delta, None, site, full=False) == "ok"
    other = json.loads((first / "metadata/1.models.json").read_bytes())["signed"]
    other["x-plugsky-built"] = "2026-11-22T11:00:00Z"
    data = encode(envelope(other, forge.signers("targets")))
    keep(site / "trust/channels/demo", [(sha256(data), data)])
    sealed_by_rogue(forge, delta, list_role("models", data))
    assert verdict(delta, None, site, full=False) == "mix_and_match"


def test_a_signer_is_shown_what_the_signature_vouches_for_before_it_is_made(forge):
    draft = forge.draft(beside=TOP)
    shown = []

    def show(what):
        shown.append(what)
        parts = json.loads((draft / "metadata/1.targets.json").read_bytes())
        assert parts["signatures"] == []

    signed = signing.sign(draft, forge.trust, PASSPHRASE, now=NOW, show=show)
    (what,) = shown
    assert (what.content_id, what.install_sha256) == (signed.content_id, sha256(SCRIPT))
    assert (what.files, what.bytes, what.beside) == (len(FILES), sum(map(len, FILES.values())), len(TOP) + 1)
    assert what.taken_over == ()
    sealed = seal(draft, forge.trust, PASSPHRASE, NOW)
    assert sealed.install_sha256 == sha256(SCRIPT)
    assert what.content_id == content_id(
        verify_metadata(open_bundle(draft), forge.fingerprint, now=NOW).entries.values()
    )


def test_what_is_bound_reads_back_as_it_was_written(forge):
    members = signed_parts(forge.draft(beside=TOP))["targets"][BINDS]
    assert binds_of(members, "targets").to_dict() == members
