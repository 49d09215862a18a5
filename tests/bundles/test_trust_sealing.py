"""build -> sign -> seal: who may, in which order, what is written down, and what an interruption leaves."""

import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from bundles.forge import LIFETIME, NOW, PASSPHRASE, Forge, put_file
from plugsky_bundles import sealing, signing
from plugsky_bundles.chain import verify_chain
from plugsky_bundles.drafting import write_draft
from plugsky_bundles.errors import (
    RECOPY,
    BlobMissing,
    BundleError,
    ExistsError,
    KeyUnusable,
    MalformedMetadata,
    MetadataMissing,
    MixAndMatch,
    NotSealed,
    PassphraseError,
    Revoked,
    SignatureMissing,
    ThresholdNotMet,
    UnsafeName,
)
from plugsky_bundles.format import MAX_CHUNK, FileEntry, blob_path
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata


@pytest.fixture
def forge(tmp_path) -> Forge:
    return Forge(tmp_path)


def sign(forge: Forge, bundle: Path, **options):
    return signing.sign(bundle, forge.trust, PASSPHRASE, now=NOW, **options)


def seal(forge: Forge, bundle: Path):
    return sealing.seal(bundle, forge.trust, PASSPHRASE, NOW)


def verify(forge: Forge, bundle: Path):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    verify_payload(verified)
    return verified


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def custody(path: Path) -> list[str]:
    events: list[str] = []
    verify_chain(path, on_record=lambda line: events.append(line.body["event"]))
    return events


def test_a_draft_is_signed_sealed_and_verified(forge):
    bundle = forge.draft()
    signed = sign(forge, bundle)
    assert (signed.added, signed.signers, signed.present, signed.missing) == (("targets-1",), ("targets-1",), 1, 0)
    sealed = seal(forge, bundle)
    verified = verify(forge, bundle)
    assert sealed.fresh
    assert (sealed.bundle_id, sealed.content_id) == (verified.bundle_id, verified.content_id)
    assert sealed.root_fingerprint == verified.root_fingerprint == forge.fingerprint
    assert verified.expires == NOW + LIFETIME
    assert set(verified.evidence) == {"README.txt", "evidence/custody.jsonl"}


def test_signing_and_sealing_again_change_nothing(forge):
    bundle = forge.sealed()
    before, log = contents(bundle), contents(forge.trust)
    assert sign(forge, bundle).added == ()
    again = seal(forge, bundle)
    assert not again.fresh
    assert (contents(bundle), contents(forge.trust)) == (before, log)


def test_the_same_content_has_the_same_id_whoever_builds_it_and_when(forge, tmp_path):
    one = verify(forge, forge.sealed())
    forge_two = Forge(tmp_path / "elsewhere")
    later = NOW + timedelta(days=1)
    bundle = forge_two.draft(channel="other", now=later)
    signing.sign(bundle, forge_two.trust, PASSPHRASE, now=later)
    two = sealing.seal(bundle, forge_two.trust, PASSPHRASE, later)
    assert one.content_id == two.content_id
    assert one.bundle_id != two.bundle_id


def test_the_custody_log_tells_the_way_and_a_copy_travels(forge):
    bundle = forge.sealed()
    way = ["trust.init", "bundle.build", "bundle.sign", "bundle.seal"]
    assert custody(bundle / "evidence/custody.jsonl") == way
    assert custody(forge.trust / "custody.jsonl") == [*way, "bundle.sealed"]


def test_custody_signed_by_a_stranger_is_refused_by_the_full_read(forge, tmp_path):
    bundle = forge.draft()
    sign(forge, bundle)
    stranger = Forge(tmp_path / "stranger")
    shutil.copy(stranger.trust / "custody.jsonl", forge.trust / "custody.jsonl")
    with pytest.raises(KeyUnusable, match="belongs to someone else"):
        seal(forge, bundle)
    assert not (bundle / "metadata/timestamp.json").exists()


def test_another_trust_directory_is_said_to_be_one(forge, tmp_path):
    bundle = forge.draft()
    other = Forge(tmp_path / "other")
    for attempt in (sign, seal):
        with pytest.raises(KeyUnusable, match="another trust directory"):
            attempt(other, bundle)


def test_nobody_is_asked_to_sign_what_the_build_machine_signs(forge):
    bundle = forge.sealed()
    timestamp = bundle / "metadata/timestamp.json"
    timestamp.write_bytes(encode({**json.loads(timestamp.read_text()), "signatures": []}))
    with pytest.raises(SignatureMissing) as refused:
        verify(forge, bundle)
    assert refused.value.next == RECOPY


