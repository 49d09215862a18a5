"""``audit verify``: what it proves of an untouched site, and that it finds and places every way to falsify one."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.proven_site import ProvenSite
from plugsky.access.keys import KeyRecord
from plugsky.access.ledger import Ledger
from plugsky.admin.provenance import custodians, verify_trail
from plugsky.admin.recovery import recover, say_damage
from plugsky.audit import AuditLog, events, log, trail
from plugsky.audit.verify import SiteVerdict
from plugsky.core.principal import Rate


@pytest.fixture
def site(tmp_path: Path) -> Iterator[ProvenSite]:
    site = ProvenSite(tmp_path)
    yield site
    site.close()


def verdict(site: ProvenSite) -> SiteVerdict:
    return verify_trail(site.paths, site.ledger, site.keys, site.clock)


def chain(site: ProvenSite, name: str) -> Path:
    return next(path for path in site.paths.audit.glob(f"*.{name}/{trail.CHAIN_FILE}"))


INVENT = """
    INSERT INTO ledgerentry SELECT ?, tenant, key_id, end_user, requested_model, model, digest, prompt_tokens,
    cached_tokens, completion_tokens, reasoning_tokens, image_tokens, engine_us, service_class, price_list, state,
    outcome, month, reserved_tokens, created_us, settled_us, writer FROM ledgerentry WHERE job = 'job-1'
"""


INVENT_KEY = """
    INSERT INTO apikey (id, tenant, name, digest, models, created_us, expires_us, revoked_us, last_used_us)
    SELECT ?, tenant, name, digest, models, created_us, expires_us, revoked_us, last_used_us FROM apikey
