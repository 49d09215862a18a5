"""Bundles on FAT32 and exFAT, the file systems of sticks: names, limits, and real images made by mtools."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.carriage import Carriage, tree
from plugsky_bundles.errors import UnsafeName
from plugsky_bundles.format import MAX_CHUNK, blob_path, bundle_dirname, check_evidence_path
from plugsky_bundles.media import open_bundle, open_media
from plugsky_bundles.media_directory import MAX_FILES
from plugsky_bundles.splitting import split_volume
from plugsky_bundles.volume_sets import CLUSTER, LABEL, assign

FORBIDDEN = re.compile(r'[\x00-\x1f"*/:<>?\\|\x7f-\U0010ffff]')
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}
LONGEST_NAME = 255
LARGEST_FILE = (1 << 32) - 1
ENTRIES_OF_A_DIRECTORY = 65_534


def fits(name: str) -> bool:
    """Whether each segment is a name that VFAT and exFAT keep exactly as it is."""
    return all(
        0 < len(segment) <= LONGEST_NAME
        and not FORBIDDEN.search(segment)
        and segment == segment.rstrip(". ")
        and segment.partition(".")[0].lower() not in DEVICES
        for segment in name.split("/")
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Carriage(tmp_path_factory.mktemp("fat"))


ALPHABET = st.one_of(
    st.sampled_from("abzABZ019._+~-/ "), st.sampled_from(list('"*:<>?\\|\x00\n\x7f')), st.characters(codec="utf-8")
)


@given(st.sampled_from(["docs/", "evidence/", "tools/", ""]), st.text(ALPHABET, max_size=40))
def test_every_evidence_name_that_is_allowed_fits(top, rest):
    try:
        check_evidence_path(top + rest)
    except UnsafeName:
        return
    assert fits(top + rest)


DANGEROUS = [
    "docs/con", "docs/NUL.txt", "docs/Com1.a.b", "docs/lpt0", "docs/trailing.", "docs/trailing ", "docs/a:b",
    "docs/a\\b", "docs/a?b", "docs/a*b", "docs/a|b", "docs/a<b", "docs/a>b", 'docs/a"b', "docs/a\x01b", "docs/\u00e9",
    "docs/" + "x" * 256, "docs/.hidden", "docs/~backup", "docs/..", "docs/a//b",
]  # fmt: skip


@pytest.mark.parametrize("name", DANGEROUS)
def test_names_that_sticks_do_not_keep_are_refused_in_evidence(name):
    with pytest.raises(UnsafeName):
        check_evidence_path(name)


@given(st.integers(0, (1 << 256) - 1).map(lambda number: f"{number:064x}"))
def test_every_blob_has_a_name_that_fits_and_that_case_does_not_confuse(digest):
    name = blob_path(digest)
    assert fits(name)
    assert name == name.lower()


def test_everything_that_is_not_evidence_has_names_in_lower_case(made):
    names = [part.name for part in made.verified.contents.parts if part.name not in made.verified.evidence]
    assert all(fits(name) and name == name.lower() for name in [*names, LABEL, bundle_dirname("a" * 32, (1 << 31) - 1)])
    assert len({name.lower() for name in (part.name for part in made.verified.contents.parts)}) == len(
        list(made.verified.contents.parts)
    )


def test_no_blob_name_looks_like_the_short_alias_of_another(made):
    """A short alias has a tilde and at most 8 + 3 characters; no name in `blobs/` or `metadata/` has a tilde."""
    assert not any(
        "~" in part.name for part in made.verified.contents.parts if part.name.startswith(("blobs/", "meta"))
    )


def test_no_chunk_comes_near_the_largest_file_and_no_directory_near_its_limit():
    assert MAX_CHUNK == 64 << 20
    assert MAX_CHUNK * 60 < LARGEST_FILE
    entries_of_a_blob = 1 + -(-len("sha256-" + "0" * 64) // 13)
    assert MAX_FILES / 256 * entries_of_a_blob < ENTRIES_OF_A_DIRECTORY


@pytest.fixture
def stick(tmp_path):
    """An empty FAT32 image, and mtools on it."""
    if shutil.which("mcopy") is None or shutil.which("mformat") is None:
        pytest.skip("mtools is not installed")
    image = tmp_path / "stick.img"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    mtools("mformat", "-F", "-c", "1", "-v", "PLUGSKY", image=image)
    return image


def mtools(command: str, *words, image: Path) -> str:
    done = subprocess.run(
        [command, "-i", str(image), *map(str, words)],
        env={**os.environ, "MTOOLS_SKIP_CHECK": "1", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def back(image: Path, name: str, to: Path) -> Path:
    to.mkdir()
    mtools("mcopy", "-s", "-n", f"::{name}", to, image=image)
    return to / name


@pytest.mark.integration
def test_a_bundle_goes_onto_fat32_and_comes_back_as_it_was(made, stick, tmp_path):
    mtools("mcopy", "-s", made.path, "::", image=stick)
    copy = back(stick, made.path.name, tmp_path / "back")
    assert tree(copy) == tree(made.path)
    assert made.verify(open_bundle(copy)).bundle_id == made.verified.bundle_id


@pytest.mark.integration
def test_the_image_is_a_sound_fat32(made, stick):
    mtools("mcopy", "-s", made.path, "::", image=stick)
    if shutil.which("fsck.fat") is None:
        pytest.skip("dosfstools is not installed")
    checked = subprocess.run(["fsck.fat", "-n", "-v", stick], capture_output=True, text=True, check=True)
    assert "2 FATs, 32 bit entries" in checked.stdout
    assert f"{len(list(made.path.rglob('*'))) + 2} files" in checked.stdout


@pytest.mark.integration
def test_a_name_is_found_in_any_case_and_names_only_one_file(made, stick):
    mtools("mcopy", "-s", made.path, "::", image=stick)
    for part in made.verified.contents.parts:
        shouted = f"::{made.path.name}/{part.name}".upper()
        raw = subprocess.run(
            ["mtype", "-i", stick, shouted],
            env={**os.environ, "MTOOLS_SKIP_CHECK": "1"},
            capture_output=True,
            check=True,
        )
        assert raw.stdout == (made.path / part.name).read_bytes()


@pytest.mark.integration
def test_the_longest_names_keep_every_character(stick, tmp_path):
    longest = tmp_path / "long" / ("docs/" + "A" * 200)
    longest.parent.mkdir(parents=True)
    longest.write_bytes(b"x")
    check_evidence_path("docs/" + "A" * 200)
    mtools("mcopy", "-s", tmp_path / "long", "::", image=stick)
    assert tree(back(stick, "long", tmp_path / "back")) == {"docs/" + "A" * 200: b"x"}


@pytest.mark.integration
def test_volumes_and_a_stream_go_onto_fat32_and_come_back(made, stick, tmp_path):
    size = 24 * CLUSTER
    (tmp_path / "out").mkdir()
    count = len(assign(made.verified.contents, size))
    for number in range(1, count + 1):
        path = split_volume(made.verified, number, size, tmp_path / "out").path
        mtools("mcopy", "-s", path, "::", image=stick)
        copy = back(stick, path.name, tmp_path / f"back{number}")
        assert tree(copy) == tree(path)
        assert made.verify(open_media(copy)).bundle_id == made.verified.bundle_id


@pytest.mark.integration
def test_a_volume_takes_no_more_of_a_stick_than_its_size(made, tmp_path):
    if shutil.which("mcopy") is None or shutil.which("mkfs.fat") is None:
        pytest.skip("mtools or dosfstools is not installed")
    size = 24 * CLUSTER
    (tmp_path / "out").mkdir()
    image = tmp_path / "stick.img"
    with image.open("wb") as file:
        file.truncate(5 << 30)  # sparse: FAT32 has at least 65525 clusters
    subprocess.run(["mkfs.fat", "-F", "32", "-s", "128", image], check=True, capture_output=True)
    before = free_clusters(image)
    path = split_volume(made.verified, 1, size, tmp_path / "out").path
    mtools("mcopy", "-s", path, "::", image=image)
    assert tree(back(image, path.name, tmp_path / "back")) == tree(path)
    assert 0 < (before - free_clusters(image)) * 128 * 512 <= size


def free_clusters(image: Path) -> int:
    """As fsck.fat counts them."""
    told = subprocess.run(["fsck.fat", "-n", image], capture_output=True, text=True, check=True).stdout
    used, of = map(int, re.search(r"([0-9]+)/([0-9]+) clusters", told).groups())
    return of - used
