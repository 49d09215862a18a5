"""The Admin verbs: who may, what they answer, and that every write leaves its record first."""

import asyncio
import gc
import inspect
import pwd
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from appliance.admin_site import REQUEST, TRAFFIC, AdminSite
from plugsky.access.people import People
from plugsky.admin.api import Admin, Home
from plugsky.admin.assembly import admin_service
from plugsky.admin.client import AdminClient
from plugsky.admin.server import operator_of
from plugsky.admin.service import OperatorAdmin
from plugsky.admin.verb_table import VERBS
from plugsky.admin.verbs import signature
from plugsky.audit import trail
from plugsky.core import settings
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Operator, Role
from plugsky.state import Database
from plugsky_bundles.errors import MalformedMetadata

CALLS: dict[str, dict[str, Any]] = {
    "watch_home": {"interval_s": 1.0},
    "request_cancel": {"job": REQUEST.job},
    "key_create": {"tenant": "demo"},
    "key_revoke": {"key_id": "nothere1"},
    "key_rotate": {"key_id": "nothere1"},
    "tenant_set": {"tenant": "demo", "terms": {"weight": 2}},
    "alias_set": {"name": "gpt-4o", "model": "m"},
    "alias_remove": {"name": "gpt-4o"},
    "person_set": {"account": "nobody", "role": "viewer"},
    "person_remove": {"account": "nobody"},
    "login_begin": {"name": "nobody", "password": "x", "code": "000000"},
    "login_end": {"token": "x"},
    "login_password": {"name": "nobody", "password": "x", "code": "000000", "new": "a longer password"},
    "login_add": {"name": "alice", "role": "viewer"},
    "login_role": {"name": "alice", "role": "viewer"},
    "login_reset": {"name": "alice"},
    "login_remove": {"name": "alice"},
}


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AdminSite]:
    site = AdminSite(tmp_path)
    yield site
    site.close()


async def run(admin: Any, verb: str, **arguments: Any) -> Any:
    answer = getattr(admin, verb)(**arguments)
    return await anext(answer) if VERBS[verb].streams else await answer


def actions(site: AdminSite) -> list[tuple[str, str, str]]:
    found = trail.search(site.past.paths.audit, limit=1000)
    return [(r.action, r.subject, r.outcome) for r in reversed(found) if r.chain.endswith(".admin")]


def test_protocol_table_service_and_client_have_the_same_verbs():
    verbs = {name for name, _ in inspect.getmembers(Admin, inspect.isfunction) if not name.startswith("_")}
    assert verbs == set(VERBS)
    for holder in (OperatorAdmin, AdminClient):
        for name in verbs:
            ours, theirs = (inspect.signature(getattr(kind, name)).parameters for kind in (holder, Admin))
            assert list(ours.items()) == list(theirs.items()), (holder, name)


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
async def test_a_role_may_run_its_verbs_and_no_other(site: AdminSite, verb, role: Role):
    admin = site.as_(role)
    allowed = role.covers(verb.role)
    try:
        await run(admin, verb.name, **CALLS.get(verb.name, {}))
        answered = True
    except PlugskyError as error:
        answered = error.kind is not ErrorKind.FORBIDDEN
    assert answered is allowed


async def test_a_refused_write_is_recorded(site: AdminSite):
    with pytest.raises(PlugskyError) as refused:
        await site.as_(Role.VIEWER).key_create("demo")
    assert "needs the role admin; yours is viewer" in refused.value.why
    assert actions(site)[-1] == ("key.create", "demo", "forbidden")
    assert len(site.past.keys.list()) == 1


async def test_a_new_key_works_and_its_record_names_who_made_it(site: AdminSite):
    made = await site.as_(Role.ADMIN).key_create("treasury", "reports", ("m",), 30)
    principal = site.past.keys.authenticate([(b"authorization", f"Bearer {made.secret}".encode())])
    assert (principal.tenant, principal.models) == ("treasury", {"m"})
    assert made.expires == "2026-12-22T17:01:00.000000Z"
    record = trail.search(site.past.paths.audit, action="key.create")[0]
    assert (record.actor, record.subject, record.outcome) == ("admin(1003)", made.id, "ok")
    (key,) = site.past.keys.list("treasury")
    times = {"created_us": key.created_us, "expires_us": key.expires_us, "revoked_us": None}
    assert record.fields == {"tenant": "treasury", "name": "reports", "models": "m", **times}
    assert made.secret not in "".join(path.read_text() for path in site.past.paths.audit.rglob("*.jsonl"))


