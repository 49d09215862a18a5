"""Debian parts from a small signed archive on this machine: resolved, locked, fetched, proven, signed; and every way
in which a mirror can be wrong.
"""

import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from bundles.deb_forge import BASIC, NOW, PASSPHRASE, Archive, Fake, dearmoured, served
from plugsky_builder import build as building
from plugsky_builder import recipe as recipes
from plugsky_builder.cache import Cache
from plugsky_builder.debs import fetching, lock, openpgp, parts, releases, renewal
from plugsky_builder.debs.fetching import Mirror
from plugsky_builder.debs.openpgp import RepositoryKey
from plugsky_bundles import ceremony, sealing, signing
from plugsky_bundles.errors import (
    BundleError,
    DigestMismatch,
    KeyUnusable,
    NotCached,
    NotFound,
    PassphraseError,
    RecipeError,
    RehearsalFailed,
    SourceError,
    SourceUnreachable,
)
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.media import open_bundle
from plugsky_bundles.progress import silent
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("apt-get", "gpg", "gpgv")), reason="needs apt, gpg and gpgv"
    ),
]

TARGET = "debian-13-amd64"
FOLDER = f"debs/{TARGET}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return Archive(tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="module")
def trust(tmp_path_factory):
    """A trust directory whose repository key is made already: gpg takes its time."""
    path = tmp_path_factory.mktemp("operator") / "trust"
    ceremony.init(path, PASSPHRASE, now=NOW)
    RepositoryKey(open_trust(path), lambda: PASSPHRASE, NOW).public()
    return path


class Workshop:
    """A build machine that knows that archive as Debian 13."""

    def __init__(self, base: Path, archive: Archive, address: str, trust: Path) -> None:
        self.base, self.archive, self.address = base, archive, address
        self.cache, self.trust = base / "cache", base / "trust"
        shutil.copytree(trust, self.trust)
        self.asked = 0
        self.write()

    def write(self, debs: str = "", more: str = "") -> None:
        (self.base / "lab.toml").write_text(
            f"""
            channel = "lab"
            [[target]]
            os = "debian-13"
            [debs]
            mirror = "{self.address}/debian"
            security-mirror = "{self.address}/debian-security"
            {debs}
            {more}
            """
        )

    @property
    def recipe(self) -> recipes.Recipe:
        return recipes.load(self.base / "lab.toml")

    @property
    def lock_file(self) -> Path:
        return self.base / f"debs-{TARGET}.txt"

    def passphrase(self) -> bytes:
        self.asked += 1
        return PASSPHRASE

    def lock(self, now=NOW) -> renewal.Renewed:
        (renewed,) = renewal.renew(self.recipe, self.cache, now=now, progress=silent)
        return renewed

    def gather(self, cache: Path | None = None, now=NOW, *, offline: bool = False) -> parts.DebParts:
        recipe = self.recipe
        mirror = Mirror(Cache(cache or self.cache, offline=offline), releases.mirrors(recipe.debs), silent)
        key = RepositoryKey(open_trust(self.trust), self.passphrase, now)
        return parts.gather(recipe.debs, recipe.targets, mirror, key, silent)

    def build(self, out: str, now=NOW, **options) -> building.Built:
        options = {"cache": self.cache, "wheelhouse": self.base, "passphrase": self.passphrase, **options}
        return building.build(self.recipe, self.base / out, self.trust, now=now, **options)


