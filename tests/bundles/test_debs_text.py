"""What Debian parts are written and read as: the recipe's table, the lock, apt's answer, the repository."""

import contextlib
import hashlib
import lzma
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from debian.deb822 import Packages, Release
from hypothesis import given
from hypothesis import strategies as st

from bundles.deb_forge import BASIC, Fake
from plugsky_builder import recipe as recipes
from plugsky_builder.debs import closure, lint, lock, releases, repository, upstream
from plugsky_builder.debs.lock import DebLock, LockedSuite
from plugsky_builder.debs.releases import Suite
from plugsky_builder.debs.upstream import Package
from plugsky_bundles.errors import BundleError, DigestMismatch, NotFound, RecipeError, SourceError

WHEN = datetime(2026, 9, 12, 7, 55, 41, tzinfo=UTC)
SHA = "ab" * 32
PYTHON = Package("python3", "3.13.5-1", "amd64", 28244, SHA, "debian/pool/main/p/python3_3.13.5-1_amd64.deb")
ZLIB = Package("zlib1g", "1:1.3+x-1", "amd64", 5, "cd" * 32, "debian-security/pool/z/zlib1g_1.3+x-1_amd64.deb")
LOCK = DebLock(
    "debian-13-amd64",
    ("libgomp1", "python3"),
    lock.BARE,
    (LockedSuite(Suite("debian", "trixie"), WHEN, SHA, 140421, "cd" * 32, 9678380),),
    (PYTHON, ZLIB),
)


def load(tmp_path, debs, targets='[[target]]\nos = "debian-13"\n'):
    path = tmp_path / "lab.toml"
    path.write_text(f'channel = "lab"\n{targets}[debs]\n{debs}\n')
    return recipes.load(path)


def test_python_and_the_openmp_runtime_always_travel(tmp_path):
    debs = load(tmp_path, 'packages = ["nftables"]').debs
    assert debs.packages == ("libgomp1", "nftables", "python3")
    assert debs.lock_of("debian-13-amd64") == tmp_path / "debs-debian-13-amd64.txt"
    assert debs.status_of("debian-13-amd64") is None
    assert releases.mirrors(debs) == releases.ARCHIVES


def test_mirrors_of_the_recipe_stand_in_for_debians(tmp_path):
    debs = load(tmp_path, 'mirror = "https://mirror.example/debian/"\nstatus = "{target}/status"').debs
    assert releases.mirrors(debs)["debian"] == "https://mirror.example/debian"
    assert releases.mirrors(debs)["debian-security"] == releases.ARCHIVES["debian-security"]
    assert debs.status_of("debian-13-amd64") == tmp_path / "debian-13-amd64/status"


@pytest.mark.parametrize(
    ("debs", "fault"),
    [
        ('packages = ["Python3"]', "not the name of a Debian package"),
        ('packages = ["python3=3.13"]', "not the name of a Debian package"),
        ('packages = ["-y"]', "not the name of a Debian package"),
        ('lock = "debs.txt"', "each target has its own"),
        ('mirror = "file:///mnt"', "http or https"),
        ('mirror = "https://me:secret@mirror.example/debian"', "without credentials"),
        ('check-valid-until = "no"', "true or false"),
        ('suites = ["sid"]', "not known"),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(tmp_path, debs, fault):
    with pytest.raises(RecipeError, match=fault):
        load(tmp_path, debs)


def test_a_rehearsal_can_be_left_out_with_a_reason(tmp_path):
    recipe = load(tmp_path, '[rehearsal]\nskip = "the target is rehearsed elsewhere"')
    assert recipe.no_rehearsal == "the target is rehearsed elsewhere"


def test_packages_for_an_unknown_release_are_refused():
    with pytest.raises(RecipeError, match="debian-12, debian-13"):
        releases.release_of("ubuntu-24.04")


def test_a_lock_is_read_as_it_was_written():
    assert lock.parse(lock.write(LOCK)) == LOCK
    assert LOCK.date == WHEN


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=200), st.integers(0, 600))
def test_a_damaged_lock_is_refused_or_read_but_never_a_crash(junk, at):
    text = lock.write(LOCK)
    with contextlib.suppress(ValueError, BundleError):
        lock.parse(text[:at] + junk + text[at:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lock 1", "lock 2"),
        ("target debian-13-amd64\n", ""),
        ("packages", "package"),
        ("package python3=3.13.5-1", "package python3"),
        ("package python3=3.13.5-1", "package python3=3.13;5"),
        (SHA, SHA.upper()),
        (" 28244 ", " -1 "),
        (" 28244 ", " 9999999999999999 "),
        ("debian/pool/main/p/", "/pool/main/p/"),
        ("debian/pool/main/p/", "debian/../p/"),
        ("package zlib1g", "package python3"),
        ("2026-09-12T07:55:41Z", "yesterday"),
        ("suite debian/dists/trixie", "suite trixie"),
        ("status -\n", "status -\nstatus -\n"),
        ("status -\n", "status -\nexec rm\n"),
    ],
)
def test_a_line_that_a_lock_cannot_have_is_refused(tmp_path, old, new):
    text = lock.write(LOCK)
    assert old in text
    (tmp_path / "debs.txt").write_text(text.replace(old, new))
    with pytest.raises(RecipeError, match=r"debs\.txt cannot be used"):
        lock.read(tmp_path / "debs.txt")