async def test_a_key_for_a_model_that_is_not_there_is_refused_and_names_those_that_are(site: AdminSite):
    before = site.past.keys.list()
    with pytest.raises(PlugskyError, match="'nope' is not on this site") as refused:
        await site.as_(Role.ADMIN).key_create("treasury", "reports", ("m", "nope"))
    assert refused.value.kind is ErrorKind.MODEL_NOT_FOUND
    assert refused.value.why == "its models are m, other"
    assert site.past.keys.list() == before


async def test_a_key_without_a_record_is_never_made(site: AdminSite, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PlugskyError(ErrorKind.OVERLOADED, "the audit trail cannot be written")

    monkeypatch.setattr(site.log, "record", refuse)
    before = site.past.keys.list()
    with pytest.raises(PlugskyError, match="audit trail"):
        await site.as_(Role.ADMIN).key_create("demo")
    with pytest.raises(PlugskyError, match="audit trail"):
        await site.as_(Role.ADMIN).key_revoke(before[0].id)
    with pytest.raises(PlugskyError, match="audit trail"):
        await site.as_(Role.ADMIN).request_cancel(REQUEST.job)
    assert site.past.keys.list() == before
    assert site.gateway.live == [REQUEST]


async def test_a_revoked_key_is_listed_with_its_moment(site: AdminSite):
    admin = site.as_(Role.ADMIN)
    revoked = await admin.key_revoke(site.past.key.record.id)
    assert revoked.revoked == "2026-11-22T17:01:00.000000Z"
    assert await admin.key_list() == (revoked,)
    assert await admin.key_list("nobody") == ()
    assert actions(site)[-1] == ("key.revoke", revoked.id, "ok")


async def test_cancelling_ends_the_request_and_is_recorded(site: AdminSite):
    operator = site.as_(Role.OPERATOR)
    await operator.request_cancel(REQUEST.job)
    assert await operator.request_list() == ()
    assert actions(site)[-1] == ("request.cancel", REQUEST.job, "asked")
    with pytest.raises(PlugskyError) as unknown:
        await operator.request_cancel("no-such-job")
    assert unknown.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize("turns", range(4), ids="given up after {} turns of the loop".format)
async def test_a_look_at_home_that_is_given_up_leaves_no_part_of_it_waiting(site: AdminSite, turns: int):
    look = asyncio.create_task(site.as_(Role.VIEWER).home())
    for _ in range(turns):
        await asyncio.sleep(0)
    look.cancel()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(asyncio.CancelledError):
            await look
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def test_home_holds_the_whole_site(site: AdminSite):
    home = await site.as_(Role.VIEWER).home()
    assert (home.operator, home.role, home.uptime_s) == ("viewer", "viewer", 5.0)
    assert (home.requests, home.traffic) == ((REQUEST,), TRAFFIC)
    assert [(m.id, m.state, m.pid, m.digest) for m in home.models] == [
        ("m", "ready", 42, "d" * 64),
        ("other", "absent", 0, "d" * 64),
    ]
    assert home.isolation.findings == ("the host has a default route",)
    assert home.duties[0].id == "disk-full"
    assert home.host.disk_free is None


async def test_a_gateway_that_does_not_answer_costs_only_its_fields(site: AdminSite, monkeypatch: pytest.MonkeyPatch):
    async def gone() -> None:
        raise PlugskyError(ErrorKind.UNREACHABLE, "the gateway does not answer")

    async def stuck() -> None:
        await asyncio.sleep(3600)

    monkeypatch.setattr("plugsky.admin.service.GATEWAY_PATIENCE_S", 0.01)
    for failure in (gone, stuck):
        monkeypatch.setattr(site.gateway, "traffic", failure)
        home = await site.as_(Role.VIEWER).home()
        assert (home.requests, home.traffic) == ((), None)
        assert len(home.models) == 2


@pytest.mark.parametrize("part", ["identity", "duties", "host", "models"])
async def test_a_part_that_cannot_be_read_costs_only_its_fields_and_is_a_duty(
    site: AdminSite, monkeypatch: pytest.MonkeyPatch, part: str
):
    whole = await site.as_(Role.VIEWER).home()

    def damaged() -> None:
        raise MalformedMetadata("The trusted state cannot be read", "it is not JSON", "Restore it from the backup")

    monkeypatch.setattr(site.service.facts, part, damaged, raising=True)
    home = await site.as_(Role.VIEWER).home()
    duty = home.duties[0]
    assert (duty.id, duty.severity, duty.next) == (f"unread-{part}", "alarm", "Restore it from the backup")
    assert "it is not JSON" in duty.text
    untouched = {"requests", "traffic", "isolation", "identity", "duties", "host", "models"} - {part, "duties"}
    for name in untouched - {part}:
        assert getattr(home, name) == getattr(whole, name)
    assert home.identity.root


async def test_a_probe_that_fails_leaves_the_isolation_unproven(site: AdminSite):
    async def refused() -> None:
        raise PermissionError(13, "Permission denied")

    service = replace(site.service, probe=refused)
    home = await service.for_operator(Operator(0, "root", Role.ADMIN)).home()
    assert (home.isolation.proven, home.duties[0].id) == (False, "unread-isolation")


@pytest.mark.parametrize("verb", ["key_create", "key_revoke"])
async def test_a_change_that_fails_behind_its_record_is_contradicted_by_a_second(
    site: AdminSite, monkeypatch: pytest.MonkeyPatch, verb: str
):
    before = site.past.keys.list()

    @contextmanager
    def full(database: Database) -> Iterator[Session]:
        with write(database) as session:
            yield session  # then the transaction is rolled back, as where COMMIT fails
            raise PlugskyError(ErrorKind.OVERLOADED, "the site's database did not take the transaction")

    write = Database.write
    monkeypatch.setattr(Database, "write", full)
    arguments = {"tenant": "demo"} if verb == "key_create" else {"key_id": before[0].id}
    with pytest.raises(PlugskyError, match="did not take"):
        await run(site.as_(Role.ADMIN), verb, **arguments)
    assert site.past.keys.list() == before
    (ok, failed) = actions(site)[-2:]
    assert (ok[0], ok[2], failed[0], failed[2]) == (verb.replace("_", "."), "ok", verb.replace("_", "."), "failed")
    assert ok[1] == failed[1]


async def test_without_a_running_site_the_verbs_that_need_none_work(site: AdminSite):
    admin = site.stopped()
    assert (await admin.key_create("demo")).tenant == "demo"
    assert (await admin.usage_report()).rows[0].requests == 2
    assert (await admin.audit_verify()).ok
    assert await admin.request_list() == ()
    home = await admin.home()
    assert ({m.state for m in home.models}, home.traffic, home.uptime_s) == ({"absent"}, None, 0.0)
    with pytest.raises(PlugskyError) as refused:
        await admin.request_cancel("job")
    assert refused.value.kind is ErrorKind.UNREACHABLE
    assert "plugsky serve" in refused.value.next


async def test_a_single_command_writes_its_own_chain_beside_a_running_site(site: AdminSite):
    past = site.past
    facts, probe = site.service.facts, site.service.probe
    root, values = Operator(0, "root", Role.ADMIN), settings.load({}, {}).values
    with (
        admin_service(past.paths, "cli", past.clock, facts, probe, values) as first,
        admin_service(past.paths, "cli", past.clock, facts, probe, values) as second,
    ):
        for service in (first, second):
            await service.for_operator(root).key_create("demo")
    created = trail.search(past.paths.audit, action="key.create")
    assert sorted(record.chain.split(".")[-1] for record in created) == ["cli", "cli-2", "gateway"]
    assert len(past.keys.list()) == 3
    past.clock.pass_(minutes=1)
    assert (await site.as_(Role.AUDITOR).audit_verify()).ok


async def test_looking_leaves_no_record(site: AdminSite):
    admin = site.as_(Role.ADMIN)
    for verb in VERBS.values():
        if not verb.writes:
            await run(admin, verb.name, **CALLS.get(verb.name, {}))
    assert actions(site) == []


async def test_usage_is_reported_for_the_period_asked(site: AdminSite):
    admin = site.as_(Role.VIEWER)
    report = await admin.usage_report("2026-11-22T18:00:00+01:00", "2026-11-22T17:00:00.000001Z")
    assert (report.since, report.until) == ("2026-11-22T17:00:00.000000Z", "2026-11-22T17:00:00.000001Z")
    assert [(r.tenant, r.requests, r.prompt_tokens, r.completion_tokens) for r in report.rows] == [("demo", 2, 20, 40)]
    assert (await admin.usage_report(since="2026-11-22T17:00:01Z")).rows == ()


async def test_the_trail_is_searched_newest_first(site: AdminSite):
    found = await site.as_(Role.AUDITOR).audit_search("job-", "request.done", limit=1)
    assert [(r.subject, r.fields["completion_tokens"], r.fields["status"]) for r in found] == [("job-2", 20, 200)]


async def test_the_whole_trail_is_verified(site: AdminSite):
    verdict = await site.as_(Role.AUDITOR).audit_verify()
    assert (verdict.ok, verdict.problems) == (True, ())
    assert len(verdict.links) == 5


async def test_a_site_whose_trust_cannot_be_read_is_a_failed_verification(site: AdminSite):
    site.past.paths.trust_state.write_bytes(b"{}")
    with pytest.raises(PlugskyError) as failed:
        await site.as_(Role.AUDITOR).audit_verify()
    assert failed.value.exit_code == 5


@pytest.mark.parametrize(
    ("param", "call"),
    [
        ("since", lambda a: a.usage_report(since="yesterday")),
        ("until", lambda a: a.usage_report(until="2026-11-22T17:00:00")),
        ("since", lambda a: a.audit_search(since="2026-13-01T00:00:00Z")),
        ("limit", lambda a: a.audit_search(limit=0)),
        ("limit", lambda a: a.audit_search(limit=1001)),
        ("until", lambda a: a.audit_search(until="tomorrow")),
        ("skip", lambda a: a.audit_search(skip=-1)),
        ("text", lambda a: a.audit_search("a*")),
        ("interval_s", lambda a: anext(a.watch_home(0.1))),
        ("interval_s", lambda a: anext(a.watch_home(float("nan")))),
    ],
)
async def test_an_argument_out_of_range_is_refused_by_name(site: AdminSite, param: str, call: Callable[[Any], Any]):
    with pytest.raises(PlugskyError) as refused:
        await call(site.as_(Role.ADMIN))
    assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, param)


