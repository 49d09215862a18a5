"""An installation that is killed, or whose disk or medium fails, at any of its file system calls.

How many calls there are, and so how many cases, is counted in a clean run. After each case: the generation that ran
before runs, whole, or the new one does; no file in the store has wrong bytes; staging holds nothing that a later run
cannot go on from; and running it again comes to its end.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from bundles.syscalls import CHANGES, SYNCS, Call, Point, drive, library, normalised, points, sampled

MEMORY = Path("/dev/shm")  # noqa: S108 - the folders made there are private and temporary
TRACED = (
    *("creat", "open", "openat", "write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile"),
    *("splice", "truncate", "ftruncate", "fallocate", "rename", "renameat", "renameat2", "link", "linkat", "symlink"),
    *("symlinkat", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat", "fsync"),
    *("fdatasync", "syncfs", "stat", "newfstatat", "statx"),  # the last three for the driver's marks
)
EFFECTS = {
    "kill": "killed",
    "EIO": ("refused", "installed"),
    "ENOSPC": ("refused", "installed"),
    "short": "installed",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def place(tmp_path):
    """A folder in memory where there is one: what is looked for does not depend on the disk, and fsync is free."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < 1 << 30:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.mark.integration
@pytest.mark.parametrize("effect", EFFECTS)
def test_an_installation_survives_at_every_system_call(built, place, effect):
    counted, *cases = drive("bundles.install_faults", built, place, effect)
    assert counted["calls"] > 300
    assert len(cases) == counted["cases"] > 50
    wrong = [case for case in cases if case["wrong"] or not case["said"].startswith(EFFECTS[effect])]
    assert not wrong, json.dumps(wrong[:10], indent=1)


@pytest.mark.integration
def test_no_call_that_changes_anything_escapes_the_count(built, tmp_path):
    """strace(1) sees what the kernel sees: every call that changes a file must be one that the library saw too."""
    if shutil.which("strace") is None:
        pytest.skip("no strace here")
    log = tmp_path / "log"
    tracing = [
        "strace",
        "-f",
        "-qq",
        "-y",
        "-s",
        "0",
        "-e",
        f"trace={','.join(TRACED)}",
        "-e",
        "signal=none",
        "-o",
        str(log),
    ]
    if subprocess.run([*tracing, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("strace may not trace here")
    (counted,) = drive("bundles.install_faults", built, tmp_path, "count", before=tracing)
    assert counted["changes"] == seen_by_the_kernel(log.read_text(), counted["site"])


def seen_by_the_kernel(log: str, site: str) -> int:
    """Calls that change something below `site`, between the marks that the driver set around one installation."""
    lines = log.partition("plugsky-mark-begin")[2].partition("plugsky-mark-end")[0].splitlines()
    changing = [line for line in lines if site in line and "resumed>" not in line]
    looks = (" openat(", " open(", " stat(", " newfstatat(", " statx(")
    return sum("O_CREAT" in line or not any(look in line for look in looks) for line in changing)


def test_a_point_is_the_same_whatever_random_names_a_run_chooses():
    def run(name: str) -> list[Call]:
        paths = (f"/s/.state.json.{name}.part", "/s/a", f"/s/.state.json.{name}.part")
        return [Call("write", path, "", 1, 0, 0, 0, b"") for path in paths]

    runs = [run("0" * 16), run("9" * 16)]
    assert points(runs[0]) == points(runs[1])
    assert points(runs[0])[2] == Point("write", "/s/.state.json.*.part", 1)
    assert normalised("/a/1234567/sha256-" + "0" * 64) == "/a/1234567/sha256-*"


def test_of_a_long_run_of_one_call_the_first_the_last_and_some_between_are_taken():
    run = [Point("write", "/a", n) for n in range(100)]
    assert [point.ordinal for point in sampled(run, 4)] == [0, 33, 66, 99]
    assert sampled(run[:3], 4) == run[:3]
    assert set(CHANGES).isdisjoint(SYNCS)
