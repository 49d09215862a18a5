"""Whoever carries a bundle chooses what lies there as roots: nothing is spent on roots that nobody trusts."""

import json
import subprocess
import sys

import pytest

from bundles.forge import NOW, Forge, copy_of, encode, envelope, sha256
from bundles.judges import site_with, verdict
from plugsky_bundles.errors import DigestMismatch
from plugsky_bundles.media import open_bundle
from plugsky_bundles.root_chain import MAX_ROOT_CHAIN, MAX_ROOTS, read_roots
from plugsky_bundles.verify import verify_metadata

PEAK = """
import resource, sys
from datetime import UTC, datetime
from pathlib import Path
from plugsky_bundles.errors import VerificationError
from plugsky_bundles.media import open_bundle
from plugsky_bundles.verify import verify_metadata
try:
    verify_metadata(open_bundle(Path(sys.argv[1])), sys.argv[2], now=datetime(2026, 11, 22, 12, tzinfo=UTC))
    print("ok", end=" ")
except VerificationError as error:
    print(error.code, end=" ")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.fixture
def forge(tmp_path):
    return Forge(tmp_path)


@pytest.fixture
def bundle(forge):
    return copy_of(forge.sealed())


def put_root(bundle, number, data):
    (bundle / f"metadata/{number}.root.json").write_bytes(data)


@pytest.mark.parametrize("known", [True, False], ids=["at a site", "at first use"])
def test_roots_that_lead_nowhere_are_not_looked_into(forge, bundle, tmp_path, known):
    state = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW).state
    site = site_with(tmp_path / "site", state) if known else None
    for number in range(1, MAX_ROOTS + 1):
        put_root(bundle, number, b"[" * number)
    (bundle / "metadata/1.root.json").unlink()
    assert verdict(bundle, None if known else forge.fingerprint, site) == (
        "malformed_metadata" if known else "untrusted_root"
    )
    put_root(bundle, 1, b"[")
    assert verdict(bundle, None if known else forge.fingerprint, site) == "untrusted_root"


def test_a_chain_of_roots_is_bounded_in_bytes_before_anything_else(forge, bundle):
    fat = b" " * 500_000
    for number in range(2, 2 + MAX_ROOT_CHAIN // len(fat)):
        put_root(bundle, number, fat)
    assert verdict(bundle, forge.fingerprint) == "malformed_metadata"
    put_root(bundle, 2 + MAX_ROOT_CHAIN // len(fat), fat)
    assert verdict(bundle, forge.fingerprint) == "untrusted_root"


def test_the_first_root_that_trusted_people_did_not_sign_ends_the_reading(forge, bundle):
    root = json.loads((bundle / "metadata/1.root.json").read_bytes())["signed"]
    stranger = Forge(forge.base / "stranger")
    root["version"] = 2
    put_root(bundle, 2, encode(envelope(root, stranger.signers("root"))))
    put_root(bundle, 3, b"never looked into")
    assert verdict(bundle, forge.fingerprint) == "signature_unknown"


def test_a_root_that_changes_between_its_two_readings_is_refused(forge, bundle):
    class Changing:
        names = ("1.root.json",)
        reads = 0

        def read(self, name, _limit):
            self.reads += 1
            data = (bundle / "metadata" / name).read_bytes()
            return data if self.reads == 1 else data + b" "

    with pytest.raises(DigestMismatch, match="while it was read"):
        read_roots(Changing(), forge.fingerprint)


@pytest.mark.integration
def test_a_chain_of_fat_roots_takes_the_memory_of_one(forge, bundle):
    """Each takes about ten megabytes while it is judged, so that keeping sixteen of them would show."""
    root = json.loads((bundle / "metadata/1.root.json").read_bytes())["signed"]
    root["x"] = [{} for _ in range(165_000)]
    peaks = {}
    for count in (1, 16):
        for number in range(1, count + 1):
            data = encode(envelope({**root, "version": number}, forge.signers("root")))
            put_root(bundle, number, data)
        command = [sys.executable, "-c", PEAK, str(bundle), sha256(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        verdict_of, peak = done.stdout.split()
        peaks[count] = int(peak)
        assert verdict_of == "ok"
    assert peaks[16] - peaks[1] < 48, peaks
