"""An unmodified python-tuf client, the trust kernel and the one-file verifier on the same metadata.

What python-tuf refuses, we refuse. Where we refuse more is written down here, case by case, with the reason.
"""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError, RepositoryError

from bundles.corpus import WRONG
from bundles.forge import FILES, sha256
from bundles.judges import verdict
from bundles.test_trust_tuf import refresh
from plugsky_bundles.format import ROLES

NOW = datetime.now(UTC).replace(microsecond=0)
STRICTER = {
    "one way to write everything, so that nothing can be added or changed that is not signed": {
        "a timestamp with an entry that was not signed",
        "signatures in capitals",
        "signatures with a space",
        "signatures with a field more",
        "a digest in capitals",
        "a threshold that is a truth value",
        "a version that is a truth value",
        "a version beyond what we count",
        "the keys of a role as an object",
        "a version that is not its file's",
    },
    "keys are of two kinds, few, used, and prove who signed": {
        "a key that fits signatures of anyone",
        "a key of order eight",
        "a key of small order with its sign set",
        "a key with a coordinate beyond the prime",
        "a key that no role uses",
        "a role key that is not listed",
        "a scheme that is not allowed",
        "more keys than anyone needs",
        "a name that is a path",
        "a name for a stranger",
    },
    "fields of ours, which TUF hands on unread": {
        "a timestamp without its time",
        "a timestamp with half a time",
        "a timestamp without a channel",
        "a channel that is a path",
        "a snapshot of another channel",
        "a snapshot without evidence",
        "evidence outside its places",
        "evidence with a field more",
        "targets of another channel",
        "a role of another channel",
        "targets of another format",
        "custom data that is a list",
        "a chunk list without a length",
        "a chunk list of four thousand million bytes",
        "a chunk list that is no chunk list",
        "a file longer than its chunks",
    },
    "what people sign together, which no other key may take apart": {
        "targets that bind nothing",
        "targets that bind a field more",
        "targets that bind one role less",
        "targets that bind a role without its version",
        "targets that bind no content",
        "targets that bind files as a list",
        "targets that bind a path outside",
        "targets that bind the custody log",
        "targets that bind a file that is not listed",
        "targets that bind other bytes of a file",
        "targets that bind another content",
        "targets that bind another role file",
        "targets that bind another version of a role",
        "a snapshot without a file that people bound",
        "a snapshot with a file that people did not bind",
    },
    "one fixed set of roles, each with its own files, and one hash": {
        "a timestamp that does not hash the snapshot",
        "a snapshot with a role too many",
        "targets that list files",
        "a delegation that does not end the search",
        "a role that delegates further",
        "a file under another role's prefix",
        "a file listed by two roles",
        "a file with another hash than SHA-256",
    },
    "names that every file system agrees on, and lengths of what is on the media": {
        "two files that differ by case",
        "a file with a name that leads out",
        "a length that is not the blob's",
    },
}


@pytest.fixture(scope="module")
def right(forge) -> Path:
    return forge.sealed(now=NOW, expires=NOW + timedelta(days=1))


def accepted(bundle: Path, cache: Path) -> bool:
    """Whether python-tuf accepts all metadata, given the root on the media, and finds every file."""
    try:
        updater = refresh(bundle, (bundle / "metadata/1.root.json").read_bytes(), cache)
        for role in ROLES:
            updater.get_targetinfo(f"{role}/none")  # it loads a role only when it is asked for one of its files
        return all(updater.get_targetinfo(path) is not None for path in FILES)
    except (RepositoryError, DownloadError):
        return False


def test_the_right_bundle_is_right_to_all_three(forge, right, tmp_path):
    assert verdict(right, forge.fingerprint, now=NOW) == "ok"
    assert accepted(right, tmp_path / "cache")


@pytest.mark.parametrize("name", WRONG)
def test_python_tuf_accepts_of_the_wrong_ones_only_those_that_are_written_down(forge, right, tmp_path, name):
    bundle = Path(shutil.copytree(right, tmp_path / right.name))
    WRONG[name](forge, bundle)
    assert verdict(bundle, sha256((bundle / "metadata/1.root.json").read_bytes()), now=NOW) != "ok"
    assert accepted(bundle, tmp_path / "cache") == any(name in names for names in STRICTER.values())


def test_nothing_is_written_down_that_is_not_tried():
    assert {name for names in STRICTER.values() for name in names} <= WRONG.keys()