"""


def database(site: ProvenSite, statement: str, *rows: str) -> None:
    with sqlite3.connect(site.paths.database) as connection:
        connection.executemany(statement, [(row,) for row in rows] or [()])
    connection.close()


def test_an_untouched_site_is_proven_from_trust_init_to_the_last_request(site: ProvenSite):
    found = verdict(site)
    assert (found.ok, found.problems) == (True, ())
    names = [finding.chain.split(".")[-1] for finding in found.chains]
    assert names == ["custody of generation 1", "cli", "gateway"]
    assert all(finding.ok for finding in found.chains)
    custody, installed, heads, ledger, keys = found.links
    assert "from trust init" in custody
    assert site.fingerprint[:16] in custody
    assert "installed as generation 1" in installed
    assert "noted of each other" in heads
    assert "2 closed ledger entries (60 tokens) and 2 request records" in ledger
    assert "API keys of the database (1) are as the records" in keys


def test_a_running_site_is_proven_as_well(site: ProvenSite):
    site.record_request("job-3")
    assert verdict(site).ok
    site.close()
    assert verdict(site).ok


def test_a_request_settled_this_moment_may_still_wait_for_its_record(site: ProvenSite):
    site.record_request("job-3", audited=False)
    assert verdict(site).ok
    site.clock.pass_(minutes=1)
    found = verdict(site)
    assert not found.ok
    assert "request job-3 has no audit record" in found.problems[0]


def edit(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert before in data
    path.write_bytes(data.replace(before, after, 1))


def cut_lines(path: Path, keep: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(keep(path.read_bytes().splitlines(keepends=True))))


def request_line(lines: list[bytes]) -> int:
    return next(number for number, line in enumerate(lines) if b"request.done" in line)


FALSIFICATIONS: dict[str, tuple[Callable[[ProvenSite], None], str]] = {
    "tokens of a request lowered in the chain": (
        lambda s: edit(chain(s, "gateway"), b'"completion_tokens":20', b'"completion_tokens":2'),
        "the line before it, or its link to that line, was changed",
    ),
    "a request taken out of the chain": (
        lambda s: cut_lines(chain(s, "gateway"), lambda x: [y for n, y in enumerate(x) if n != request_line(x)]),
        "lines were removed",
    ),
    "two lines swapped": (
        lambda s: cut_lines(chain(s, "gateway"), lambda x: [*x[:2], x[3], x[2], *x[4:]]),
        "lines were reordered",
    ),
    "the chain cut behind an earlier signature": (
        lambda s: cut_lines(chain(s, "gateway"), lambda x: x[: request_line(x)]),
        "request job-1 has no audit record",
    ),
    "the chain of the installation removed": (
        lambda s: shutil.rmtree(chain(s, "cli").parent),
        "the chain was removed, cut or replaced",
    ),
    "the whole trail removed": (
        lambda s: shutil.rmtree(s.paths.audit),
        "the site has no audit chain",
    ),
    "tokens lowered in the ledger": (
        lambda s: database(s, "UPDATE ledgerentry SET completion_tokens = 2 WHERE job = 'job-1'"),
        "differs from its ledger entry in completion_tokens",
    ),
    "a request moved to another tenant in the ledger": (
        lambda s: database(s, "UPDATE ledgerentry SET tenant = 'other' WHERE job = 'job-1'"),
        "differs from its ledger entry in tenant",
    ),
    "a request deleted from the ledger": (
        lambda s: database(s, "DELETE FROM ledgerentry WHERE job = 'job-1'"),
        "request job-1",
    ),
    "a request invented in the ledger": (
        lambda s: database(s, INVENT, "job-9"),
        "request job-9 has no audit record",
    ),
    "a request moved to another time": (
        lambda s: database(s, "UPDATE ledgerentry SET created_us = 7, settled_us = 8 WHERE job = 'job-1'"),
        "differs from its ledger entry in created_us, settled_us",
    ),
    "a request moved to another month": (
        lambda s: database(s, "UPDATE ledgerentry SET month = '2020-01' WHERE job = 'job-1'"),
        "differs from its ledger entry in month",
    ),
    "another end of a request": (
        lambda s: database(s, "UPDATE ledgerentry SET outcome = 'length' WHERE job = 'job-1'"),
        "differs from its ledger entry in outcome",
    ),
    "the month's sum set back": (
        lambda s: database(s, "UPDATE tenantmonth SET used = 0"),
        "the budget of tenant demo in 2026-11 counts 0 tokens as used, and its ledger entries 60",
    ),
    "the month's sum deleted": (
        lambda s: database(s, "DELETE FROM tenantmonth"),
        "counts 0 tokens as used, and its ledger entries 60",
    ),
    "a sum of a month without entries": (
        lambda s: database(s, "INSERT INTO tenantmonth VALUES ('demo', '2031-01', 0, -9)"),
        "in 2031-01 counts -9 tokens as reserved, and its ledger entries 0",
    ),
    "a key invented": (
        lambda s: database(s, INVENT_KEY, "aaaaaaaa"),
        "key aaaaaaaa is in the database, and no record says that it was made",
    ),
    "a key given to another tenant": (
        lambda s: database(s, "UPDATE apikey SET tenant = 'other'"),
        "in tenant",
    ),
    "a key's scope changed": (
        lambda s: database(s, "UPDATE apikey SET models = 'm'"),
        "in models",
    ),
    "a key's life changed": (
        lambda s: database(s, "UPDATE apikey SET expires_us = 9000000000000000000"),
        "in expires_us",
    ),
    "a key revoked behind the trail": (
        lambda s: s.revoke(recorded=False),
        "is revoked in the database, and no record says so",
    ),
    "a used key deleted": (
        lambda s: database(s, "DELETE FROM apikey"),
        "made requests, and is not in the database any more",
    ),
    "the custody log edited": (
        lambda s: edit(s.paths.generations / "1/evidence/custody.jsonl", b"bundle.seal", b"bundle.seat"),
        "custody of generation 1",
    ),
    "the custody log removed": (
        lambda s: (s.paths.generations / "1/evidence/custody.jsonl").unlink(),
        "custody of generation 1: There is no log",
    ),
    "another bundle id in the generation": (
        lambda s: edit(s.paths.generations / "1/bundle.json", b"b" * 64, b"a" * 64),
        "no record of the site names bundle aaaaaaaaaaaaaaaa",
    ),
    "another content in the generation": (
        lambda s: edit(s.paths.generations / "1/bundle.json", b"c" * 64, b"a" * 64),
        "does not name the content aaaaaaaaaaaaaaaa",
    ),
    "another root in the generation": (
        lambda s: edit(s.paths.generations / "1/bundle.json", s.fingerprint.encode(), b"f" * 64),
        "does not lead from trust init to the root",
    ),
    "the site's key removed": (
        lambda s: (s.paths.trust / "site-key.pem").unlink(),
        "the site has no key",
    ),
    "no trusted root": (
        lambda s: s.paths.trust_state.unlink(),
        "which is not trusted here",
    ),
}


@pytest.mark.parametrize(("falsify", "told"), FALSIFICATIONS.values(), ids=FALSIFICATIONS.keys())
def test_a_falsified_site_is_found_out(site: ProvenSite, falsify: Callable[[ProvenSite], None], told: str):
    site.close()
    falsify(site)
    found = verdict(site)
    assert not found.ok
    assert any(told in problem for problem in found.problems), found.problems


def test_a_revoked_key_that_works_again_is_found_out(site: ProvenSite):
    site.revoke()
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()
    database(site, "UPDATE apikey SET revoked_us = revoked_us - 5")
    assert "no record says so of that moment" in verdict(site).problems[0]
    database(site, "UPDATE apikey SET revoked_us = NULL")
    assert "was revoked, and the database lets it in" in verdict(site).problems[0]


def test_a_revocation_that_failed_is_none(site: ProvenSite):
    def fail(key: KeyRecord) -> None:
        site.gateway.record(*events.key_changed(events.KEY_REVOKE, "root(0)", key))
        site.gateway.record(events.KEY_REVOKE, "root(0)", key.id, "failed", {})
        raise KeyError

    with pytest.raises(KeyError):
        site.keys.revoke(site.key.record.id, fail)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()


def replace_key(site: ProvenSite, *, then_fail: bool = False) -> None:
    def witness(old: KeyRecord, new: KeyRecord) -> None:
        site.gateway.record(*events.key_changed(events.KEY_ROTATE, "root(0)", old))
        site.gateway.record(*events.key_changed(events.KEY_CREATE, "root(0)", new))
        if then_fail:
            site.gateway.record(events.KEY_ROTATE, "root(0)", old.id, "failed", {})
            site.gateway.record(events.KEY_CREATE, "root(0)", new.id, "failed", {})
            raise KeyError

    site.keys.rotate(site.key.record.id, 24, witness)


def test_a_replaced_key_is_proven_and_one_that_was_prolonged_is_found_out(site: ProvenSite):
    replace_key(site)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()
    database(site, "UPDATE apikey SET expires_us = expires_us + 5 WHERE replaced_by IS NOT NULL")
    assert "differs from its record" in verdict(site).problems[0]
    assert verdict(site).problems[0].endswith("in expires_us")


def test_a_replacement_that_failed_is_none(site: ProvenSite):
    with pytest.raises(KeyError):
        replace_key(site, then_fail=True)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()


LIFTED = {
    "concurrency": "UPDATE apikey SET concurrency = 100 WHERE endpoints = 'chat'",
    "endpoints": "UPDATE apikey SET endpoints = NULL WHERE endpoints = 'chat'",
    "requests_per_minute": "UPDATE apikey SET requests_per_minute = NULL WHERE endpoints = 'chat'",
}


@pytest.mark.parametrize("change", LIFTED)
def test_a_key_whose_limits_were_lifted_in_the_database_is_found_out(site: ProvenSite, change: str):
    site.keys.create(
        "demo",
        witness=lambda key: site.gateway.record(*events.key_changed(events.KEY_CREATE, "root(0)", key)),
        endpoints=("chat",),
        rate=Rate(requests_per_minute=5),
    )
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()
    database(site, LIFTED[change])
    assert "differs from its record" in verdict(site).problems[0]
    assert change in verdict(site).problems[0]


def test_a_key_whose_making_was_cut_off_is_nobodys_harm(site: ProvenSite):
    def cut(key: KeyRecord) -> None:
        site.gateway.record(*events.key_changed(events.KEY_CREATE, "root(0)", key))
        raise KeyError

    with pytest.raises(KeyError):
        site.keys.create("demo", witness=cut)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()


def test_verifying_makes_nothing(site: ProvenSite):
    site.close()
    shutil.rmtree(site.paths.audit)
    (site.paths.trust / "site-key.pem").unlink()
    verdict(site)
    assert not site.paths.audit.exists()
    assert not (site.paths.trust / "site-key.pem").exists()


def test_many_problems_of_a_kind_are_summed_up(site: ProvenSite):
    site.close()
    database(site, INVENT, *(f"x-{number}" for number in range(30)))
    assert "and 10 more of that kind" in verdict(site).problems


def test_the_custodians_are_the_snapshot_keys_of_the_trusted_root(site: ProvenSite):
    first = json.loads((site.trust / "custody.jsonl").read_bytes().splitlines()[2])
    assert custodians(site.paths) == frozenset(first["record"]["keys"]["snapshot"])


def test_after_a_kill_the_next_start_completes_ledger_and_trail(site: ProvenSite):
    site.record_request("late", audited=False)
    principal = site.keys.authenticate([(b"authorization", f"Bearer {site.key.secret}".encode())])
    site.ledger.reserve(job="open", principal=principal, requested_model="m", model="m", digest="d" * 64, tokens=9)
    site.gateway.close()
    site.clock.pass_(minutes=1)
    assert not verdict(site).ok
    site.gateway = AuditLog.open(site.paths, "gateway", site.clock)
    found = recover(site.paths, site.ledger, site.gateway)
    assert (found.reservations, found.records) == (1, 2)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()
    assert site.ledger.report().open_reservations == 0
    again = recover(site.paths, site.ledger, site.gateway)
    assert (again.reservations, again.records) == (0, 0)


DAMAGES: dict[str, tuple[Callable[[ProvenSite], None], str]] = {
    "a line changed": (
        lambda s: edit(chain(s, "gateway"), b'"completion_tokens":20', b'"completion_tokens":2'),
        "the line before it, or its link to that line, was changed",
    ),
    "the chain removed": (
        lambda s: shutil.rmtree(chain(s, "gateway").parent),
        "stood at line",
    ),
    "nothing": (lambda _s: None, ""),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_gateway_says_at_its_start_what_is_wrong_with_its_chain(
    site: ProvenSite, caplog: pytest.LogCaptureFixture, damage: Callable[[ProvenSite], None], told: str
):
    with AuditLog.open(site.paths, "cli", site.clock):
        site.gateway.close()
    damage(site)
    site.gateway = AuditLog.open(site.paths, "gateway", site.clock)
    say_damage(site.paths, site.gateway.name)
    if told:
        (said,) = caplog.messages
        assert f"the audit chain {site.gateway.name} is damaged" in said
        assert told in said
    else:
        assert caplog.messages == []


def test_a_clock_that_steps_back_doubles_no_record(site: ProvenSite):
    site.clock.pass_(days=-1)
    site.gateway.record("test", "me", "in the past", "ok", {})
    site.clock.pass_(days=1)
    site.record_request("after")
    found = recover(site.paths, site.ledger, site.gateway)
    assert (found.reservations, found.records) == (0, 0)
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()


def test_an_entry_closed_after_the_clock_stepped_back_gets_its_record(site: ProvenSite):
    site.clock.pass_(days=-1)
    site.record_request("late", audited=False)
    site.gateway.close()
    site.gateway = AuditLog.open(site.paths, "gateway", site.clock)
    assert recover(site.paths, site.ledger, site.gateway).records == 1
    site.clock.pass_(days=2)
    assert verdict(site).problems == ()


def test_what_a_host_of_another_name_left_open_is_closed_too(site: ProvenSite, monkeypatch: pytest.MonkeyPatch):
    site.record_request("late", audited=False)
    principal = site.keys.authenticate([(b"authorization", f"Bearer {site.key.secret}".encode())])
    site.ledger.reserve(job="open", principal=principal, requested_model="m", model="m", digest="d" * 64, tokens=9)
    monkeypatch.setattr(log, "host_name", lambda: "renamed")
    renamed = AuditLog.open(site.paths, "gateway", site.clock)
    ledger = Ledger(site.database, site.clock, renamed.name)
    beside = recover(site.paths, ledger, renamed)
    assert (beside.reservations, beside.records) == (0, 0), "its old gateway still runs"
    site.gateway.close()
    found = recover(site.paths, ledger, renamed)
    assert (found.reservations, found.records) == (1, 2)
    assert recover(site.paths, ledger, renamed).records == 0
    renamed.close()
    site.clock.pass_(minutes=1)
    assert verdict(site).problems == ()
    assert site.ledger.report().open_reservations == 0
