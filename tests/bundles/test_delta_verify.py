"""What a site refuses of a delta: a wrong base, a base that is only claimed, parts of two bundles, lists that lie."""

import hashlib
import os
import shutil
from pathlib import Path

import pytest

from bundles.delta_site import GGUF, MODEL, NEW_TEMPLATE, Site, model
from bundles.forge import NOW, PASSPHRASE, Forge, put_blob, signed_parts
from plugsky_bundles import sealing
from plugsky_bundles.errors import (
    BaseMissing,
    BlobMissing,
    DigestMismatch,
    ExistsError,
    MalformedMetadata,
    MetadataMissing,
    MixAndMatch,
    Rollback,
    UnlistedFile,
    VerificationError,
)
from plugsky_bundles.format import BLOBS, METADATA, blob_path
from plugsky_bundles.media import open_bundle
from plugsky_bundles.since import SINCE, encode_absent
from plugsky_bundles.state import Revocations
from plugsky_bundles.trusted_copies import CopiesOn
from plugsky_bundles.verify import verify_metadata


class Bench:
    """A full bundle, a site that accepted it, and a delta for that site which changes one template."""

    def __init__(self, base: Path) -> None:
        self.forge = Forge(base)
        self.full = self.forge.built(MODEL)
        self.copies = base / "channels"
        site = Site(self.forge, self.copies)
        site.accept(self.full)
        self.receipt = site.receipt()
        self.delta = self.forge.built({**NEW_TEMPLATE, "models/b/b.gguf": model("b")}, since=self.receipt)

    def site(self) -> Site:
        """A new site that accepted the full bundle."""
        site = Site(self.forge, self.copies)
        site.anchor = Site(self.forge, self.copies).verify(self.full).state
        return site


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("delta"))


@pytest.fixture
def delta(bench, tmp_path) -> Path:
    return Path(shutil.copytree(bench.delta, tmp_path / bench.delta.name))


def refused(site: Site, bundle: Path, error: type[VerificationError], why: str = "") -> None:
    with pytest.raises(error, match=why or None) as caught:
        site.verify(bundle)
    assert type(caught.value) is error
    assert caught.value.exit_code == 5


def snapshot_of(bundle: Path) -> dict:
    return signed_parts(bundle)["snapshot"]


def left_out(bench: Bench, bundle: Path, **changes) -> None:
    """Seal the bundle again with another word on what it leaves out; None takes a member away."""

    def change(signed):
        members = {**signed[SINCE], **changes}
        signed[SINCE] = {name: value for name, value in members.items() if value is not None}

    signed = snapshot_of(bundle)
    change(signed)
    reseal(bench, bundle, signed)


def reseal(bench: Bench, bundle: Path, snapshot: dict) -> None:
    """Write this snapshot and a timestamp for it, signed by the build machine; role files stay as they are."""
    parts = signed_parts(bundle)
    bench.forge.write(bundle, "snapshot", snapshot)
    data = (bundle / METADATA / f"{snapshot['version']}.snapshot.json").read_bytes()
    meta = parts["timestamp"]["meta"]["snapshot.json"]
    meta.update(length=len(data), hashes={"sha256": hashlib.sha256(data).hexdigest()})
    bench.forge.write(bundle, "timestamp", parts["timestamp"])


def test_the_site_that_sent_the_receipt_accepts_the_delta(bench, delta):
    verified = bench.site().verify(delta)
    assert verified.since is not None
    assert any("builds on bundle" in check for check in verified.checks)


def test_a_site_without_the_base_is_told_which_one_it_lacks(bench, delta, tmp_path):
    stranger = Site(bench.forge, tmp_path / "empty")
    with pytest.raises(BaseMissing) as caught:
        stranger.verify(delta)
    assert snapshot_of(delta)[SINCE]["bundle_id"] in str(caught.value)
    assert caught.value.code == "base_missing"


