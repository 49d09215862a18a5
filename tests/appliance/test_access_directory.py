"""Passwords of the site's directory: a real OpenLDAP says whose they are, over TLS that cannot be weakened."""

import os
import socket
import threading
import time
from base64 import b32decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from appliance.certificates import Authority
from appliance.fresh_site import fresh_database, fresh_paths
from appliance.hand_clock import HandClock
from ldap_server import BASE, BIND, FILTER, PASSWORDS, LdapServer
from plugsky.access import directory, passwords
from plugsky.access.directory import Directory, directory_of
from plugsky.access.keys import Keys
from plugsky.access.logins import FREE_FAILURES, PURPOSE, IssuedLogin, Logins, Source
from plugsky.core import settings
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Role
from plugsky.state import Login, open_database

needs_ldap = pytest.mark.integration


@pytest.fixture
def people(ldap: LdapServer) -> Directory:
    return Directory(ldap.url, BIND, BASE, FILTER, ldap.authority)


def unable(asked: Directory, name: str = "alice", password: str = PASSWORDS["alice"]) -> PlugskyError:
    with pytest.raises(PlugskyError) as refused:
        asked.knows(name, password)
    assert refused.value.kind is ErrorKind.UNREACHABLE
    assert password not in str(refused.value)
    return refused.value


@needs_ldap
def test_a_password_proves_who_somebody_is(people: Directory):
    assert people.knows("alice", PASSWORDS["alice"])


@needs_ldap
@pytest.mark.parametrize(
    "password",
    ["", "x", PASSWORDS["bob"], PASSWORDS["alice"] + "\n", "\n" + PASSWORDS["alice"], PASSWORDS["alice"] + "\x00",
     PASSWORDS["alice"].upper(), "\ud800", "x" * 100_000],
    ids=["none", "wrong", "another's", "line after", "line before", "zero", "capitals", "surrogate", "long"],
)  # fmt: skip
def test_no_other_password_does(people: Directory, password: str):
    assert not people.knows("alice", password)


@needs_ldap
def test_who_is_not_whom_the_filter_lets_in_stays_outside(people: Directory, ldap: LdapServer):
    assert not people.knows("bob", PASSWORDS["bob"])
    ldap.let_in("bob")
    try:
        assert people.knows("bob", PASSWORDS["bob"])
    finally:
        ldap.let_in("bob", let=False)
    assert not people.knows("bob", PASSWORDS["bob"])


@needs_ldap
def test_a_name_that_the_directory_has_not_is_nobody(people: Directory):
    assert not people.knows("carol", PASSWORDS["alice"])


@needs_ldap
def test_a_plain_address_begins_tls_before_anything_is_said(people: Directory, ldap: LdapServer):
    assert replace(people, url=ldap.plain_url).knows("alice", PASSWORDS["alice"])
    stranger = Authority(ldap.folder, "stranger").path
    unable(replace(people, url=ldap.plain_url, authorities=stranger))


@needs_ldap
def test_a_certificate_of_another_authority_or_host_is_not_spoken_to(people: Directory, ldap: LdapServer):
    unable(replace(people, authorities=Authority(ldap.folder, "another").path))
    unable(replace(people, url=ldap.other_url))