async def test_watching_gives_a_home_at_once_and_then_again(site: AdminSite):
    homes = site.as_(Role.VIEWER).watch_home(0.2)
    seen = [await anext(homes), await anext(homes)]
    await homes.aclose()
    assert all(isinstance(home, Home) for home in seen)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "tenant"),
        ({"tenant": 5}, "tenant"),
        ({"tenant": "demo", "colour": "blue"}, "colour"),
        ({"tenant": "demo", "days": "soon"}, "days"),
        ({"tenant": "demo", "models": ["m", 7]}, "models"),
    ],
)
def test_arguments_that_do_not_fit_the_protocol_are_named(given: dict, named: str):
    with pytest.raises(PlugskyError) as refused:
        signature("key_create").read(given)
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert named in refused.value.why


def test_arguments_from_the_wire_become_the_types_of_the_protocol():
    read = signature("key_create").read({"tenant": "demo", "models": ["m"]})
    given = {name: value for name, value in read.items() if value is not None}
    assert given == {"tenant": "demo", "name": "", "models": ("m",)}


def test_a_verb_outside_the_table_is_not_found():
    with pytest.raises(PlugskyError) as refused:
        signature("__init__")
    assert refused.value.kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(
    ("uid", "owner", "role"), [(0, 1000, Role.ADMIN), (1000, 1000, Role.ADMIN), (1001, 1000, Role.VIEWER)]
)
async def test_root_and_the_owner_administer_and_others_look(site: AdminSite, uid: int, owner: int, role: Role):
    assert operator_of(uid, owner, site.service.people).role is role


