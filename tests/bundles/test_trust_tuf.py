"""An unmodified python-tuf client reaches the same verdict on our metadata."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from bundles.delta_site import MODEL, NEW_TEMPLATE, Site
from bundles.forge import FILES, Forge, envelope, signed_parts
from plugsky_bundles.errors import BaseMissing, MetadataExpired, Rollback, VerificationError
from plugsky_bundles.format import ROLES
from plugsky_bundles.kept import read_kept
from plugsky_bundles.media import open_bundle
from plugsky_bundles.strict_json import encode
from plugsky_bundles.verify import verify_metadata

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)


class Directory(FetcherInterface):
    """Serves file: URLs, so that the client needs no network."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlparse(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield path.read_bytes()


def refresh(bundle: Path, root: bytes, cache: Path, *, fresh: bool = True) -> Updater:
    if fresh:
        shutil.rmtree(cache, ignore_errors=True)
        cache.mkdir()
    updater = Updater(str(cache), f"file://{bundle}/metadata/", fetcher=Directory(), bootstrap=root)
    updater.refresh()
    return updater


@pytest.fixture
def root(forge) -> bytes:
    return (forge.trust / "metadata/1.root.json").read_bytes()


@pytest.fixture(scope="module")
def right(forge) -> Path:
    return forge.sealed(now=NOW, expires=NOW + timedelta(days=1))


def test_python_tuf_accepts_our_bundle_and_sees_the_same_files(forge, right, root, tmp_path):
    updater = refresh(right, root, tmp_path / "cache")
    verified = verify_metadata(open_bundle(right), forge.fingerprint, now=NOW)
    for path in FILES:
        target = updater.get_targetinfo(path)
        assert target is not None
        entry = verified.entries[path]
        assert (target.length, target.hashes) == (entry.length, {"sha256": entry.sha256})
        assert target.custom == (entry.custom or None)
    assert updater.get_targetinfo("models/tiny/absent") is None
    assert updater.get_targetinfo("elsewhere/x") is None


def test_python_tuf_follows_our_root_rotation(tmp_path):
    forge = Forge(tmp_path)
    first = (forge.trust / "metadata/1.root.json").read_bytes()
    forge.rotate()
    bundle = forge.sealed(now=NOW, expires=NOW + timedelta(days=1))
    assert refresh(bundle, first, tmp_path / "cache").get_targetinfo("policy/channel.json")
    assert verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW).state.root != first


def change_signature(forge, bundle):
    path = bundle / "metadata/1.models.json"
    whole = json.loads(path.read_bytes())
    whole["signed"]["targets"].clear()
    path.write_bytes(encode(whole))
    forge.resign(bundle, {})


def unsigned(forge, bundle):
    signed = signed_parts(bundle)["models"]
    (bundle / "metadata/1.models.json").write_bytes(encode(envelope(signed, [])))
    forge.resign(bundle, {})


def expire(role):
    def change(forge, bundle):
        past = (NOW - MINUTE).strftime("%Y-%m-%dT%H:%M:%SZ")
        forge.alter(bundle, role, lambda signed: signed.update(expires=past))

    return change


WRONG = {
    "a changed role file": lambda _, b: (b / "metadata/1.models.json").write_bytes(b"{}"),
    "a role file that is missing": lambda _, b: (b / "metadata/1.models.json").unlink(),
    "a signature over other content": change_signature,
    "a role nobody signed": unsigned,
    "an expired timestamp": expire("timestamp"),
    "an expired snapshot": expire("snapshot"),
    "expired targets": expire("targets"),
    "an expired role": expire("models"),
    "a snapshot that another one replaced": lambda _, b: (b / "metadata/1.snapshot.json").write_bytes(b"{}"),
    "a role that the snapshot drops": lambda forge, b: forge.alter(
        b, "snapshot", lambda signed: signed["meta"].pop("models.json")
    ),
    "a version of zero": lambda forge, b: forge.alter(b, "timestamp", lambda signed: signed.update(version=0)),
}


@pytest.mark.parametrize("damage", WRONG.values(), ids=WRONG.keys())
def test_python_tuf_and_we_refuse_the_same_metadata(forge, right, root, tmp_path, damage):
    bundle = Path(shutil.copytree(right, tmp_path / right.name))
    damage(forge, bundle)
    with pytest.raises(VerificationError) as ours:
        verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    with pytest.raises((RepositoryError, DownloadError)) as theirs:
        refresh(bundle, root, tmp_path / "cache").get_targetinfo("models/tiny/LICENSE")
    assert isinstance(ours.value, MetadataExpired) == isinstance(theirs.value, ExpiredMetadataError)


