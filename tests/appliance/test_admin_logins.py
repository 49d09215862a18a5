"""People at the Admin socket: who they are there, for how long, and what the trail says of it."""

import asyncio
import threading
from base64 import b32decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from appliance.admin_site import AdminSite
from appliance.hand_clock import HandClock
from appliance.test_admin_service import CALLS, run
from plugsky.access import passwords
from plugsky.access.logins import LoginRecord
from plugsky.admin import sessions
from plugsky.admin.api import NewLogin, SessionView
from plugsky.admin.client import AdminClient
from plugsky.admin.server import AdminServer
from plugsky.admin.sessions import IDLE_S, LONGEST_S, Sessions, over
from plugsky.admin.verb_table import SESSION, VERBS
from plugsky.audit import trail
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Operator, Role


class Desk(AdminSite):
    """A served site; ``at`` gives a client there, in a session or in none."""

    required = False

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Desk"]:
        server = AdminServer(self.service, login_required=self.required)
        await server.start()
        try:
            yield self
        finally:
            await server.close()

    @asynccontextmanager
    async def at(self, session: str | None = None) -> AsyncIterator[AdminClient]:
        async with AdminClient.of(self.past.paths, session) as client:
            yield client

    def code(self, made: NewLogin) -> str:
        """What an authenticator shows now."""
        secret = b32decode(parse_qs(urlsplit(made.uri).query)["secret"][0])
        now = int(self.past.clock.now().timestamp())
        return TOTP(secret, 6, SHA1(), 30).generate(now).decode()  # noqa: S303 - what apps speak

    async def made(self, name: str, role: str = "operator") -> NewLogin:
        return await self.as_(Role.ADMIN).login_add(name, role)

    async def begun(self, made: NewLogin) -> SessionView:
        """A session of a login; the next one has another code."""
        async with self.at() as client:
            session = await client.login_begin(made.name, made.password, self.code(made))
        self.past.clock.pass_(seconds=30)
        return session

    def told(self, *actions: str) -> list[tuple[str, str, str, str]]:
        """The trail's records of these actions, oldest first."""
        found = [record for action in actions for record in trail.search(self.past.paths.audit, action=action)]
        found.sort(key=lambda record: (record.time, record.seq))
        return [(record.action, record.actor, record.subject, record.outcome) for record in found]


@pytest.fixture
async def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(passwords, "_COSTS", (16, 1, 1))
    desk = Desk(tmp_path)
    async with desk.served():
        yield desk
    desk.close()


@pytest.fixture
async def strict_desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(passwords, "_COSTS", (16, 1, 1))
    desk = Desk(tmp_path)
    desk.required = True
    async with desk.served():
        yield desk
    desk.close()


async def refused(client: AdminClient, verb: str, **arguments: Any) -> ErrorKind | None:
    """The kind of error that a call ends with; None where it does not."""
    try:
        await run(client, verb, **arguments)
    except PlugskyError as error:
        return error.kind
    return None


async def test_what_somebody_does_in_a_session_is_recorded_as_theirs(desk: Desk):
    session = await desk.begun(await desk.made("alice", "admin"))
    async with desk.at(session.token) as client:
        assert (await client.home()).operator == "alice"
        await client.key_create("demo")
    assert desk.told("key.create")[-1][1] == "alice as root(0)"
    async with desk.at() as client:
        await client.key_create("demo")
    assert desk.told("key.create")[-1][1] == "root(0)"


async def test_a_session_has_the_role_of_its_login(desk: Desk):
    session = await desk.begun(await desk.made("alice", "viewer"))
    assert (session.name, session.role) == ("alice", "viewer")
    async with desk.at(session.token) as client:
        with pytest.raises(PlugskyError, match="alice may not do that") as told:
            await client.key_create("demo")
    assert told.value.kind is ErrorKind.FORBIDDEN
    assert desk.told("key.create")[-1] == ("key.create", "alice as root(0)", "demo", "forbidden")


@pytest.mark.parametrize("account", Role)
@pytest.mark.parametrize("login", Role)
def test_a_login_never_may_more_than_its_account_nor_than_itself(account: Role, login: Role):
    both = Operator(1000, "desk", account).logged_in("alice", login)
    assert (both.uid, both.name, both.person) == (1000, "desk", "alice")
    for role in Role:
        if both.role.covers(role):
            assert role is Role.VIEWER or (account.covers(role) and login.covers(role))


