"""Which generations there are, which may go, and what going costs: nothing outside, and nothing that is needed."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.test_installation import MODEL_PATH, Site, site
from appliance.working_site import occupied
from plugsky.audit.trail import search
from plugsky.fleet import generations, health, prune, site_trust
from plugsky.fleet.lock import is_served, serving, site_lock
from plugsky.fleet.survey import survey
from plugsky_bundles.errors import Busy, InstallError, SiteChanged
from plugsky_bundles.state import Revocations

__all__ = ["site"]


def with_three(site: Site) -> list[generations.Generation]:
    """Generations 1 to 3; 3 is current. Each has a playbook of its own."""
    return [site.install(site.bundle(**{f"playbooks__only{n}": b"- hosts: all\n" * 400 * n})) for n in (1, 2, 3)]


def pruned(site: Site, keep: int = 2) -> prune.Plan:
    plan = prune.plan(site.paths, keep)
    prune.prune(site.paths, plan, keep, site.trail, "user:test")
    return plan


def states(site: Site) -> dict[int, str]:
    return {one.number: one.called for one in survey(site.paths)}


def fail(generation: generations.Generation) -> None:
    models = {"m": health.ModelHealth("failed", "x")}
    health.keep(generation.path, health.Verdict("2026-11-22T12:00:00.000000Z", models))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_generation_is_listed_with_its_state_and_none_hides_another(site):
    one, two, _ = with_three(site)
    fail(one)
    (two.path / "bundle.json").unlink()
    (site.paths.generations / "4").mkdir()
    assert states(site) == {1: "failed its health check", 2: "damaged", 3: "current", 4: "unfinished"}
    listed = {item.number: item for item in survey(site.paths)}
    assert (listed[3].channel, listed[3].version, listed[2].channel) == ("demo", 3, "")
    assert "bundle.json" in listed[2].problem


def test_a_current_generation_that_lacks_a_file_is_listed_as_both(site):
    (_, _, three) = with_three(site)
    (three.path / MODEL_PATH).unlink()
    assert states(site)[3] == "current, damaged"
    assert states(site)[2] == "kept"


def test_own_bytes_are_what_would_be_free_without_a_generation(site):
    with_three(site)
    listed = {one.number: one for one in survey(site.paths)}
    before = occupied(site.paths.root)
    pruned(site)
    gone = before - occupied(site.paths.root)
    audit = 64 * 1024  # the trail grew meanwhile
    assert listed[1].own_bytes - audit <= gone <= listed[1].own_bytes
    assert listed[1].shared_bytes > 0


def test_pruning_keeps_the_current_one_and_the_newest_good_ones(site):
    with_three(site)
    generations.activate(site.paths, 1, revocations=generations.Revocations())
    assert prune.plan(site.paths, 1).kept == (1, 3)
    pruned(site, 1)
    assert states(site) == {1: "current", 3: "kept"}
    assert site.install(site.bundle(playbooks__new=b"---\n")).number == 4


def test_the_failed_the_damaged_and_the_unfinished_do_not_count_as_kept(site):
    one, two, three = with_three(site)
    four = site.install(site.bundle(playbooks__only4=b"---\n"))
    fail(three)
    (two.path / MODEL_PATH).unlink()
    (site.paths.generations / "5").mkdir()
    assert pruned(site).kept == (1, 4)
    assert states(site) == {1: "kept", 4: "current"}
    assert one.path.is_dir()
    assert four.path.is_dir()


def revoke(site: Site, revocations: Revocations) -> None:
    believed = site_trust.load(site.paths)
    assert believed is not None
    site_trust.save(site.paths, replace(believed, revocations=revocations))


def test_a_revoked_generation_is_listed_as_such_and_does_not_count_as_kept(site):
    one, two, three = with_three(site)
    revoke(site, Revocations(bundles=frozenset({two.bundle_id})))
    assert states(site) == {1: "kept", 2: "revoked", 3: "current"}
    (problem,) = [item.problem for item in survey(site.paths) if item.number == 2]
    assert "cannot be activated" in problem
    assert two.bundle_id in problem
    assert pruned(site).kept == (1, 3)
    revoke(site, Revocations(digests=frozenset({three.files["playbooks/only3"]})))
    assert states(site) == {1: "kept", 3: "current, revoked"}
    assert prune.plan(site.paths).kept == (1, 3), "what is current stays, whatever it is"
    assert one.path.is_dir()


def test_generations_are_listed_where_what_the_site_believes_is_damaged(site):
    with_three(site)
    site.paths.trust_state.write_bytes(b"{}")
    assert states(site) == {1: "kept", 2: "kept", 3: "current"}


def test_the_store_keeps_what_kept_generations_list_and_nothing_else(site):
    first, _, third = with_three(site)
    (site.paths.store / f"sha256-{'0' * 64}").write_bytes(b"left by an interrupted installation")
    (site.paths.store / f"sha256-{'0' * 64}.chunks").write_bytes(b"its index")
    (site.paths.store / f"sha256-{'1' * 64}.chunks").write_bytes(b"an index without its file")
    (site.paths.store / "a note of somebody").write_bytes(b"")
    pruned(site, 1)
    left = {path.name for path in site.paths.store.iterdir() if not path.name.endswith(".chunks")}
    assert left == {f"sha256-{digest}" for digest in third.files.values()} | {"a note of somebody"}
    indexes = {path.name.removesuffix(".chunks") for path in site.paths.store.glob("*.chunks")}
    assert indexes <= left
    assert set(first.files.values()) - set(third.files.values())


def test_what_is_said_to_be_freed_is_freed(site):
    with_three(site)
    plan = prune.plan(site.paths, 1)
    before = occupied(site.paths.store, site.paths.generations)
    prune.prune(site.paths, plan, 1, site.trail, "user:test")
    assert before - occupied(site.paths.store, site.paths.generations) == plan.freed_bytes > 0


def test_a_file_that_has_a_name_elsewhere_is_not_counted_as_freed(site, tmp_path):
    first, *_ = with_three(site)
    os.link(first.path / "playbooks" / "only1", tmp_path / "a hard link of somebody")
    assert prune.plan(site.paths).freed_bytes < {one.number: one for one in survey(site.paths)}[1].own_bytes


def test_pruning_is_recorded_before_it_happens(site):
    with_three(site)
    plan = prune.plan(site.paths)

    def broken():
        raise OSError

    with pytest.raises(OSError):
        prune.prune(site.paths, plan, 2, broken, "user:test")
    assert len(states(site)) == 3
    pruned(site)
    (record,) = search(site.paths.audit, "", "generation.prune")
    assert (record.fields["generations"], record.fields["freed_bytes"]) == ("1", plan.freed_bytes)


def test_nothing_to_remove_is_said(site):
    site.install(site.bundle())
    plan = prune.plan(site.paths)
    assert plan.idle
    assert plan.kept == (1,)


def test_only_what_was_shown_is_removed(site):
    with_three(site)
    plan = prune.plan(site.paths, 1)
    site.install(site.bundle(playbooks__new=b"---\n"))
    with pytest.raises(SiteChanged):
        prune.prune(site.paths, plan, 1, site.trail, "user:test")
    assert len(states(site)) == 4


def test_nothing_is_removed_while_the_site_is_being_changed(site):
    with_three(site)
    plan = prune.plan(site.paths)
    with site_lock(site.paths.root), pytest.raises(Busy):
        prune.prune(site.paths, plan, 2, site.trail, "user:test")


def test_a_generation_that_a_process_runs_from_stays(site):
    first, *_ = with_three(site)
    with serving(first.path):
        assert is_served(first.path)
        assert states(site)[1] == "kept, served"
        assert prune.plan(site.paths, 1).kept == (1, 3)
    assert not is_served(first.path)
    assert prune.plan(site.paths, 1).kept == (3,)


def test_a_current_generation_whose_needs_are_unknown_lets_nothing_go(site):
    (_, _, third) = with_three(site)
    (third.path / "bundle.json").unlink()
    with pytest.raises(InstallError, match="cannot be known"):
        prune.plan(site.paths)


def test_links_are_removed_and_never_followed(site, tmp_path):
    first, second, _ = with_three(site)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".complete").write_bytes(b"")
    (outside / "precious").write_text("kept")
    (first.path / "playbooks" / "way out").symlink_to(outside)
    shutil.rmtree(second.path)
    second.path.symlink_to(outside)
    assert states(site)[2] == "unfinished"
    assert not is_served(second.path)
    pruned(site, 1)
    assert not os.path.lexists(first.path)
    assert not os.path.lexists(second.path)
    assert sorted(path.name for path in outside.iterdir()) == [".complete", "precious"]


KILLED = """
import os, signal, shutil, subprocess, sys
from pathlib import Path
from plugsky.audit import AuditLog
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, prune
root, run, template = map(Path, sys.argv[1:])
paths = SitePaths.at(root, run)
def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
def pruned():
    prune.prune(paths, prune.plan(paths, 1), 1, lambda: AuditLog.open(paths, "cli", SystemClock()), "user:test")