def test_an_unsigned_draft_is_not_sealed(forge):
    bundle = forge.draft()
    before = contents(bundle)
    with pytest.raises(SignatureMissing, match="trust sign"):
        seal(forge, bundle)
    assert contents(bundle) == before
    assert custody(forge.trust / "custody.jsonl") == ["trust.init"]


def test_people_on_different_machines_sign_until_the_threshold_is_met(tmp_path):
    forge = Forge(tmp_path, targets_keys=3, targets_threshold=2)
    bundle = forge.draft()
    machines = []
    for number in (1, 2):
        machine = Path(shutil.copytree(forge.trust, tmp_path / f"machine-{number}"))
        for path in (machine / "keys").iterdir():
            if path.name != f"targets-{number}.pem":
                path.unlink()
        machines.append(machine)
    first = signing.sign(bundle, machines[0], PASSPHRASE, now=NOW)
    assert (first.signers, first.present, first.threshold, first.missing) == (("targets-1",), 1, 2, 1)
    with pytest.raises(ThresholdNotMet, match="1 of the 2"):
        seal(forge, bundle)
    second = signing.sign(bundle, machines[1], PASSPHRASE, now=NOW)
    assert (second.added, second.signers, second.missing) == (("targets-2",), ("targets-1", "targets-2"), 0)
    assert custody(machines[0] / "custody.jsonl") == ["trust.init"]
    seal(forge, bundle)
    assert [signer.name for signer in verify(forge, bundle).signers["models"]] == ["targets-1", "targets-2"]


def test_a_signature_after_sealing_would_break_the_seal_and_is_refused(tmp_path):
    forge = Forge(tmp_path, targets_keys=2)
    bundle = forge.draft()
    sign(forge, bundle, key_names=["targets-1"])
    seal(forge, bundle)
    with pytest.raises(ExistsError, match="sealed"):
        sign(forge, bundle)
    verify(forge, bundle)


def test_a_wrong_passphrase_signs_and_seals_nothing(forge):
    bundle = forge.draft()
    before = contents(bundle)
    with pytest.raises(PassphraseError) as caught:
        signing.sign(bundle, forge.trust, b"wrong", now=NOW)
    assert caught.value.exit_code == 4
    assert "targets-1.pem" in str(caught.value)
    assert contents(bundle) == before
    sign(forge, bundle)
    before = contents(bundle)
    with pytest.raises(PassphraseError, match=r"snapshot\.pem"):
        sealing.seal(bundle, forge.trust, b"wrong", NOW)
    assert contents(bundle) == before


def test_a_version_is_sealed_once(forge):
    one = forge.draft(name="one")
    two = forge.draft(name="two", files={"policy/channel.json": b"{}"})
    for bundle in (one, two):
        sign(forge, bundle)
    seal(forge, one)
    with pytest.raises(ExistsError, match="version 1 was sealed"):
        seal(forge, two)
    assert open_trust(forge.trust).next_version("demo") == 2


def test_what_a_site_would_refuse_stays_unsealed(forge):
    files = {"policy/channel.json": b"{}"}
    digest = put_file(forge.base / "scratch", "policy/channel.json", b"{}").sha256
    bundle = forge.draft(files=files, revocations=Revocations(digests=frozenset({digest})))
    sign(forge, bundle)
    with pytest.raises(Revoked):
        seal(forge, bundle)
    with pytest.raises(NotSealed):
        verify(forge, bundle)
    assert open_trust(forge.trust).next_version("demo") == 1


def test_a_name_that_no_bundle_may_have_is_never_drafted(forge):
    with pytest.raises(UnsafeName, match=r"autorun\.inf"):
        forge.draft(beside={"autorun.inf": b"x"})
    bundle = forge.draft(version=2, beside={"docs/index.html": b"<p>"})
    assert "docs/index.html" in verify(forge, forge.finish(bundle)).evidence


@pytest.mark.parametrize("count", range(14))
def test_sealing_interrupted_anywhere_is_finished_by_sealing_again(forge, monkeypatch, count):
    bundle = forge.draft()
    left = [count]
    real = {"fsync": os.fsync, "fdatasync": os.fdatasync}

    def interrupt(name):
        def call(descriptor):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real[name](descriptor)

        return call

    sign(forge, bundle)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt("fsync"))
        patch.setattr(os, "fdatasync", interrupt("fdatasync"))
        try:
            seal(forge, bundle)
        except KeyboardInterrupt:
            assert left[0] < 0
    sealed = seal(forge, bundle)
    assert verify(forge, bundle).bundle_id == sealed.bundle_id
    record = open_trust(forge.trust).channel("demo")
    assert record is not None
    assert record.bundle_id == sealed.bundle_id
    assert custody(forge.trust / "custody.jsonl")[-1] in ("bundle.sealed", "chain.recovered")
    assert not list(bundle.rglob("*.part"))


