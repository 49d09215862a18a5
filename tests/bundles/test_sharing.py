"""A file of the site is its owner's alone; in a set-group-ID directory it is the site's group's as well."""

import os
import stat

import pytest

from plugsky_bundles.sharing import file_mode, is_open_to_others, open_private


@pytest.fixture(params=[0o022, 0o077, 0], ids=["umask 022", "umask 077", "umask 0"], autouse=True)
def umask(request):
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(
    ("folder", "file"),
    [(0o700, 0o600), (0o755, 0o600), (0o770, 0o600), (0o2770, 0o660), (0o2750, 0o640), (0o2700, 0o600)],
    ids=lambda value: f"{value:o}",
)
def test_a_folder_says_who_may_have_what_is_made_in_it(tmp_path, folder, file):
    place = tmp_path / "state"
    place.mkdir()
    place.chmod(folder)
    assert file_mode(place) == file
    os.close(open_private(place / "plugsky.db", os.O_RDWR))
    assert mode(place / "plugsky.db") == file
    assert not is_open_to_others((place / "plugsky.db").stat(), place.stat())


def test_a_file_that_is_there_keeps_its_mode_and_its_bytes(tmp_path):
    tmp_path.chmod(0o2770)
    (tmp_path / "kept").write_text("bytes")
    (tmp_path / "kept").chmod(0o600)
    with os.fdopen(open_private(tmp_path / "kept", os.O_RDWR), "r+") as file:
        assert file.read() == "bytes"
    assert mode(tmp_path / "kept") == 0o600


@pytest.mark.parametrize(("folder", "file"), [(0o700, 0o640), (0o770, 0o660), (0o2770, 0o664), (0o700, 0o604)])
def test_a_file_that_more_may_read_than_its_folder_says_is_open_to_others(tmp_path, folder, file):
    (tmp_path / "pepper").touch()
    (tmp_path / "pepper").chmod(file)
    tmp_path.chmod(folder)
    assert is_open_to_others((tmp_path / "pepper").stat(), tmp_path.stat())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another group")
def test_a_file_of_another_group_is_open_to_others_even_in_a_shared_folder(tmp_path):
    (tmp_path / "pepper").touch()
    os.chown(tmp_path / "pepper", 0, 65534)
    (tmp_path / "pepper").chmod(0o640)
    tmp_path.chmod(0o2770)
    assert is_open_to_others((tmp_path / "pepper").stat(), tmp_path.stat())