def test_the_paper_alone_cannot_judge_a_delta_and_the_base_bundle_beside_it_can(bench, delta):
    with pytest.raises(BaseMissing, match="--root"):
        verify_metadata(open_bundle(delta), bench.forge.fingerprint, now=NOW)
    copies = CopiesOn(open_bundle(bench.full))
    by_base = verify_metadata(open_bundle(delta), bench.forge.fingerprint, now=NOW, copies=copies)
    assert by_base.content_id == bench.site().verify(delta).content_id


def test_a_base_that_is_only_claimed_does_not_help(bench, delta, tmp_path):
    claimed = bench.site().verify(bench.full).bundle_id
    left_out(bench, delta, bundle_id=claimed)
    refused(Site(bench.forge, tmp_path / "empty"), delta, BaseMissing, claimed)


def test_a_copy_that_was_changed_is_no_copy(bench, delta, tmp_path):
    copies = Path(shutil.copytree(bench.copies, tmp_path / "copies"))
    site = bench.site()
    site.directory = copies
    site.verify(delta)
    for path in copies.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    refused(site, delta, BaseMissing)


def test_a_copy_that_is_a_link_is_no_copy(bench, delta, tmp_path):
    copies = Path(shutil.copytree(bench.copies, tmp_path / "copies"))
    site = bench.site()
    site.directory = copies
    for path in copies.iterdir():
        path.rename(tmp_path / path.name)
        path.symlink_to(tmp_path / path.name)
    refused(site, delta, BaseMissing)


def test_an_old_delta_is_refused_after_a_newer_bundle(bench, delta):
    site = bench.site()
    newer = bench.forge.built({**NEW_TEMPLATE, "playbooks/x.yml": b"x"})
    site.anchor = site.verify(newer).state
    refused(site, delta, Rollback)


def test_a_delta_of_another_channel_is_no_base_for_this_one(bench, tmp_path):
    forge = bench.forge
    site = Site(forge, tmp_path / "other")
    site.accept(forge.built({"policy/a": b"a"}, channel="other"))
    with pytest.raises(MixAndMatch, match="another channel"):
        forge.build(MODEL, since=site.receipt())


def add_blob(bench, bundle):
    (chunk, *_) = bench.site().verify(bench.full).entries[GGUF].chunks
    put_blob(bundle, (bench.full / blob_path(chunk.sha256)).read_bytes())


def add_role_file(bench, bundle):
    shutil.copy(bench.full / f"{METADATA}/1.python.json", bundle / METADATA)


def add_blob_of_absent_role(bench, bundle):
    put_blob(bundle, MODEL["playbooks/preflight.yml"])


def take_list(_bench, bundle):
    digest = snapshot_of(bundle)[SINCE]["absent"]["sha256"]
    (bundle / blob_path(digest)).unlink()


def change_list(_bench, bundle):
    digest = snapshot_of(bundle)[SINCE]["absent"]["sha256"]
    path = bundle / blob_path(digest)
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def take_blob(bench, bundle):
    blob = bench.site().verify(bundle).contents.payload[0]
    (bundle / blob_path(blob.sha256)).unlink()


def take_role(_bench, bundle):
    next((bundle / METADATA).glob("*.models.json")).unlink()


MIXED = {
    "a blob that it leaves out": (add_blob, UnlistedFile),
    "a role file that it leaves out": (add_role_file, UnlistedFile),
    "a blob of a role that it leaves out": (add_blob_of_absent_role, UnlistedFile),
    "its list of absent blobs taken away": (take_list, BlobMissing),
    "its list of absent blobs changed": (change_list, DigestMismatch),
    "a blob that it does not leave out taken away": (take_blob, BlobMissing),
    "a role file that it does not leave out taken away": (take_role, MetadataMissing),
}


@pytest.mark.parametrize(("damage", "error"), MIXED.values(), ids=MIXED.keys())
def test_parts_of_another_bundle_are_refused(bench, delta, damage, error):
    damage(bench, delta)
    refused(bench.site(), delta, error)