def test_what_a_killed_run_left_half_written_is_swept_away(forge):
    bundle = forge.draft()
    (bundle / "metadata/.1.snapshot.json.99.part").write_text("half")
    sign(forge, bundle)
    seal(forge, bundle)
    verify(forge, bundle)


BAD_DRAFTS = {
    "a name that leads out": ([FileEntry("models/../x", 1, "00" * 32)], UnsafeName),
    "a name twice": ([FileEntry("policy/a", 0, "00" * 32)] * 2, UnsafeName),
    "a blob that is not there": ([FileEntry("policy/a", 1, "00" * 32)], BlobMissing),
    "one blob too large": ([FileEntry("policy/a", MAX_CHUNK + 1, "00" * 32)], MalformedMetadata),
}


@pytest.mark.parametrize(("entries", "error"), BAD_DRAFTS.values(), ids=BAD_DRAFTS.keys())
def test_a_draft_outside_the_format_is_not_written(forge, tmp_path, entries, error):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with pytest.raises(error):
        draft(forge, bundle, entries)
    assert contents(bundle) == {}


def draft(forge: Forge, bundle: Path, entries, **options):
    options = {"channel": "demo", "version": 1, "now": NOW, "expires": NOW + LIFETIME} | options
    return write_draft(bundle, entries, root=open_trust(forge.trust).root_bytes, **options)


def test_a_blob_of_the_wrong_size_is_found_while_drafting(forge, tmp_path):
    entry = put_file(tmp_path / "bundle", "policy/a", b"abc")
    (tmp_path / "bundle" / blob_path(entry.sha256)).write_bytes(b"ab")
    with pytest.raises(BlobMissing, match="3 bytes"):
        draft(forge, tmp_path / "bundle", [entry])


def test_a_draft_is_written_once_and_reads_back(forge, tmp_path):
    entry = put_file(tmp_path / "bundle", "policy/a", b"abc")
    written = draft(forge, tmp_path / "bundle", [FileEntry("policy/a", 3, entry.sha256, (), {"licence": "CC0-1.0"})])
    with pytest.raises(ExistsError):
        draft(forge, tmp_path / "bundle", [entry])
    sign(forge, tmp_path / "bundle")
    assert seal(forge, tmp_path / "bundle").content_id == written.content_id
    assert verify(forge, tmp_path / "bundle").entries["policy/a"].custom == {"licence": "CC0-1.0"}


def edit(bundle: Path, role: str, **fields) -> None:
    path = bundle / f"metadata/1.{role}.json"
    whole = json.loads(path.read_bytes())
    whole["signed"].update(fields)
    path.write_bytes(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode())


BROKEN_DRAFTS = {
    "another channel in one role": (lambda b: edit(b, "debs", **{"x-plugsky-channel": "x"}), MixAndMatch),
    "another version in one role": (lambda b: edit(b, "debs", version=2), MalformedMetadata),
    "a delegation taken out": (lambda b: edit(b, "targets", delegations={"keys": {}, "roles": []}), MalformedMetadata),
    "no time of building": (lambda b: edit(b, "targets", **{"x-plugsky-built": "now"}), MalformedMetadata),
    "two targets files": (lambda b: shutil.copy(b / "metadata/1.targets.json", b / "metadata/2.targets.json"), None),
    "no targets file": (lambda b: (b / "metadata/1.targets.json").unlink(), MetadataMissing),
    "a role missing": (lambda b: (b / "metadata/1.debs.json").unlink(), MetadataMissing),
}


@pytest.mark.parametrize(("damage", "error"), BROKEN_DRAFTS.values(), ids=BROKEN_DRAFTS.keys())
def test_nobody_signs_a_draft_that_a_site_would_refuse(forge, damage, error):
    bundle = forge.draft()
    damage(bundle)
    before = contents(bundle)
    with pytest.raises(error or MalformedMetadata) as caught:
        sign(forge, bundle)
    assert isinstance(caught.value, BundleError)
    assert contents(bundle) == before