@pytest.fixture
def shop(tmp_path, archive, trust, monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "PLUGSKY_MIRRORS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setitem(releases.DEBIAN, "debian-13", archive.release)
    archive.publish(BASIC)
    with served(archive.root) as address:
        yield Workshop(tmp_path, archive, address, trust)


def paths(found: parts.DebParts) -> set[str]:
    return {material.path for material in found.materials}


def content(found: parts.DebParts) -> dict[str, str]:
    return {material.path: material.sha256 for material in found.materials}


def write_out(found: parts.DebParts, folder: Path) -> Path:
    for material in [*found.materials, *found.evidence]:
        path = folder / material.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with material.open() as source:
            path.write_bytes(source.read())
    return folder


def test_a_bare_host_gets_the_whole_closure_and_no_recommendation(shop):
    renewed = shop.lock()
    assert renewed.added == (
        "libc6=1.0",
        "libgcc-s1=1.0",
        "libgomp1=1.0",
        "python3-core=1.0",
        "python3-minimal=1.0",
        "python3=1:3.13.5-1",
        "tzdata=1.0",
    )
    found = shop.gather()
    assert {f"{FOLDER}/{name}" for name in ("Packages", "Release", "InRelease")} <= paths(found)
    assert f"{FOLDER}/python3_3.13.5-1_amd64.deb" in paths(found)
    assert parts.KEYRING_PATH in paths(found)


def test_what_a_bare_host_needs_for_python_comes_in_an_order_for_dpkg(shop):
    shop.write('packages = ["sudo"]')
    shop.lock()
    entries = [material.entry for material in shop.gather().materials]
    bootstrap = parts.bootstrap_set(entries, TARGET)
    assert [(deb.stage, deb.path.rsplit("/", 1)[1].split("_")[0]) for deb in bootstrap] == [
        (0, "libgcc-s1"),
        (0, "libc6"),
        (0, "libgomp1"),
        (0, "tzdata"),
        (0, "python3-core"),
        (1, "python3-minimal"),
        (2, "python3"),
    ]
    assert all(deb.length and len(deb.sha256) == 64 for deb in bootstrap)
    assert parts.bootstrap_set(entries, "debian-12-amd64") == []


def test_a_host_that_has_libc_gets_only_what_it_lacks(shop):
    status = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 9.0\nMaintainer: x\n\n"
    status += status.replace("libc6", "libgcc-s1")
    (shop.base / "status").write_text(status)
    shop.write('status = "status"')
    assert "libc6=1.0" not in shop.lock().added
    shop.gather()
    (shop.base / "status").write_text(status.replace("9.0", "9.1"))
    with pytest.raises(RecipeError, match="what it says of status is not what the recipe asks for"):
        shop.gather()


def test_the_same_recipe_and_lock_give_the_same_files_elsewhere_and_later(shop, tmp_path):
    shop.lock()
    first = shop.gather()
    later = shop.gather(tmp_path / "other-cache", NOW + timedelta(days=3))
    assert content(first) == content(later)


def test_the_passphrase_is_asked_only_where_something_is_signed_anew(shop):
    shop.lock()
    shop.gather()
    asked = shop.asked
    assert asked > 0
    shop.gather()
    assert shop.asked == asked


def test_the_cache_alone_is_enough(shop):
    shop.lock()
    online = shop.gather()
    shutil.rmtree(shop.archive.root)
    assert content(shop.gather(offline=True)) == content(online)


def test_an_empty_cache_is_not_enough_without_a_network(shop, tmp_path):
    shop.lock()
    with pytest.raises(NotCached):
        shop.gather(tmp_path / "empty", offline=True)
    with pytest.raises(NotCached, match=f"7 Debian files for {TARGET}"):
        shop.build("out", offline=True)


def test_a_lock_whose_answer_stays_is_left_alone(shop):
    shop.lock()
    before = shop.lock_file.read_bytes()
    shop.archive.publish([*BASIC, Fake("unrelated")], date=NOW)
    assert not shop.lock().changed
    assert shop.lock_file.read_bytes() == before
    shop.archive.publish([replace(BASIC[0], version="1.1"), *BASIC[1:]], date=NOW)
    renewed = shop.lock()
    assert (renewed.added, renewed.removed) == (("libc6=1.1",), ("libc6=1.0",))


def test_a_newer_state_of_the_mirror_is_as_good_evidence_and_changes_nothing_that_travels(shop, tmp_path):
    shop.lock()
    first = shop.gather()
    shop.archive.publish([*BASIC, Fake("unrelated")], date=NOW)
    second = shop.gather(tmp_path / "other-cache")
    assert content(first) == content(second)
    assert [m.sha256 for m in first.evidence] != [m.sha256 for m in second.evidence]
    offline = shop.gather(tmp_path / "other-cache", offline=True)
    assert [m.sha256 for m in offline.evidence] == [m.sha256 for m in second.evidence]


def test_a_lock_that_debian_does_not_vouch_for_any_more_is_refused(shop, tmp_path):
    shop.lock()
    shop.archive.publish([replace(BASIC[0], version="1.1"), *BASIC[1:]], date=NOW)
    with pytest.raises(
        SourceError, match=r"no signed index has libc6 as locked.*`plugsky bundle lock RECIPE` and build again"
    ):
        shop.gather(tmp_path / "other-cache")


def test_a_reviewer_can_follow_the_chain_with_gpgv_and_sha256sum(shop, tmp_path):
    shop.write('packages = ["sudo"]')
    shop.lock()
    out = write_out(shop.gather(), tmp_path / "media")
    notes = out / "evidence" / FOLDER
    checked = subprocess.run(
        ["gpgv", "--keyring", str(shop.archive.keyring), "--output", "-", str(notes / "trixie.InRelease")],
        capture_output=True,
        check=True,
    )
    listing = notes / "trixie.Packages.xz"
    assert hashlib.sha256(listing.read_bytes()).hexdigest() in checked.stdout.decode()
    plain = subprocess.run(["xz", "--decompress", "--stdout", str(listing)], capture_output=True, check=True).stdout
    for deb in (out / FOLDER).glob("*.deb"):
        assert hashlib.sha256(deb.read_bytes()).hexdigest().encode() in plain
    report = {item["name"]: item for item in json.loads((notes / "packages.json").read_bytes())["packages"]}
    assert report["sudo"]["setuid"] == {"usr/bin/sudo": "4755"}
    assert report["sudo"]["diverts"] is True
    assert report["python3"]["scripts"] == {"postinst": hashlib.sha256(b"#!/bin/sh\nexit 0\n").hexdigest()}
    assert report["python3"]["suite"] == "trixie"
    assert (notes / "lock.txt").read_bytes() == shop.lock_file.read_bytes()


def test_apt_would_believe_our_repository_with_our_key(shop, tmp_path):
    shop.lock()
    out = write_out(shop.gather(), tmp_path / "media")
    (tmp_path / "key.gpg").write_bytes(dearmoured((out / parts.KEYRING_PATH).read_bytes()))
    checked = subprocess.run(
        ["gpgv", "--keyring", str(tmp_path / "key.gpg"), "--output", "-", str(out / FOLDER / "InRelease")],
        capture_output=True,
        check=True,
    )
    assert checked.stdout == (out / FOLDER / "Release").read_bytes()


def test_a_recipe_that_asks_for_more_than_its_lock_is_refused(shop):
    shop.lock()
    shop.write('packages = ["sudo"]')
    with pytest.raises(RecipeError, match="what it says of packages is not what the recipe asks for"):
        shop.gather()


def test_a_lock_that_leaves_out_security_updates_is_refused(shop):
    shop.lock()
    lines = shop.lock_file.read_text().splitlines(keepends=True)
    shop.lock_file.write_text("".join(line for line in lines if "trixie-security" not in line))
    with pytest.raises(RecipeError, match="suites"):
        shop.gather()


def test_a_recipe_without_its_lock_is_told_how_to_make_it(shop):
    with pytest.raises(NotFound, match="plugsky bundle lock"):
        shop.gather()


def test_a_package_that_debian_does_not_have_is_named(shop):
    shop.write('packages = ["nftables"]')
    with pytest.raises(SourceError, match="Unable to locate package nftables"):
        shop.lock()
    assert not shop.lock_file.exists()


def test_a_package_whose_dependency_is_missing_is_explained(shop):
    shop.archive.publish([*BASIC, Fake("lonely", fields={"Depends": "nobody"})])
    shop.write('packages = ["lonely"]')
    with pytest.raises(SourceError, match="lonely : Depends: nobody"):
        shop.lock()


def replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


def other_key(shop: Workshop) -> None:
    forged = Archive(shop.base / "forger")
    shutil.copytree(forged.root, shop.archive.root, dirs_exist_ok=True)


def changed_text(shop: Workshop) -> None:
    replaced(shop.archive.root / "debian/dists/trixie/InRelease", b"Codename: trixie", b"Codename: Trixie")


def text_before_the_signature(shop: Workshop) -> None:
    path = shop.archive.root / "debian/dists/trixie/InRelease"
    path.write_bytes(path.read_bytes().replace(b"-----BEGIN PGP SIGNATURE-----", b"", 1))


def swapped_suites(shop: Workshop) -> None:
    dists = shop.archive.root / "debian/dists"
    shutil.rmtree(dists / "trixie-updates")
    shutil.copytree(dists / "trixie", dists / "trixie-updates")


def changed_index(shop: Workshop) -> None:
    (index,) = (shop.archive.root / "debian/dists/trixie/main/binary-amd64/by-hash/SHA256").iterdir()
    index.write_bytes(index.read_bytes()[:-1] + b"!")


@pytest.mark.parametrize(
    "spoil",
    [other_key, changed_text, text_before_the_signature, swapped_suites, changed_index],
    ids=lambda f: f.__name__,
)
def test_what_debian_did_not_sign_is_refused(shop, spoil):
    spoil(shop)
    with pytest.raises(DigestMismatch):
        shop.lock()
    assert not shop.lock_file.exists()


def test_a_mirror_that_stands_still_is_refused_unless_the_recipe_says_so(shop):
    shop.archive.publish(BASIC, date=NOW - timedelta(days=30))
    with pytest.raises(SourceError, match="trixie is out of date"):
        shop.lock()
    shop.write("check-valid-until = false")
    assert shop.lock().packages == 7


def test_a_package_with_other_bytes_is_refused_and_not_kept(shop):
    shop.lock()
    deb = shop.archive.root / "debian/pool/main/libc6_1.0_amd64.deb"
    deb.write_bytes(deb.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestMismatch):
        shop.gather()
    shop.archive.publish(BASIC)
    shop.gather()


def test_a_download_that_was_cut_off_is_finished(shop):
    shop.lock()
    (libc,) = (deb for deb in lock.read(shop.lock_file).debs if deb.name == "libc6")
    data = (shop.archive.root / libc.path).read_bytes()
    (Cache(shop.cache).work("debs") / f"{libc.sha256}.part").write_bytes(data[:100])
    shop.gather()
    assert Cache(shop.cache).file(libc.sha256).read_bytes() == data


def test_a_damaged_file_of_the_cache_is_found_and_fetched_anew(shop):
    shop.lock()
    shop.gather()
    (libc,) = (deb for deb in lock.read(shop.lock_file).debs if deb.name == "libc6")
    Cache(shop.cache).file(libc.sha256).write_bytes(b"rot")
    with pytest.raises(DigestMismatch, match="Run it again"):
        shop.gather()
    shop.gather()


def test_a_package_that_the_mirror_dropped_says_what_to_do(shop):
    shop.lock()
    (shop.archive.root / "debian/pool/main/libc6_1.0_amd64.deb").unlink()
    with pytest.raises(
        SourceError, match=r"no more.*`plugsky bundle lock RECIPE` and build again.*snapshot\.debian\.org"
    ):
        shop.gather()


@pytest.mark.parametrize("lacking", ["InRelease", "Packages.xz"])
def test_a_mirror_that_lacks_what_a_lock_is_made_of_is_not_called_an_old_lock(shop, lacking):
    suite = shop.archive.root / "debian/dists/trixie"
    shutil.rmtree(suite / "main") if lacking == "Packages.xz" else (suite / "InRelease").unlink()
    with pytest.raises(SourceError, match=r"The mirror does not have .*Check the mirror") as caught:
        shop.lock()
    assert "bundle lock" not in caught.value.next


def test_a_404_in_a_name_is_no_missing_file():
    said = "E: Failed to fetch http://m.example/x_1.404-1_amd64.deb  Could not connect to m.example:80 (192.0.2.1)"
    assert isinstance(fetching._failure(said, "x_1.404-1_amd64.deb"), SourceUnreachable)


def test_a_mirror_that_nobody_serves_is_unreachable(shop, monkeypatch):
    monkeypatch.setattr(fetching, "OPTIONS", ("-q", "-o", "APT::Sandbox::User=root"))  # no patience
    monkeypatch.setenv("PLUGSKY_MIRRORS", f"{shop.address}/debian/=http://127.0.0.1:9/debian/")
    with pytest.raises(SourceUnreachable):
        shop.lock()


def test_the_repository_key_is_made_once_kept_closed_and_logged(shop):
    shop.lock()
    shop.gather()
    secret = shop.trust / "keys" / "debs-repository.asc"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE KEY" in secret.read_bytes()
    lines = (shop.trust / "custody.jsonl").read_text().splitlines()
    assert sum('"event":"debs.key"' in line for line in lines) == 1
    assert not list(Path(openpgp.MEMORY).glob("plugsky-gpg-*"))


def test_a_wrong_passphrase_makes_no_key_and_opens_none(shop, monkeypatch):
    for file in (shop.trust / "keys").glob("debs-*"):
        file.unlink()
    shop.lock()
    monkeypatch.setattr(shop, "passphrase", lambda: b"wrong")
    with pytest.raises(PassphraseError):
        shop.gather()
    assert not list((shop.trust / "keys").glob("debs-*"))


def test_a_wrong_passphrase_does_not_open_the_key(shop, tmp_path):
    shop.lock()
    shop.gather()
    key = RepositoryKey(open_trust(shop.trust), lambda: b"wrong", NOW)
    with pytest.raises(PassphraseError, match="does not open"):
        key.clearsign(b"Origin: x\n", NOW)
    (shop.trust / "keys" / "debs-repository.asc").unlink()
    with pytest.raises(KeyUnusable, match="another machine"):
        key.clearsign(b"Origin: x\n", NOW)


def test_a_bundle_with_debian_parts_is_built_sealed_and_read_in_full(shop):
    shop.lock()
    first, second = shop.build("one"), shop.build("two", NOW + timedelta(days=2), cache=shop.base / "fresh")
    assert first.content_id == second.content_id
    (why,) = first.not_rehearsed
    assert why.startswith(f"{TARGET}: ")
    signing.sign(first.path, shop.trust, PASSPHRASE, now=NOW)
    sealing.seal(first.path, shop.trust, PASSPHRASE, NOW)
    bundle = open_bundle(first.path)
    pin = hashlib.sha256(bundle.read("metadata/1.root.json", limit=1 << 20)).hexdigest()
    verified = verify_metadata(bundle, pin, now=NOW)
    verify_payload(verified)
    names = {name for name in bundle.files if name.startswith("evidence/")}
    assert {"evidence/rehearsal.json", f"evidence/{FOLDER}/packages.json", f"evidence/{FOLDER}/lock.txt"} <= names
    outcome = json.loads((first.path / "evidence/rehearsal.json").read_bytes())["targets"]
    assert [(one["target"], one["rehearsed"]) for one in outcome] == [(TARGET, False)]


def test_a_required_rehearsal_that_cannot_take_place_stops_the_build(shop):
    shop.lock()
    with pytest.raises(RehearsalFailed, match="was not rehearsed"):
        shop.build("out", require_rehearsal=True)
    assert not list((shop.base / "out").glob("plugsky-*"))


def test_a_rehearsal_that_the_recipe_leaves_out_says_why(shop):
    shop.write(more='[rehearsal]\nskip = "rehearsed by hand"')
    shop.lock()
    built = shop.build("out")
    assert built.not_rehearsed == (f"{TARGET}: rehearsed by hand",)


def test_a_build_without_a_passphrase_says_that_it_needs_one(shop):
    shop.lock()
    recipe = shop.recipe
    with pytest.raises(BundleError, match="no passphrase was given"):
        building.build(recipe, shop.base / "out", shop.trust, cache=shop.cache, wheelhouse=shop.base, now=NOW)
