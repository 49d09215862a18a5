"""The first use of a site makes its database and pepper; whatever is lost later is named, never replaced."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.fresh_site import fresh_paths
from appliance.hand_clock import HandClock
from plugsky.admin.first_use import opened_state, was_used
from plugsky.audit import AuditLog, events
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.state import open_database


@pytest.fixture
def paths(tmp_path: Path) -> SitePaths:
    """A site that was installed and never used."""
    paths = fresh_paths(tmp_path)
    with AuditLog.open(paths, "cli", HandClock()) as log:
        log.record(events.INSTALL, "root(0)", "demo-1", "ok", {"generation": 1})
    return paths


def use(paths: SitePaths) -> str:
    with opened_state(paths, HandClock()) as (_, keys), AuditLog.open(paths, "cli", HandClock()) as log:
        return keys.create(
            "demo", witness=lambda key: log.record(events.KEY_CREATE, "root(0)", key.id, "ok", {})
        ).secret


def opens(paths: SitePaths, key: str) -> str:
    with opened_state(paths, HandClock()) as (_, keys):
        return keys.authenticate([(b"authorization", f"Bearer {key}".encode())]).tenant


def test_a_site_that_was_only_installed_may_begin(paths: SitePaths):
    assert not was_used(paths)
    key = use(paths)
    assert was_used(paths)
    assert opens(paths, key) == "demo"


def test_a_gateway_that_started_and_stopped_has_not_used_the_site(paths: SitePaths):
    AuditLog.open(paths, "gateway", HandClock()).close()
    assert not was_used(paths)


INTERRUPTED: dict[str, Callable[[SitePaths], None]] = {
    "before the directory": lambda _paths: None,
    "before the database": lambda paths: paths.state.mkdir(),
    "before its schema": lambda paths: (paths.state.mkdir(), paths.database.touch(0o600)),
    "before the pepper": lambda paths: open_database(paths.database).close(),
}


@pytest.mark.parametrize("interrupt", INTERRUPTED.values(), ids=INTERRUPTED.keys())
def test_a_first_start_that_was_interrupted_may_begin_again(paths: SitePaths, interrupt: Callable[[SitePaths], None]):
    interrupt(paths)
    assert opens(paths, use(paths)) == "demo"


def _remove(paths: SitePaths, *names: str) -> None:
    for name in names:
        for path in paths.state.glob(name):
            path.unlink()


def _empty(paths: SitePaths) -> None:
    _remove(paths, "plugsky.db*")
    paths.database.touch(0o600)


LOSSES: dict[str, Callable[[SitePaths], None]] = {
    "the database": lambda paths: _remove(paths, "plugsky.db*"),
    "the pepper": lambda paths: _remove(paths, "pepper"),
    "the whole state": lambda paths: _remove(paths, "*"),
    "what the database held": _empty,
    "all but a byte of the pepper": lambda paths: (paths.state / "pepper").write_bytes(b"x"),
}


@pytest.mark.parametrize("lose", LOSSES.values(), ids=LOSSES.keys())
def test_what_a_used_site_lost_is_named_and_not_made_again(paths: SitePaths, lose: Callable[[SitePaths], None]):
    key = use(paths)
    lose(paths)
    left = {path.name: path.read_bytes() for path in paths.state.iterdir() if path.suffix != ".lock"}
    with pytest.raises(PlugskyError) as refused:
        opens(paths, key)
    assert refused.value.kind is ErrorKind.TAMPERED
    assert str(paths.state) in refused.value.why
    assert "backup" in refused.value.next
    for name in ("pepper", "plugsky.db"):
        path = paths.state / name
        assert path.exists() == (name in left)
    if "pepper" in left:
        assert (paths.state / "pepper").read_bytes() == left["pepper"]


def test_a_trail_that_cannot_be_read_is_not_one_of_a_new_site(paths: SitePaths):
    chain = next(paths.audit.glob("*/chain.jsonl"))
    chain.write_bytes(chain.read_bytes() + b"no record\n")
    assert was_used(paths)
