"""A bundle on several sticks or discs: what lies where is computed, found or asked for, and never believed."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles.carriage import FILES, Carriage, flip, tree
from plugsky_bundles.errors import (
    BlobMissing,
    BundleError,
    DigestMismatch,
    UnlistedFile,
    VerificationError,
    VolumeDuplicated,
    VolumeForeign,
    VolumeMissing,
    VolumeMixed,
    VolumeStale,
    VolumeTooSmall,
)
from plugsky_bundles.format import blob_path
from plugsky_bundles.forward_read import read_parts, verify_forward
from plugsky_bundles.media import open_media
from plugsky_bundles.splitting import split_volume
from plugsky_bundles.volume_sets import CLUSTER, LABEL, Label, assign, parse_size

SIZE = 24 * CLUSTER


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Carriage(tmp_path_factory.mktemp("volumes"))


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return [split(made, number, out) for number in range(1, len(assign(made.verified.contents, SIZE)) + 1)]


def split(made, number: int, out: Path, size: int = SIZE) -> Path:
    return split_volume(made.verified, number, size, out).path


@pytest.fixture
def volumes(written, tmp_path):
    assert len(written) >= 3
    return [Path(shutil.copytree(path, tmp_path / "here" / path.name)) for path in written]


class Person:
    """Somebody who brings volumes when asked."""

    def __init__(self, *answers) -> None:
        self.answers, self.heard = list(answers), []

    def __call__(self, wanted):
        self.heard.append(wanted)
        answer = self.answers.pop(0) if self.answers else None
        return answer() if callable(answer) else answer


def relabel(volume: Path, /, **changes) -> None:
    label = json.loads((volume / LABEL).read_bytes()) | changes
    (volume / LABEL).write_bytes(json.dumps(label, sort_keys=True, separators=(",", ":")).encode())


def test_each_volume_has_metadata_what_is_early_and_its_share(made, written):
    contents = made.verified.contents
    everywhere = {part.name for part in contents.in_every_volume} | {LABEL}
    shares = [set(tree(path)) for path in written]
    assert all(everywhere <= share for share in shares)
    payload = [share - everywhere for share in shares]
    assert payload[0] >= set(contents.evidence)
    assert set().union(*payload) == set(contents.evidence) | {part.name for part in contents.payload_parts}
    assert sum(map(len, payload)) == len(contents.evidence) + len(contents.payload)


def test_volumes_are_the_same_whenever_they_are_written(made, written, tmp_path):
    assert tree(split(made, 2, tmp_path)) == tree(written[1])


def test_a_volume_can_be_split_again_from_the_volumes(made, written, tmp_path):
    media = open_media(written[0])
    verified = made.verify(media)
    again = [split_volume(verified, number, SIZE + CLUSTER, tmp_path).path for number in (1, 2)]
    assert made.verify(open_media(again[0])).bundle_id == made.verified.bundle_id


def test_all_volumes_together_are_the_bundle(made, volumes):
    for first in volumes:
        verified = made.verify(open_media(first))
        assert verified.content_id == made.verified.content_id
        assert verify_forward(verified) == ("models/zebra/zebra.gguf",)


def test_a_volume_alone_is_judged_by_itself(made, written, tmp_path):
    for number, path in enumerate(written, start=1):
        alone = Path(shutil.copytree(path, tmp_path / str(number) / "deep" / "er" / path.name))
        media = open_media(alone)
        verified = made.verify(media)
        assert media.here() == [number]
        read_parts(verified, media.sets[number - 1])
        assert f"volume {number} of {len(written)} holds exactly its part" in " ".join(verified.checks)


def test_the_next_volume_is_found_on_media_mounted_beside(made, written, tmp_path):
    for number, path in enumerate(written, start=1):
        shutil.copytree(path, tmp_path / "media" / f"usb{number}" / path.name)
    verify_forward(made.verify(open_media(tmp_path / "media/usb1" / written[0].name)))


def test_the_next_volume_is_found_where_a_disc_is_the_volume(made, written, tmp_path):
    for number, path in enumerate(written, start=1):
        shutil.copytree(path, tmp_path / "media" / f"disc{number}")
    verify_forward(made.verify(open_media(tmp_path / "media/disc2")))


def test_the_next_disc_in_the_same_drive_is_asked_for_and_taken(made, written, tmp_path):
    drive = tmp_path / "deep" / "er" / "drive"

    def insert(path):
        def swap():
            shutil.rmtree(drive)
            shutil.copytree(path, drive)
            return drive

        return swap

    shutil.copytree(written[0], drive)
    person = Person(*map(insert, written[1:]))
    verify_forward(made.verify(open_media(drive, person)))
    assert [(wanted.number, wanted.of) for wanted in person.heard] == [
        (number, len(written)) for number in range(2, len(written) + 1)
    ]
    assert person.answers == []


def test_a_mount_point_is_a_good_answer_and_a_wrong_disc_is_said_and_asked_again(made, written, tmp_path):
    for number, path in enumerate(written, start=1):
        shutil.copytree(path, tmp_path / str(number) / "deep" / "er" / path.name)
    places = [tmp_path / str(number) / "deep/er" for number in range(1, len(written) + 1)]
    (tmp_path / "empty").mkdir()
    person = Person(tmp_path / "empty", places[2], places[1], *places[2:])
    verify_forward(made.verify(open_media(places[0] / written[0].name, person)))
    assert [bool(wanted.problem) for wanted in person.heard[:3]] == [False, True, True]
    assert "no volume" in person.heard[1].problem
    assert "is volume 3" in person.heard[2].problem


def test_a_missing_volume_is_named_and_says_where_it_was_looked_for(made, volumes):
    shutil.rmtree(volumes[1])
    with pytest.raises(VolumeMissing, match=f"Volume 2 of {len(volumes)}") as caught:
        verify_forward(made.verify(open_media(volumes[0])))
    assert caught.value.exit_code == 5


def test_other_peoples_media_beside_are_no_error(made, volumes, monkeypatch):
    (volumes[0].parent / "somebody").mkdir()
    real = Path.is_file

    def forbidden(self):
        if "somebody" in self.parts:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self)

    monkeypatch.setattr(Path, "is_file", forbidden)
    verify_forward(made.verify(open_media(volumes[0])))


def test_volumes_that_are_not_needed_are_not_asked_for(made, volumes):
    shutil.rmtree(volumes[1])
    media = open_media(volumes[0])
    last = made.verify(media).contents.payload[-1]
    with media.open(blob_path(last.sha256)) as file:
        assert len(file.read()) == last.length


def other_version(made, version: int) -> Carriage:
    other = Carriage.__new__(Carriage)
    other.forge = made.forge
    path = made.seal(version=version, files={**FILES, "policy/channel.json": b'{"v":2}'}, name=f"v{version}")
    other.path, other.verified = path, made.verify(open_media(path))
    return other


def test_a_stale_volume_is_refused_by_name(made, volumes):
    other = other_version(made, 5)
    shutil.rmtree(volumes[1])
    split(other, 2, volumes[0].parent).rename(volumes[1])
    with pytest.raises(VolumeStale, match="version 5"):
        verify_forward(made.verify(open_media(volumes[0])))


def test_a_foreign_volume_is_refused_by_name(made, volumes, tmp_path):
    other = Carriage(tmp_path / "other")
    other.path = other.seal(channel="harvest")
    other.verified = other.verify(open_media(other.path))
    shutil.rmtree(volumes[1])
    split(other, 2, volumes[0].parent).rename(volumes[1])
    with pytest.raises(VolumeForeign, match="harvest"):
        verify_forward(made.verify(open_media(volumes[0])))


def test_a_volume_twice_is_refused_by_name(made, volumes):
    shutil.copytree(volumes[1], volumes[1].with_name("again"))
    with pytest.raises(VolumeDuplicated, match="here twice"):
        verify_forward(made.verify(open_media(volumes[0])))


def test_a_volume_in_another_ones_place_is_refused_by_name(made, volumes):
    shutil.rmtree(volumes[1])
    shutil.move(volumes[2], volumes[1])
    with pytest.raises(VolumeDuplicated, match="is volume 3"):
        verify_forward(made.verify(open_media(volumes[0])))


def test_volumes_of_two_splittings_do_not_mix(made, volumes):
    shutil.rmtree(volumes[1])
    split(made, 2, volumes[0].parent, SIZE + CLUSTER)
    with pytest.raises(VolumeMixed, match="another way"):
        verify_forward(made.verify(open_media(volumes[0])))


def test_metadata_of_another_bundle_on_a_volume_is_refused(made, volumes):
    other = other_version(made, 6)
    shutil.rmtree(volumes[1] / "metadata")
    shutil.copytree(other.path / "metadata", volumes[1] / "metadata")
    with pytest.raises(VolumeMixed, match="metadata"):
        verify_forward(made.verify(open_media(volumes[0])))


LIES = {
    "another number": ({"volume": 2}, (BlobMissing, UnlistedFile)),
    "a number beyond the last": ({"volume": 900}, VolumeMixed),
    "more volumes": ({"of": 77}, VolumeMixed),
    "another size": ({"size": SIZE * 3}, VerificationError),
    "a size beyond all bounds": ({"size": 1 << 52}, VolumeMixed),
    "a size of zero": ({"size": 0}, VolumeMixed),
    "a size of one": ({"size": 1}, BundleError),
    "another bundle": ({"bundle_id": "0" * 64}, VolumeMixed),
    "no bundle": ({"bundle_id": "../x"}, VolumeMixed),
    "another schema": ({"schema": "plugsky.volume/2"}, VolumeMixed),
    "a field more": ({"trust": "me"}, VolumeMixed),
    "a number that is a word": ({"volume": "1"}, VolumeMixed),
    "a number that is true": ({"volume": True}, VolumeMixed),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_label_that_lies_is_found_out(made, volumes, lie):
    changes, error = LIES[lie]
    relabel(volumes[0], **changes)
    with pytest.raises(error):
        made.verify(open_media(volumes[0]))


DAMAGE = {
    "a file too many": (lambda volume: (volume / "hello.txt").write_text("x"), UnlistedFile),
    "an empty directory": (lambda volume: (volume / "docs").mkdir(), UnlistedFile),
    "a blob of another volume": (
        lambda volume: shutil.copy(_blob(volume), volume / "blobs" / _blob(volume).name),
        UnlistedFile,
    ),
    "a blob taken away": (lambda volume: _blob(volume).unlink(), BlobMissing),
    "a blob cut short": (lambda volume: os.truncate(_blob(volume), 5), DigestMismatch),
    "a changed byte": (lambda volume: flip(_blob(volume)), DigestMismatch),
}


def _blob(volume: Path) -> Path:
    return max((volume / "blobs").rglob("sha256-*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_volume_is_refused(made, volumes, damage):
    harm, error = DAMAGE[damage]
    harm(volumes[1])
    with pytest.raises(error):
        verify_forward(made.verify(open_media(volumes[0])))


def test_a_size_that_one_chunk_exceeds_is_refused_with_the_smallest_that_would_do(made):
    with pytest.raises(VolumeTooSmall, match="--size") as caught:
        assign(made.verified.contents, 5 * CLUSTER)
    assert caught.value.exit_code == 2
    smallest = int(caught.value.next.rpartition(" ")[2])
    assign(made.verified.contents, smallest)
    with pytest.raises(VolumeTooSmall):
        assign(made.verified.contents, smallest - 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(19, 80))
def test_every_part_has_one_place_and_no_volume_is_overfull(made, clusters):
    contents = made.verified.contents
    try:
        sets = assign(contents, clusters * CLUSTER)
    except VolumeTooSmall:
        return
    common = {part.name for part in contents.in_every_volume}
    shares = [[part for part in parts if part.name not in common] for parts in sets]
    flat = [part for share in shares for part in share]
    assert flat == [*contents.evidence_parts, *contents.payload_parts]
    for parts in sets:
        directories = {parent for part in parts for parent in Path(part.name).parents} - {Path()}
        on_media = sum(-(-part.length // CLUSTER) * CLUSTER for part in parts) + CLUSTER * (len(directories) + 2)
        assert on_media <= clusters * CLUSTER


@given(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(1, 999), st.integers(1, 1 << 50))
def test_a_label_is_read_as_it_was_written(bundle_id, of, size):
    label = Label(bundle_id, 1, of, size)
    assert Label.from_json(label.to_json(), "it") == label


@given(st.binary(max_size=200))
def test_no_bytes_make_a_label_raise_anything_but_a_named_error(data):
    with pytest.raises(VerificationError):
        Label.from_json(data, "it")


@pytest.mark.parametrize(
    ("text", "count"),
    [("25G", 25 * 10**9), ("4.7G", 4_700_000_000), ("700M", 700_000_000), ("64MiB", 64 << 20), ("2t", 2 * 10**12),
     ("1024", 1024), ("8 GB", 8 * 10**9), ("1.5Ki", 1536), ("", None), ("G", None), ("-1G", None), ("1e9", None),
     ("0x10", None), ("4,7G", None), ("٣G", None)],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text, count):
    assert parse_size(text) == count