def test_python_tuf_and_we_refuse_the_root_of_a_stranger(forge, right, tmp_path):
    stranger = Forge(tmp_path)
    with pytest.raises(RepositoryError):
        refresh(right, (stranger.trust / "metadata/1.root.json").read_bytes(), tmp_path / "cache")
    with pytest.raises(VerificationError):
        verify_metadata(open_bundle(right), stranger.fingerprint, now=NOW)


# Role files that are taken over, and those that a delta leaves out


def listed(updater: Updater, files) -> dict[str, tuple[int, dict[str, str]]]:
    found = {path: updater.get_targetinfo(path) for path in files}
    return {path: (target.length, target.hashes) for path, target in found.items() if target is not None}


def test_python_tuf_accepts_role_files_that_were_taken_over(tmp_path):
    forge = Forge(tmp_path)
    first = (forge.trust / "metadata/1.root.json").read_bytes()
    times = {"now": NOW, "expires": NOW + timedelta(days=10)}
    forge.built(MODEL, **times)
    second = forge.built(NEW_TEMPLATE, **times)
    assert (second / "metadata/1.python.json").exists()
    assert len(listed(refresh(second, first, tmp_path / "cache"), MODEL)) == len(MODEL)


def test_python_tuf_with_cached_roles_accepts_a_delta_and_without_them_refuses_it_like_us(tmp_path):
    forge = Forge(tmp_path)
    root = (forge.trust / "metadata/1.root.json").read_bytes()
    site = Site(forge, tmp_path / "channels")
    times = {"now": NOW, "expires": NOW + timedelta(days=10)}
    cache = tmp_path / "cache"
    full = forge.built(MODEL, **times)
    site.accept(full, NOW)
    listed(refresh(full, root, cache), MODEL)
    for files in (NEW_TEMPLATE, MODEL):
        delta = forge.built(files, since=site.receipt(), **times)
        alone = refresh(delta, root, tmp_path / "empty")
        with pytest.raises((RepositoryError, DownloadError)):
            alone.get_targetinfo("python/plugsky-0.1.0-py3-none-any.whl")
        with pytest.raises(BaseMissing):
            verify_metadata(open_bundle(delta), forge.fingerprint, now=NOW)
        theirs = listed(refresh(delta, root, cache, fresh=False), files)
        ours = site.accept(delta, NOW).entries
        assert theirs == {path: (ours[path].length, {"sha256": ours[path].sha256}) for path in files}


def test_python_tuf_judges_a_delta_by_the_copies_that_a_site_keeps(tmp_path):
    """The copies of a site, put where python-tuf's client looks for what it has seen before."""
    forge = Forge(tmp_path)
    root = (forge.trust / "metadata/1.root.json").read_bytes()
    site = Site(forge, tmp_path / "channels")
    times = {"now": NOW, "expires": NOW + timedelta(days=10)}
    site.accept(forge.built(MODEL, **times), NOW)
    delta = forge.built(NEW_TEMPLATE, since=site.receipt(), **times)
    kept = read_kept(site.directory, site.accepted.bundle_id)
    cache = tmp_path / "cache"
    cache.mkdir()
    for role in ROLES:
        (cache / f"{role}.json").write_bytes(kept.files[role])
    assert len(listed(refresh(delta, root, cache, fresh=False), NEW_TEMPLATE)) == len(NEW_TEMPLATE)
    (cache / "python.json").write_bytes(kept.files["python"].replace(b"1", b"2", 1))
    with pytest.raises((RepositoryError, DownloadError)):
        listed(refresh(delta, root, cache, fresh=False), NEW_TEMPLATE)


def test_python_tuf_and_we_refuse_an_old_delta_after_a_newer_bundle(tmp_path):
    forge = Forge(tmp_path)
    root = (forge.trust / "metadata/1.root.json").read_bytes()
    site = Site(forge, tmp_path / "channels")
    times = {"now": NOW, "expires": NOW + timedelta(days=10)}
    cache = tmp_path / "cache"
    site.accept(forge.built(MODEL, **times), NOW)
    old = forge.built(NEW_TEMPLATE, since=site.receipt(), **times)
    newer = forge.built(MODEL, **times)
    site.accept(newer, NOW)
    listed(refresh(newer, root, cache), MODEL)
    with pytest.raises(RepositoryError):
        refresh(old, root, cache, fresh=False)
    with pytest.raises(Rollback):
        site.verify(old, NOW)