@pytest.mark.parametrize("verb", VERBS.values(), ids=lambda verb: verb.name)
async def test_where_people_must_log_in_nothing_else_is_answered(strict_desk: Desk, verb):
    alice = await strict_desk.made("head", "admin")
    session = await strict_desk.begun(alice)
    arguments = CALLS.get(verb.name, {})
    async with strict_desk.at() as stranger, strict_desk.at(session.token) as client:
        if not verb.before_login:
            assert await refused(stranger, verb.name, **arguments) is ErrorKind.UNAUTHENTICATED
            assert await refused(client, verb.name, **arguments) is not ErrorKind.UNAUTHENTICATED
        else:
            told = await refused(stranger, verb.name, **arguments)
            assert told is (None if verb.name == "login_end" else ErrorKind.UNAUTHENTICATED)


async def test_a_session_ends_when_it_is_not_used(desk: Desk):
    session = await desk.begun(await desk.made("alice"))
    async with desk.at(session.token) as client:
        for _ in range(3):
            desk.past.clock.pass_(seconds=IDLE_S - 60)
            assert await refused(client, "home") is None
        desk.past.clock.pass_(seconds=IDLE_S)
        assert await refused(client, "home") is ErrorKind.UNAUTHENTICATED


async def test_a_session_ends_after_a_day_of_work_however_busy(desk: Desk):
    session = await desk.begun(await desk.made("alice"))
    async with desk.at(session.token) as client:
        calls = 0
        while await refused(client, "home") is None:
            desk.past.clock.pass_(seconds=IDLE_S / 2)
            calls += 1
    assert (calls - 1) * IDLE_S / 2 < LONGEST_S <= calls * IDLE_S / 2 + 30


async def test_a_session_that_was_ended_is_over(desk: Desk):
    session = await desk.begun(await desk.made("alice"))
    async with desk.at(session.token) as client:
        await client.login_end(session.token)
        assert await refused(client, "home") is ErrorKind.UNAUTHENTICATED
        await client.login_end(session.token)
    assert desk.told("login.end") == [("login.end", "root(0)", "alice", "ok")]


@pytest.mark.parametrize("change", ["login_remove", "login_reset", "login_password"])
async def test_a_login_that_changed_has_to_begin_again(desk: Desk, change: str):
    alice, bob = await desk.made("alice"), await desk.made("bob")
    hers, his = await desk.begun(alice), await desk.begun(bob)
    if change == "login_password":
        await desk.as_(Role.VIEWER).login_password("alice", alice.password, desk.code(alice), "a longer password")
    else:
        await getattr(desk.as_(Role.ADMIN), change)("alice")
    async with desk.at(hers.token) as client:
        assert await refused(client, "home") is ErrorKind.UNAUTHENTICATED
    async with desk.at(his.token) as client:
        assert await refused(client, "home") is None


@pytest.mark.parametrize("change", ["login_remove", "login_reset"])
async def test_who_logs_in_while_the_login_is_changed_does_not_slip_through(
    desk: Desk, change: str, monkeypatch: pytest.MonkeyPatch
):
    alice = await desk.made("alice")
    check, loop = desk.service.logins.check, asyncio.get_running_loop()

    def checked_just_before(*given: str) -> LoginRecord:
        found = check(*given)
        asyncio.run_coroutine_threadsafe(getattr(desk.as_(Role.ADMIN), change)("alice"), loop).result()
        return found

    monkeypatch.setattr(desk.service.logins, "check", checked_just_before)
    async with desk.at() as client:
        with pytest.raises(PlugskyError) as told:
            await client.login_begin("alice", alice.password, desk.code(alice))
    assert told.value.kind is ErrorKind.UNAUTHENTICATED
    assert desk.told("login.begin")[-1][3] == "unauthenticated"