def test_a_full_bundle_without_a_role_file_is_damaged_and_no_delta(bench, tmp_path):
    bundle = Path(shutil.copytree(bench.full, tmp_path / "full"))
    (bundle / f"{METADATA}/1.debs.json").unlink()
    refused(bench.site(), bundle, MetadataMissing)


def with_list(change):
    def damage(bench, bundle):
        site = bench.site()
        verified = site.verify(bundle)
        old = verified.since.absent
        listed = {d.hex() for d in digests((bundle / blob_path(old.sha256)).read_bytes())}
        data = change(listed, verified)
        if data is None:
            data = encode_absent(listed)
        (bundle / blob_path(old.sha256)).unlink()
        blob = put_blob(bundle, data)
        left_out(bench, bundle, absent={"length": blob.length, "sha256": blob.sha256})

    return damage


def digests(data: bytes) -> list[bytes]:
    return [data[at : at + 32] for at in range(16, len(data), 32)]


def raw(listed: set[str]) -> list[bytes]:
    return sorted(bytes.fromhex(digest) for digest in listed)


def header(count: int, magic: bytes = b"PLUGSKYA", version: int = 1) -> bytes:
    return magic + version.to_bytes(4, "big") + count.to_bytes(4, "big")


def python_blob(verified) -> str:
    return next(entry.sha256 for path, entry in verified.entries.items() if path.startswith("python/"))


BAD_LISTS = {
    "names a blob that nothing lists": lambda listed, _: encode_absent({*listed, "0" * 64}),
    "names a blob that only a role left out lists": lambda listed, v: encode_absent({*listed, python_blob(v)}),
    "is not sorted": lambda listed, _: header(len(listed)) + b"".join(reversed(raw(listed))),
    "names a blob twice": lambda listed, _: header(len(listed) + 1) + b"".join([*raw(listed), raw(listed)[-1]]),
    "has a byte more": lambda listed, _: encode_absent(listed) + b"\0",
    "announces more than it has": lambda listed, _: header(len(listed) + 1) + b"".join(raw(listed)),
    "announces four thousand million": lambda listed, _: header(2**32 - 1) + b"".join(raw(listed)),
    "is of another version": lambda listed, _: header(len(listed), version=2) + b"".join(raw(listed)),
    "has another magic": lambda listed, _: header(len(listed), magic=b"PLUGSKYC") + b"".join(raw(listed)),
    "is empty": lambda _listed, _verified: header(0) + bytes(32),
}