def killed(nth):
    calls = 0
    def killing(real):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        return call
    for name in ("unlink", "rmdir", "fsync"):
        setattr(os, name, killing(getattr(os, name)))
    pruned()
whole = contents(template / "generations" / "3")
nth, status = 0, -1
while status:
    nth += 1
    shutil.rmtree(root)
    subprocess.run(["cp", "-a", template, root], check=True)
    if not (child := os.fork()):
        killed(nth)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    assert generations.current(paths).number == 3
    assert contents(root / "generations" / "3") == whole
    if not prune.plan(paths, 1).idle:
        pruned()
    assert [g.number for g in generations.complete(paths)] == generations.numbers(paths) == [3]
    wanted = {f"sha256-{digest}" for digest in generations.current(paths).digests}
    assert {path.name.removesuffix(".chunks") for path in paths.store.iterdir()} == wanted
print(nth)
"""


@pytest.mark.integration
def test_pruning_that_is_killed_anywhere_leaves_a_working_site_and_is_finished_by_the_next(site, tmp_path):
    with_three(site)
    template = tmp_path / "template"
    subprocess.run(["cp", "-a", site.paths.root, template], check=True)
    arguments = [str(part) for part in (site.paths.root, site.paths.run, template)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20, "it was killed in many places"


def test_the_first_start_of_a_site_may_come_after_pruning(site):
    from plugsky.admin.first_use import was_used

    with_three(site)
    pruned(site, 1)
    assert not was_used(site.paths)


def test_a_damaged_generation_is_a_problem_of_the_trails_verdict_and_hides_no_other(site, tmp_path):
    from appliance.fresh_site import fresh_database
    from appliance.hand_clock import HandClock
    from plugsky.access.keys import Keys
    from plugsky.access.ledger import Ledger
    from plugsky.admin.provenance import verify_trail

    first, *_ = with_three(site)
    database = fresh_database(site.paths.database)
    clock = HandClock()
    keys = Keys.open(database, site.paths, clock)
    ledger = Ledger(database, clock, "gateway")
    assert verify_trail(site.paths, ledger, keys, clock).ok
    (first.path / "bundle.json").unlink()
    verdict = verify_trail(site.paths, ledger, keys, clock)
    assert [problem for problem in verdict.problems if "generation 1 is damaged" in problem]
    assert any("generation 2" in link for link in verdict.links)
    pruned(site)
    assert verify_trail(site.paths, ledger, keys, clock).ok
    database.close()


def test_a_directory_that_is_no_generation_is_not_touched(site):
    with_three(site)
    for name in ("0", "01", "notes", "99999999999"):
        (site.paths.generations / name).mkdir()
    pruned(site, 1)
    assert sorted(path.name for path in site.paths.generations.iterdir()) == ["0", "01", "3", "99999999999", "notes"]


def test_a_plan_is_made_in_a_site_without_a_store(tmp_path):
    site = Site(tmp_path)
    assert survey(site.paths) == ()
    assert prune.plan(site.paths) == prune.Plan((), (), (), 0)
    assert not Path(site.paths.root).exists()
