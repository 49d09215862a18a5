"""A disk that fills up while the Python environment is unpacked is named, with how much room it takes."""

import zipfile

import pytest

from plugsky.fleet import venv
from plugsky_bundles.errors import NoSpace
from plugsky_bundles.progress import silent
from plugsky_bundles.readback import file_system

FULL = "import sys; sys.exit('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device')"


@pytest.mark.integration
def test_a_disk_that_is_full_while_unpacking_is_named_with_the_room_that_is_needed(tmp_path):
    pip, big, lock = tmp_path / "pip-1-py3-none-any.whl", tmp_path / "big-1-py3-none-any.whl", tmp_path / "lock.txt"
    with zipfile.ZipFile(pip, "w") as members:
        members.writestr("pip/__init__.py", "")
        members.writestr("pip/__main__.py", FULL)
    with zipfile.ZipFile(big, "w", zipfile.ZIP_DEFLATED) as members:
        members.writestr("big/data", bytes(4_500_000))
    lock.touch()
    (staging := tmp_path / "staging").mkdir()
    with pytest.raises(NoSpace) as refused:
        venv.make(tmp_path / "venv", {file.name: file for file in (pip, big)}, lock, staging, silent)
    mount = file_system(tmp_path).mount
    assert refused.value.what == "The Python environment could not be written"
    assert f"are left on {mount}" in refused.value.why
    assert refused.value.next == f"Free about 4.5 MB on {mount} and run it again"