@needs_ldap
def test_settings_of_the_host_cannot_weaken_the_check(
    people: Directory, ldap: LdapServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / ".ldaprc").write_text("TLS_REQCERT never\n")
    (tmp_path / "ldaprc").write_text("TLS_REQCERT never\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {"HOME": str(tmp_path), "LDAPTLS_REQCERT": "never", "LDAPTLS_CACERT": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    unable(replace(people, authorities=Authority(ldap.folder, "weak").path))
    assert people.knows("alice", PASSWORDS["alice"])


@needs_ldap
def test_a_filter_that_finds_several_lets_nobody_in(people: Directory):
    several = replace(people, filter="(|(uid={name})(objectClass=*))")
    assert "Size limit" in unable(several).why


@needs_ldap
def test_a_base_that_is_not_there_is_told(people: Directory):
    assert "No such object" in unable(replace(people, base="dc=elsewhere")).why


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@needs_ldap
def test_a_directory_that_is_away_or_silent_is_told_in_time(
    people: Directory, ldap: LdapServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(directory, "ANSWER_S", 1)
    with silent_server() as port:
        assert "within 1 seconds" in unable(replace(people, url=f"ldaps://127.0.0.1:{port}")).why
    ldap.stop()
    try:
        assert "Can't contact" in unable(people).why
    finally:
        ldap.start()
    assert people.knows("alice", PASSWORDS["alice"])


@needs_ldap
def test_no_other_account_of_the_host_sees_the_password(people: Directory, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(directory, "ANSWER_S", 2)
    with silent_server() as port:
        asking = threading.Thread(target=unable, args=(replace(people, url=f"ldaps://127.0.0.1:{port}"),))
        asking.start()
        seen = []
        while asking.is_alive():
            seen += [path.read_bytes() for path in _asking_processes()]
            time.sleep(0.05)
        asking.join()
    assert any(b"uid=alice" in each for each in seen)
    assert not any(PASSWORDS["alice"].encode() in each for each in seen)


def _asking_processes() -> Iterator[Path]:
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and (folder / "comm").read_text().strip() == directory.TOOL:
                yield folder / "cmdline"
                yield folder / "environ"
        except OSError:
            continue  # it ended meanwhile


def test_a_host_without_the_tool_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "ldap-utils" in unable(Directory("ldaps://x", BIND, BASE, FILTER, tmp_path)).next


class Door:
    """The logins of a site with a directory."""

    def __init__(self, root: Path, people: Directory | None) -> None:
        fresh_database(root / "site.db").close()
        self.clock = HandClock()
        self.database = open_database(root / "site.db")
        key = Keys.open(self.database, fresh_paths(root), self.clock).derived(PURPOSE)
        self.logins = Logins(self.database, self.clock, key, {} if people is None else {Source.LDAP: people})

    def code(self, issued: IssuedLogin) -> str:
        secret = b32decode(parse_qs(urlsplit(issued.uri).query)["secret"][0])
        now = int(self.clock.now().timestamp())
        return TOTP(secret, 6, SHA1(), 30).generate(now).decode()  # noqa: S303 - what apps speak

    def refuses(self, name: str, password: str, code: str) -> ErrorKind:
        with pytest.raises(PlugskyError) as refused:
            self.logins.check(name, password, code)
        return refused.value.kind


class Counted(Directory):
    """A directory that remembers that it was asked."""

    asked: list[str]

    def knows(self, name: str, password: str) -> bool:
        self.asked.append(name)
        return super().knows(name, password)


@pytest.fixture
def door(tmp_path: Path, people: Directory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    monkeypatch.setattr(passwords, "_COSTS", (16, 1, 1))
    counted = Counted(**vars(people))
    object.__setattr__(counted, "asked", [])
    door = Door(tmp_path, counted)
    yield door
    door.database.close()


def asked(door: Door) -> list[str]:
    found = door.logins._vouchers[Source.LDAP]
    assert isinstance(found, Counted)
    return found.asked


@needs_ldap
def test_a_password_of_the_directory_and_a_code_of_the_site_open_the_door(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    assert (alice.password, alice.record.source) == ("", Source.LDAP)
    assert door.logins.check("alice", PASSWORDS["alice"], door.code(alice)).role is Role.OPERATOR
    with door.database.read() as session:
        assert session.get_one(Login, "alice").password == ""


@needs_ldap
def test_a_login_of_the_directory_has_no_other_password(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    for wrong in ("", "x", PASSWORDS["bob"]):
        assert door.refuses("alice", wrong, door.code(alice)) is ErrorKind.UNAUTHENTICATED


@needs_ldap
def test_who_has_no_right_code_never_reaches_the_directory(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    for name in ("alice", "carol", "bob"):
        assert door.refuses(name, PASSWORDS["alice"], "000000") is ErrorKind.UNAUTHENTICATED
    assert asked(door) == []
    assert door.logins.check("alice", PASSWORDS["alice"], door.code(alice))
    assert asked(door) == ["alice"]


@needs_ldap
def test_many_wrong_passwords_at_once_are_counted_each(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    code, told = door.code(alice), []
    threads = [
        threading.Thread(target=lambda: told.append(door.refuses("alice", "wrong wrong", code))) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count(ErrorKind.RATE_LIMITED) == 12 - FREE_FAILURES - 1
    assert len(asked(door)) == FREE_FAILURES + 1


@needs_ldap
def test_while_the_directory_is_away_the_sites_own_logins_work_and_nobody_is_blamed(door: Door, ldap: LdapServer):
    alice, root = door.logins.add("alice", "operator", "ldap"), door.logins.add("root", "admin")
    ldap.stop()
    try:
        for _ in range(FREE_FAILURES + 3):
            assert door.refuses("alice", PASSWORDS["alice"], door.code(alice)) is ErrorKind.UNREACHABLE
        assert door.logins.check("root", root.password, door.code(root))
    finally:
        ldap.start()
    assert door.logins.check("alice", PASSWORDS["alice"], door.code(alice)), "the code was not used up either"


@needs_ldap
def test_the_site_changes_no_password_of_the_directory(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    with pytest.raises(PlugskyError) as refused:
        door.logins.change_password("alice", PASSWORDS["alice"], door.code(alice), "quite another one")
    assert refused.value.kind is ErrorKind.CONFLICT
    door.clock.pass_(seconds=30)
    before = door.code(alice)
    again = door.logins.reset("alice")
    assert again.password == ""
    assert door.code(again) != before
    assert door.logins.check("alice", PASSWORDS["alice"], door.code(again))


def test_a_site_without_a_directory_makes_no_such_login(tmp_path: Path):
    door = Door(tmp_path, None)
    with pytest.raises(PlugskyError) as refused:
        door.logins.add("alice", "operator", "ldap")
    assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, "source")
    with pytest.raises(PlugskyError) as unknown:
        door.logins.add("alice", "operator", "nis")
    assert (unknown.value.kind, unknown.value.param) == (ErrorKind.BAD_REQUEST, "source")
    door.database.close()


@needs_ldap
def test_a_site_that_lost_its_directory_lets_nobody_of_it_in(door: Door):
    alice = door.logins.add("alice", "operator", "ldap")
    door.logins._vouchers = {}
    assert door.refuses("alice", PASSWORDS["alice"], door.code(alice)) is ErrorKind.UNREACHABLE
    assert door.refuses("alice", "", door.code(alice)) is ErrorKind.UNREACHABLE


WHOLE = {
    "PLUGSKY_LDAP_URL": "ldaps://directory.example",
    "PLUGSKY_LDAP_BIND": BIND,
    "PLUGSKY_LDAP_BASE": BASE,
    "PLUGSKY_LDAP_AUTHORITIES": __file__,
}


def from_environment(environ: dict[str, str]) -> Directory | None:
    return directory_of(settings.load({}, environ, Path("/nonexistent")).values)


def test_settings_without_a_directory_have_none():
    assert from_environment({}) is None


def test_a_directory_is_made_of_its_settings():
    found = from_environment(WHOLE)
    assert found == Directory("ldaps://directory.example", BIND, BASE, "(uid={name})", Path(__file__))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        *(({name: ""}, name.removeprefix("PLUGSKY_").lower()) for name in WHOLE),
        ({"PLUGSKY_LDAP_URL": "http://directory.example"}, "ldap_url"),
        ({"PLUGSKY_LDAP_BIND": "uid=admin,dc=example"}, "ldap_bind"),
        ({"PLUGSKY_LDAP_FILTER": f"(memberOf=cn=plugsky,{BASE})"}, "ldap_filter"),
        ({"PLUGSKY_LDAP_AUTHORITIES": os.devnull + "/none"}, "ldap_authorities"),
    ],
)
def test_half_a_directory_is_refused_by_name(change: dict[str, str], named: str):
    with pytest.raises(PlugskyError) as refused:
        from_environment({**WHOLE, **change})
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert named in refused.value.what