async def test_a_uid_without_a_name_is_an_operator_too(site: AdminSite):
    assert operator_of(3_999_999_999, 0, site.service.people).name == "unknown"


async def test_an_account_has_the_role_that_it_was_given_until_it_is_taken_away(site: AdminSite):
    uid, people, admin = pwd.getpwnam("nobody").pw_uid, site.service.people, site.as_(Role.ADMIN)
    made = await admin.person_set("nobody", "auditor")
    assert (made.account, made.uid, made.role) == ("nobody", uid, "auditor")
    assert operator_of(uid, 1000, people).role is Role.AUDITOR
    await admin.person_set("nobody", "operator")
    assert operator_of(uid, 1000, people).role is Role.OPERATOR
    assert [(person.account, person.role) for person in await admin.person_list()] == [("nobody", "operator")]
    await admin.person_remove("nobody")
    assert operator_of(uid, 1000, people).role is Role.VIEWER
    assert [name for name, _, _ in actions(site)][1:] == ["person.set", "person.set", "person.remove"]


async def test_a_role_is_known_again_after_a_restart(site: AdminSite):
    await site.as_(Role.ADMIN).person_set("nobody", "auditor")
    again = People(site.past.database, site.past.clock)
    assert operator_of(pwd.getpwnam("nobody").pw_uid, 1000, again).role is Role.AUDITOR


async def test_an_account_that_was_made_anew_has_no_role(site: AdminSite):
    await site.as_(Role.ADMIN).person_set("nobody", "admin")
    assert site.service.people.role_of(4242, "nobody") is None


@pytest.mark.parametrize(
    ("account", "role", "kind"),
    [
        ("nobody", "king", ErrorKind.BAD_REQUEST),
        ("no-such-account", "auditor", ErrorKind.NOT_FOUND),
        ("a\0b", "auditor", ErrorKind.NOT_FOUND),
    ],
)
async def test_what_is_no_role_and_who_is_no_account_is_refused(site: AdminSite, account, role, kind):
    with pytest.raises(PlugskyError) as refused:
        await site.as_(Role.ADMIN).person_set(account, role)
    assert refused.value.kind is kind
    assert await site.as_(Role.VIEWER).person_list() == ()
