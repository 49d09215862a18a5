"""What an installation knows of its host before it writes anything, read from real files and file systems."""

import resource
import subprocess

import pytest

from appliance.fresh_site import fresh_paths
from plugsky.fleet import host_facts
from plugsky_bundles.format import MAX_FILE


def test_the_facts_of_this_host_are_there_before_the_site_is(tmp_path):
    facts = host_facts.of(fresh_paths(tmp_path))
    assert facts.memory > 1 << 28
    assert facts.glibc.startswith("2.")
    assert facts.links
    assert facts.apart == ()
    assert not (tmp_path / "site").exists()


def test_the_users_limit_of_file_sizes_counts(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, hard))
    try:
        assert host_facts.of(fresh_paths(tmp_path)).max_file == 1 << 30
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_type_of_a_file_system_is_the_one_the_kernel_names(tmp_path):
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 27 0:99999 / /proc rw - proc proc rw\n"
        f"27 0 {device >> 8 & 0xFFF}:{device & 0xFF | device >> 12 & 0xFFF00} / / rw,relatime - vfat /dev/sda1 rw\n"
    )
    assert host_facts.file_system(tmp_path, mounts) == "vfat"
    mounts.write_text("")
    assert host_facts.file_system(tmp_path, mounts) == ""


def test_a_stick_formatted_with_fat_cannot_become_a_site(tmp_path, monkeypatch):
    monkeypatch.setattr(host_facts, "file_system", lambda _path: "vfat")
    facts = host_facts.of(fresh_paths(tmp_path))
    assert (facts.max_file, facts.links) == (host_facts.FAT_LIMIT, False)


@pytest.mark.integration
def test_a_store_on_another_file_system_is_noticed(tmp_path):
    paths = fresh_paths(tmp_path)
    paths.store.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "tmpfs", str(paths.store)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        facts = host_facts.of(paths)
        assert facts.apart == (str(paths.store),)
        assert facts.max_file == MAX_FILE
    finally:
        subprocess.run(["umount", str(paths.store)], check=True)