async def test_many_who_try_to_log_in_hold_up_nobody_else(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    wait = threading.Event()

    def slow(*_given: str) -> LoginRecord:
        wait.wait(30)
        raise over()

    monkeypatch.setattr(desk.service.logins, "check", slow)
    async with desk.at() as client, desk.at() as other:
        tries = [asyncio.ensure_future(client.login_begin("x", "y", "z")) for _ in range(12)]
        await asyncio.sleep(0.2)
        try:
            async with asyncio.timeout(10):
                assert await other.key_list()
                assert (await other.home()).operator
        finally:
            wait.set()
            ended = await asyncio.gather(*tries, return_exceptions=True)
    assert {each.kind for each in ended if isinstance(each, PlugskyError)} == {ErrorKind.UNAUTHENTICATED}


async def test_a_role_that_was_changed_counts_from_the_next_call_on(desk: Desk):
    session = await desk.begun(await desk.made("alice", "admin"))
    async with desk.at(session.token) as client:
        assert await refused(client, "key_create", tenant="demo") is None
        await desk.as_(Role.ADMIN).login_role("alice", "viewer")
        assert await refused(client, "key_create", tenant="demo") is ErrorKind.FORBIDDEN


async def test_a_stream_ends_with_its_session_which_watching_does_not_prolong(desk: Desk):
    session = await desk.begun(await desk.made("alice"))
    async with desk.at(session.token) as client:
        homes = client.watch_home(0.2)
        assert (await anext(homes)).operator == "alice"
        desk.past.clock.pass_(seconds=IDLE_S - 60)
        await anext(homes)
        desk.past.clock.pass_(seconds=60)
        with pytest.raises(PlugskyError) as told:
            async for _ in homes:
                pass
    assert told.value.kind is ErrorKind.UNAUTHENTICATED


async def test_a_stream_ends_when_the_login_is_removed(desk: Desk):
    session = await desk.begun(await desk.made("alice"))
    async with desk.at(session.token) as client:
        homes = client.watch_home(0.2)
        await anext(homes)
        await desk.as_(Role.ADMIN).login_remove("alice")
        with pytest.raises(PlugskyError) as told:
            async for _ in homes:
                pass
    assert told.value.kind is ErrorKind.UNAUTHENTICATED


@pytest.mark.parametrize("token", ["", "x", "\ud800", "x" * 10_000, 7, None, [], {"a": 1}, True], ids=repr)
async def test_whatever_is_no_session_is_refused_and_never_taken_for_none(desk: Desk, token: object):
    async with desk.at() as client:
        call = client._calls.call("key_create", {"tenant": "demo", SESSION: token})
        if token is None:
            await call
            return
        with pytest.raises(PlugskyError) as told:
            await call
    assert told.value.kind in (ErrorKind.UNAUTHENTICATED, ErrorKind.BAD_REQUEST)


def test_a_session_is_nothing_to_another_account():
    clock = HandClock()
    held = Sessions(clock)
    token = held.begin(1000, "alice", 0)
    with pytest.raises(PlugskyError) as told:
        held.name_of(1001, token)
    assert told.value.kind is ErrorKind.UNAUTHENTICATED
    assert held.end(1001, token) == ""
    assert held.name_of(1000, token) == "alice"


def test_sessions_are_bounded_and_forgotten_ones_make_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    clock = HandClock()
    held = Sessions(clock)
    tokens = {held.begin(0, f"user{number}", 0) for number in range(3)}
    assert len(tokens) == 3
    with pytest.raises(PlugskyError) as told:
        held.begin(0, "one-more", 0)
    assert told.value.kind is ErrorKind.OVERLOADED
    clock.pass_(seconds=IDLE_S)
    assert held.begin(0, "one-more", 0)


async def test_the_trail_tells_of_every_door_that_was_tried_and_of_no_secret(desk: Desk):
    alice = await desk.made("alice")
    await desk.begun(alice)
    async with desk.at() as client:
        for name, password in (("alice", "not hers at all"), ("Sommer2026!", "typed too early")):
            assert await refused(client, "login_begin", name=name, password=password, code="123456")
        assert await refused(
            client, "login_password", name="alice", password="not hers at all", code="123456", new="a longer password"
        )
        await client.login_password("alice", alice.password, desk.code(alice), "a longer password")
    assert desk.told("login.begin", "login.password") == [
        ("login.begin", "root(0)", "alice", "ok"),
        ("login.begin", "root(0)", "alice", "unauthenticated"),
        ("login.begin", "root(0)", "(not a login)", "unauthenticated"),
        ("login.password", "root(0)", "alice", "unauthenticated"),
        ("login.password", "root(0)", "alice", "ok"),
    ]
    written = b"".join(path.read_bytes() for path in desk.past.paths.audit.rglob("*") if path.is_file())
    secret = parse_qs(urlsplit(alice.uri).query)["secret"][0]
    for hidden in (alice.password, secret, "Sommer2026!", "not hers at all", "a longer password", "123456"):
        assert hidden.encode() not in written


async def test_logins_are_listed_without_their_secrets(desk: Desk):
    alice = await desk.made("alice", "auditor")
    async with desk.at() as client:
        (listed,) = await client.login_list()
    assert (listed.name, listed.role, listed.source) == ("alice", "auditor", "local")
    assert alice.password not in repr(listed) + repr(alice)
    assert alice.uri not in repr(alice)


async def test_without_a_running_site_nobody_logs_in(desk: Desk):
    alice = await desk.made("alice")
    alone = replace(desk.service, engines=None, gateway=None, sessions=None).for_operator(
        Operator(0, "root", Role.ADMIN)
    )
    with pytest.raises(PlugskyError) as told:
        await alone.login_begin("alice", alice.password, desk.code(alice))
    assert told.value.kind is ErrorKind.UNREACHABLE