def test_a_missing_lock_names_the_command_that_makes_it(tmp_path):
    with pytest.raises(NotFound, match="plugsky bundle lock"):
        lock.read(tmp_path / "debs.txt")


def test_apts_answer_is_read_with_its_quoting():
    text = (
        "Reading package lists...\n"
        "'http://plugsky.invalid/debian/pool/z/zlib1g_1.3%2bx-1_amd64.deb' zlib1g_1%3a1.3+x-1_amd64.deb 5 "
        f"SHA256:{SHA}\n"
    )
    (package,) = closure.read_uris(text)
    assert package == Package("zlib1g", "1:1.3+x-1", "amd64", 5, SHA, "debian/pool/z/zlib1g_1.3+x-1_amd64.deb")
    assert package.file == "zlib1g_1.3+x-1_amd64.deb"


@pytest.mark.parametrize(
    "line", ["'http://plugsky.invalid/a.deb' a_1_all.deb 5 MD5Sum:00", "'http://evil/a.deb' a 5 x"]
)
def test_an_answer_without_a_sha256_is_refused(line):
    with pytest.raises(SourceError, match="not understood"):
        closure.read_uris(line)


GOOD = "[GNUPG:] NEWSIG\n[GNUPG:] {}SIG AB Debian\n[GNUPG:] VALIDSIG SUB 2026-09-12 1 0 4 0 1 8 01 PRIMARY\n"


@pytest.mark.parametrize(
    ("status", "signers"),
    [
        (GOOD.format("GOOD"), {"PRIMARY"}),
        (GOOD.format("EXPKEY"), set()),
        (GOOD.format("REVKEY"), set()),
        (GOOD.format("EXP"), set()),
        (GOOD.format("GOOD") + "[GNUPG:] NEWSIG\n[GNUPG:] VALIDSIG S d 1 0 4 0 1 8 01 OTHER\n", {"PRIMARY"}),
        ("gpgv: VALIDSIG SUB PRIMARY\n", set()),
    ],
    ids=["good", "expired key", "revoked key", "expired signature", "only one is good", "talk of gpgv"],
)
def test_a_signature_counts_only_when_gpg_calls_it_good(status, signers):
    assert upstream._good_signers(status) == signers


SIGNED = f"""Codename: trixie
Date: Sat, 12 Sep 2026 07:55:41 UTC
Valid-Until: Sat, 19 Sep 2026 07:55:41 UTC
SHA256:
 {"cd" * 32} 56620099 main/binary-amd64/Packages
 {SHA} 9678380 main/binary-amd64/Packages.xz
"""


def test_what_is_signed_is_read():
    suite = upstream._read(SIGNED.encode(), Suite("debian", "trixie"), "amd64", ("KEY",), "It")
    assert (suite.index_sha256, suite.index_length, suite.date) == (SHA, 9678380, WHEN)
    assert suite.valid_until == datetime(2026, 9, 19, 7, 55, 41, tzinfo=UTC)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("Codename: trixie", "Codename: bookworm", "another suite"),
        ("12 Sep", "32 Sep", "no date"),
        ("9678380", "96783800000", "bytes"),
        ("binary-amd64/Packages.xz", "binary-i386/Packages.xz", "no packages for amd64"),
        (SHA, "x" * 64, "no packages for amd64"),
    ],
)
def test_signed_text_that_is_of_no_use_is_refused(old, new, fault):
    with pytest.raises((DigestMismatch, SourceError), match=fault):
        upstream._read(SIGNED.replace(old, new).encode(), Suite("debian", "trixie"), "amd64", ("KEY",), "It")


