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

from bundles.forge import FILES, Forge, envelope, signed_parts
from plugsky_bundles.errors import MetadataExpired, VerificationError
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


def refresh(bundle: Path, root: bytes, cache: Path) -> Updater:
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    updater = Updater(str(cache), f"file://{bundle}/metadata/", fetcher=Directory(), bootstrap=root)
    updater.refresh()
    return updater


@pytest.fixture(scope="module")
def forge(tmp_path_factory) -> Forge:
    return Forge(tmp_path_factory.mktemp("tuf"))


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
