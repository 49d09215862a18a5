"""The plan: what is copied and what is held, how much room it takes, and that its digest stands for exactly that."""

import dataclasses

import pytest

from bundles.forge import FILES, NOW, Forge
from plugsky_bundles.errors import NoSpace, NotForThisHost
from plugsky_bundles.format import FileEntry
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import MARGIN, SiteFacts, plan_install
from plugsky_bundles.verify import verify_metadata

FRESH = SiteFacts(
    store={},
    staged={},
    free_bytes=1 << 40,
    free_inodes=1 << 20,
    next_generation=1,
    installed={},
    python="3.11",
    machine="x86_64",
)
SIZE = sum(len(data) for data in FILES.values())


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    forge = Forge(tmp_path_factory.mktemp("plan"))
    return verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW)


def with_lock(verified, **custom):
    """The bundle as if it carried Python parts for some host."""
    lock = FileEntry("python/requirements.txt", 0, "0" * 64, (), custom)
    return dataclasses.replace(verified, entries={**verified.entries, lock.path: lock})


def test_a_fresh_site_copies_everything_into_generation_1(verified):
    plan = plan_install(verified, FRESH)
    assert (plan.generation, plan.installed) == (1, False)
    assert {file.path for file in plan.copied} == set(FILES)
    assert (plan.read_bytes, plan.write_bytes) == (SIZE, SIZE)
    assert plan.need_bytes == SIZE + MARGIN


def test_files_in_the_store_are_not_copied_again(verified):
    held = verified.entries["models/tiny/tiny.gguf"]
    plan = plan_install(verified, dataclasses.replace(FRESH, store={held.sha256: held.length}, next_generation=4))
    assert plan.generation == 4
    assert held.path not in {file.path for file in plan.copied}
    assert plan.write_bytes == SIZE - held.length


def test_a_file_in_the_store_with_another_length_is_copied_again(verified):
    held = verified.entries["models/tiny/tiny.gguf"]
    plan = plan_install(verified, dataclasses.replace(FRESH, store={held.sha256: held.length - 1}))
    assert plan.write_bytes == SIZE


def test_the_installed_bundle_needs_nothing(verified):
    plan = plan_install(verified, dataclasses.replace(FRESH, installed={verified.bundle_id: 7}, free_bytes=0))
    assert (plan.installed, plan.generation, plan.need_bytes) == (True, 7, 0)
    assert (plan.read_bytes, plan.write_bytes) == (0, 0)


def test_too_little_space_is_refused_with_the_numbers(verified):
    with pytest.raises(NoSpace, match=r"it needs 67\.\d MB, 3\.1 MB are free") as caught:
        plan_install(verified, dataclasses.replace(FRESH, free_bytes=3 << 20))
    assert caught.value.exit_code == 1


def test_too_few_inodes_are_refused_with_the_numbers(verified):
    with pytest.raises(NoSpace, match="inodes, 3 are free"):
        plan_install(verified, dataclasses.replace(FRESH, free_inodes=3))


def test_what_an_interrupted_run_staged_needs_no_room_twice(verified):
    staged = {entry.sha256: entry.length for entry in verified.entries.values()}
    assert plan_install(verified, dataclasses.replace(FRESH, staged=staged)).need_bytes == MARGIN


def test_unpacked_wheels_count_twice_for_their_bytecode(verified):
    lock = with_lock(verified, python="3.11", machine="x86_64", unpacked=1000, members=3)
    assert plan_install(lock, FRESH).venv_bytes == 2000


@pytest.mark.parametrize("host", [{"python": "3.13"}, {"machine": "aarch64"}])
def test_parts_for_another_host_are_refused(verified, host):
    lock = with_lock(verified, python="3.11", machine="x86_64")
    assert plan_install(lock, FRESH)
    with pytest.raises(NotForThisHost, match=r"for Python 3\.11 on x86_64"):
        plan_install(lock, dataclasses.replace(FRESH, **host))


def test_the_digest_changes_with_what_is_done_and_not_with_the_free_space(verified):
    plan = plan_install(verified, FRESH)
    assert plan.to_json()["digest"] == plan.digest
    assert plan_install(verified, dataclasses.replace(FRESH, free_bytes=1 << 41, staged={"0": 1})).digest == plan.digest
    held = verified.entries["models/tiny/tiny.gguf"]
    others = [
        dataclasses.replace(FRESH, next_generation=2),
        dataclasses.replace(FRESH, store={held.sha256: held.length}),
        dataclasses.replace(FRESH, installed={verified.bundle_id: 1}),
    ]
    assert len({plan.digest, *(plan_install(verified, facts).digest for facts in others)}) == 4