def index(tmp_path, text):
    path = tmp_path / "Packages.xz"
    path.write_bytes(lzma.compress(text.encode()))
    return path


def test_entries_of_an_index_are_found_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "BLOCK", 64)
    text = "".join(f"{f.control}Filename: pool/{f.file}\nSize: 7\nSHA256: {SHA}\n\n" for f in BASIC)
    found = list(upstream.entries(index(tmp_path, text), Suite("debian", "trixie"), {"sudo", "tzdata"}.__contains__))
    assert [package.name for package, _ in found] == ["tzdata", "sudo"]
    assert found[1][0].path == "debian/pool/sudo_1.0_amd64.deb"


@pytest.mark.parametrize(
    "data", [b"no xz", lzma.compress(b"Package: a\n" * 9)[:-20], lzma.compress(b"Package: a\nVersion: 1\n\n")]
)
def test_an_index_that_cannot_be_used_is_refused(tmp_path, data):
    (tmp_path / "Packages.xz").write_bytes(data)
    with pytest.raises(DigestMismatch):
        list(upstream.entries(tmp_path / "Packages.xz", Suite("debian", "trixie"), lambda _: True))


def test_an_index_that_unpacks_to_far_too_much_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(upstream, "MAX_UNPACKED", 1 << 20)
    with pytest.raises(DigestMismatch, match="too long"):
        list(upstream.entries(index(tmp_path, "Package: a\n\n" * (1 << 19)), Suite("debian", "t"), lambda _: False))


def examined(tmp_path, fakes):
    result = []
    for fake in fakes:
        data = fake.build()
        path = tmp_path / fake.file
        path.write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        package = Package(fake.name, fake.version, fake.architecture, len(data), digest, f"debian/pool/{fake.file}")
        result.append(lint.examine(package, path, "amd64"))
    return result


def test_the_repository_lists_every_package_with_its_own_fields(tmp_path):
    fakes = (Fake("zlib1g", version="1:1.3+x-1", fields={"Depends": "libc6", "SHA256": "a lie"}), Fake("adduser"))
    items = examined(tmp_path, fakes)
    listing = repository.packages(items)
    first, second = Packages.iter_paragraphs(listing, use_apt_pkg=False)
    assert (first["Package"], second["Package"]) == ("adduser", "zlib1g")
    assert second["Filename"] == "./zlib1g_1.3+x-1_amd64.deb"
    assert second["SHA256"] == items[0].package.sha256
    assert second["Depends"] == "libc6"
    assert second["Description"] == "zlib1g\n A package."


def test_equal_packages_give_an_equal_repository_in_any_order(tmp_path):
    items = examined(tmp_path, BASIC)
    assert repository.packages(items) == repository.packages(items[::-1])


def test_the_release_says_when_debian_was_so_and_never_ends(tmp_path):
    listing = repository.packages(examined(tmp_path, [Fake("a1")]))
    text = repository.release(listing, target="debian-13-amd64", codename="trixie", arch="amd64", date=WHEN)
    release = Release(text)
    assert release["Date"] == "Sat, 12 Sep 2026 07:55:41 UTC"
    assert "Valid-Until" not in release
    (listed,) = release["SHA256"]
    assert (listed["name"], listed["size"]) == ("Packages", str(len(listing)))
    assert listed["sha256"] == hashlib.sha256(listing).hexdigest()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": "other"}, "its Package is"),
        ({"version": "2.0"}, "its Version is"),
        ({"architecture": "all"}, "its Architecture is"),
    ],
)
def test_a_package_that_calls_itself_otherwise_is_refused(tmp_path, change, fault):
    (item,) = examined(tmp_path, [Fake("good")])
    with pytest.raises(SourceError, match=fault):
        lint.examine(replace(item.package, **change), item.path, "amd64")


def test_a_package_for_another_architecture_is_refused(tmp_path):
    with pytest.raises(SourceError, match="for arm64, the target is amd64"):
        examined(tmp_path, [Fake("good", architecture="arm64")])


def test_the_keys_that_are_pinned_are_fingerprints():
    for release in releases.DEBIAN.values():
        assert len(release.keys) == 3
        assert all(len(key) == 40 and int(key, 16) and key.isupper() for key in release.keys)
        assert release.suites[0].name == release.codename