@pytest.mark.parametrize("change", BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_a_list_of_absent_blobs_is_refused_that(bench, delta, change):
    with_list(change)(bench, delta)
    refused(bench.site(), delta, MalformedMetadata)


def test_a_list_that_leaves_more_out_than_the_media_lacks_is_refused(bench, delta):
    def change(listed, verified):
        return encode_absent({*listed, verified.contents.payload[0].sha256})

    with_list(change)(bench, delta)
    refused(bench.site(), delta, UnlistedFile, "leaves this blob out|no signed list")


BAD_FIELDS = {
    "another member": {"also": 1},
    "no bundle": {"bundle_id": None},
    "a bundle that is no digest": {"bundle_id": "x"},
    "a receipt that is no digest": {"receipt": "../x"},
    "roles that are no list": {"roles": "python"},
    "roles that are not sorted": {"roles": ["python", "debs", "playbooks", "policy"]},
    "a role twice": {"roles": ["debs", "debs"]},
    "a role that leads out": {"roles": ["../python"]},
    "targets among the roles": {"roles": ["targets"]},
    "roles that are numbers": {"roles": [1]},
    "no roles": {"roles": None},
    "a list without a length": {"absent": {"sha256": "0" * 64}},
    "a list beyond its bounds": {"absent": {"sha256": "0" * 64, "length": 1 << 30}},
    "a list of nothing": {"absent": {"sha256": "0" * 64, "length": 16}},
}


@pytest.mark.parametrize("changes", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_snapshot_that_says_of_its_base(bench, delta, changes):
    left_out(bench, delta, **changes)
    refused(bench.site(), delta, MalformedMetadata)


def test_a_field_that_is_no_object_is_refused(bench, delta):
    reseal(bench, delta, {**snapshot_of(delta), SINCE: []})
    refused(bench.site(), delta, MalformedMetadata)


def test_a_role_file_that_is_left_out_is_judged_like_every_other(bench, delta):
    """A copy is only bytes: its version must not be older than the floor."""
    site = bench.site()
    floor = site.anchor.floors["demo"]
    versions = {**floor.versions, "python": 2}
    site.anchor = type(site.anchor)(site.anchor.root, {"demo": type(floor)(versions, floor.bundle_id)})
    refused(site, delta, Rollback, "python is at version 1")


def test_a_key_that_was_revoked_does_not_count_on_a_copy_either(bench, delta):
    site = bench.site()
    (signer,) = bench.forge.signers("targets")
    site.anchor = type(site.anchor)(
        site.anchor.root, site.anchor.floors, revocations=Revocations(keys=frozenset({signer.public_key.keyid}))
    )
    with pytest.raises(VerificationError, match="revoked key"):
        site.verify(delta)


@pytest.mark.parametrize("count", range(0, 40, 3))
def test_sealing_a_delta_interrupted_anywhere_is_finished_by_sealing_again(tmp_path, monkeypatch, count):
    bench = Bench(tmp_path)
    bundle = bench.forge.build({**NEW_TEMPLATE, "playbooks/c.yml": b"c"}, since=bench.receipt)
    bench.forge.sign(bundle)
    left = [count]

    def interrupted(real):
        def call(*arguments, **options):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted(os.fsync))
        patch.setattr(os, "fdatasync", interrupted(os.fdatasync))
        patch.setattr(Path, "unlink", interrupted(Path.unlink))
        try:
            sealing.seal(bundle, bench.forge.trust, PASSPHRASE, NOW)
        except KeyboardInterrupt:
            assert left[0] < 0
    sealed = sealing.seal(bundle, bench.forge.trust, PASSPHRASE, NOW)
    assert bench.site().verify(bundle).bundle_id == sealed.bundle_id
    assert sealing.seal(bundle, bench.forge.trust, PASSPHRASE, NOW) == type(sealed)(
        **{name: getattr(sealed, name) for name in sealed.__slots__ if name != "fresh"}, fresh=False
    )


def test_a_delta_that_no_site_would_accept_is_a_draft_again(bench, tmp_path):
    """What is revoked is found when it is sealed; then all that was taken out lies in the draft again."""
    own = Bench(tmp_path)
    bundle = own.forge.build({**NEW_TEMPLATE, "policy/x": b"x"}, since=own.receipt)
    revoked = Revocations(digests=frozenset({hashlib.sha256(b"x").hexdigest()}))
    bundle = own.forge.build({**NEW_TEMPLATE, "policy/x": b"x"}, since=own.receipt, revocations=revoked)
    own.forge.sign(bundle)
    before = sorted(str(path) for path in bundle.rglob("*") if path.is_file())
    with pytest.raises(VerificationError, match="has been revoked"):
        sealing.seal(bundle, own.forge.trust, PASSPHRASE, NOW)
    after = sorted(str(path) for path in bundle.rglob("*") if path.is_file())
    assert [path for path in after if "custody" not in path] == before
    assert (bundle / BLOBS).is_dir()


def test_a_version_is_sealed_once_also_as_a_delta(bench, tmp_path):
    own = Bench(tmp_path)
    first = own.forge.build(NEW_TEMPLATE, since=own.receipt)
    second = Path(shutil.copytree(first, tmp_path / "second"))
    own.forge.finish(first)
    own.forge.sign(second)
    with pytest.raises(ExistsError, match="was sealed as"):
        sealing.seal(second, own.forge.trust, PASSPHRASE, NOW)
