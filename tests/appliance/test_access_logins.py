"""Logins: passwords, one-time codes, and the one check that both pass through."""

import threading
import time
import unicodedata
from base64 import b32decode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from hypothesis import given
from hypothesis import strategies as st

from appliance.fresh_site import fresh_paths
from appliance.hand_clock import HandClock
from plugsky.access import logins, passwords, totp
from plugsky.access.keys import Keys
from plugsky.access.logins import FREE_FAILURES, LONGEST_WAIT_S, PURPOSE, IssuedLogin, LoginRecord, Logins
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import Role
from plugsky.state import Database, Login, open_database

RFC_6238 = {59: "287082", 1111111109: "081804", 1234567890: "005924", 20000000000: "353130"}
"""Appendix B, in six digits: seconds, and the code of the secret of ASCII digits."""


@pytest.mark.parametrize(("now", "code"), RFC_6238.items())
def test_codes_are_those_of_the_rfc(now: int, code: str):
    assert totp.step_of(b"12345678901234567890", code, now) == now // 30


def test_a_code_counts_in_its_step_and_the_ones_beside_it():
    secret, code = b"12345678901234567890", RFC_6238[1234567890]
    taken = [totp.step_of(secret, code, 1234567890 + 30 * away) for away in (-2, -1, 0, 1, 2)]
    assert taken == [None, 41152263, 41152263, 41152263, None]


@given(st.text(max_size=12))
def test_whatever_is_typed_as_a_code_is_answered(code: str):
    assert totp.step_of(b"12345678901234567890", code, 59) in (None, 0, 1, 2)


def test_an_authenticator_reads_the_secret_from_the_address():
    secret = totp.new_secret()
    address = urlsplit(totp.uri(secret, "alice", "Plugsky"))
    asked = parse_qs(address.query)
    assert (address.scheme, address.netloc, address.path) == ("otpauth", "totp", "/Plugsky:alice")
    assert (asked["digits"], asked["period"], asked["algorithm"]) == (["6"], ["30"], ["SHA1"])
    assert b32decode(asked["secret"][0]) == secret
    assert "counter" not in asked


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_digest_fits_its_password_and_no_other(password: str, other: str):
    passwords._COSTS, costs = (16, 1, 1), passwords._COSTS
    try:
        kept = passwords.digest(password)
    finally:
        passwords._COSTS = costs
    assert passwords.fits(password, kept)
    same = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", password)
    assert passwords.fits(other, kept) == same


def test_a_password_typed_on_another_keyboard_is_the_same():
    assert passwords.fits("Österreich", passwords.digest("O\u0308sterreich"))


def test_a_digest_costs_its_thief_a_quarter_of_a_second_and_32_mib():
    assert passwords.digest("x").split(":")[:4] == ["scrypt", "32768", "8", "3"]


@pytest.mark.parametrize("kept", ["", "scrypt:1", "scrypt:a:b:c:d:e", "scrypt:15:8:1:AA==:AA==", "bcrypt:2:3"])
def test_a_digest_that_is_none_is_tampered_with(kept: str):
    with pytest.raises(PlugskyError) as refused:
        passwords.fits("x", kept)
    assert refused.value.kind is ErrorKind.TAMPERED


@pytest.mark.parametrize("chosen", ["short", "x" * 257, "aaaaaaaaaaaaaaaa", "alice in wonderland", "ALICE12345678"])
def test_a_poor_password_is_not_taken(chosen: str):
    with pytest.raises(PlugskyError) as refused:
        passwords.checked_password(chosen, "alice")
    assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, "new")


class Site:
    def __init__(self, root: Path, where: Path | str) -> None:
        self.clock = HandClock()
        self.database: Database = open_database(where)
        self.keys = Keys.open(self.database, fresh_paths(root), self.clock)
        self.logins = self.opened()

    def opened(self) -> Logins:
        return Logins(self.database, self.clock, self.keys.derived(PURPOSE), {})

    def code(self, issued: IssuedLogin) -> str:
        """What an authenticator shows now."""
        secret = b32decode(parse_qs(urlsplit(issued.uri).query)["secret"][0])
        now = int(self.clock.now().timestamp())
        return TOTP(secret, 6, SHA1(), 30).generate(now).decode()  # noqa: S303 - what apps speak

    def enters(self, issued: IssuedLogin, **other: str) -> LoginRecord:
        given = {"name": issued.record.name, "password": issued.password, "code": self.code(issued), **other}
        return self.logins.check(**given)

    def refuses(self, issued: IssuedLogin, **other: str) -> PlugskyError:
        with pytest.raises(PlugskyError) as refused:
            self.enters(issued, **other)
        return refused.value


@pytest.fixture
def site(tmp_path: Path, where: Path | str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(passwords, "_COSTS", (16, 1, 1))
    site = Site(tmp_path, where)
    yield site
    site.database.close()


def test_name_password_and_code_together_open_the_door(site: Site):
    alice = site.logins.add("alice", "auditor")
    record = site.enters(alice)
    assert (record.name, record.role) == ("alice", Role.AUDITOR)
    assert site.logins.role_of("alice") is Role.AUDITOR


def test_whatever_is_wrong_is_answered_alike(site: Site):
    alice, bob = site.logins.add("alice", "admin"), site.logins.add("bob", "admin")
    wrong = [
        {"name": "nobody"},
        {"name": "Alice"},
        {"name": "a'; --\x00\ud800"},
        {"password": bob.password},
        {"password": ""},
        {"password": "x" * 100_000},
        {"code": site.code(bob)},
        {"code": ""},
        {"code": "\uff10" * 6},
    ]
    told = set()
    for other in wrong:
        refused = site.refuses(alice, **other)
        told.add((refused.kind, refused.what, refused.why, refused.next))
        site.logins.reset("bob")
        site.logins._failures.clear()
    assert len(told) == 1
    assert told.pop()[0] is ErrorKind.UNAUTHENTICATED
    assert site.enters(alice)


def test_a_code_is_good_for_one_login(site: Site):
    alice = site.logins.add("alice", "viewer")
    code = site.code(alice)
    assert site.enters(alice, code=code)
    assert site.refuses(alice, code=code).kind is ErrorKind.UNAUTHENTICATED
    site.logins = site.opened()
    assert site.refuses(alice, code=code).kind is ErrorKind.UNAUTHENTICATED, "a restart does not forget it"
    site.clock.pass_(seconds=30)
    assert site.enters(alice)


def test_a_code_of_the_step_before_one_that_was_taken_is_not_taken(site: Site):
    alice = site.logins.add("alice", "viewer")
    earlier = site.code(alice)
    site.clock.pass_(seconds=30)
    assert site.enters(alice)
    assert site.refuses(alice, code=earlier).kind is ErrorKind.UNAUTHENTICATED


def test_of_many_who_use_one_code_at_once_one_enters(site: Site):
    alice = site.logins.add("alice", "viewer")
    code, told = site.code(alice), []

    def enter(door: Logins) -> None:
        try:
            told.append(door.check("alice", alice.password, code).name)
        except PlugskyError as error:
            told.append(error.kind)

    threads = [threading.Thread(target=enter, args=(site.opened(),)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, told)) == [*[str(ErrorKind.UNAUTHENTICATED)] * 5, "alice"]


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_a_name_that_fails_often_has_to_wait_longer_and_longer(site: Site, name: str):
    alice = site.logins.add("alice", "viewer")
    for _ in range(FREE_FAILURES + 1):
        assert site.refuses(alice, name=name, password="wrong").kind is ErrorKind.UNAUTHENTICATED
    waits = []
    for _ in range(12):
        refused = site.refuses(alice, name=name)
        assert refused.kind is ErrorKind.RATE_LIMITED
        waits.append(refused.retry_after)
        site.clock.pass_(seconds=refused.retry_after)
        assert site.refuses(alice, name=name, password="wrong").kind is ErrorKind.UNAUTHENTICATED
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, LONGEST_WAIT_S]


def test_who_enters_begins_to_count_anew_and_others_never_waited(site: Site):
    alice, bob = site.logins.add("alice", "viewer"), site.logins.add("bob", "viewer")
    for _ in range(FREE_FAILURES + 1):
        site.refuses(alice, password="wrong")
    assert site.enters(bob)
    site.clock.pass_(seconds=30)
    assert site.enters(alice)
    assert site.refuses(alice, password="wrong").kind is ErrorKind.UNAUTHENTICATED
    site.clock.pass_(seconds=30)
    assert site.enters(alice)


def test_failures_are_remembered_of_a_bounded_number_of_names(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logins, "MAX_REMEMBERED", 3)
    alice = site.logins.add("alice", "viewer")
    for number in range(10):
        site.refuses(alice, name=f"n{number}")
    assert len(site.logins._failures) == 3


def test_a_password_is_changed_by_who_knows_it(site: Site):
    alice = site.logins.add("alice", "viewer")
    site.logins.change_password("alice", alice.password, site.code(alice), "four words of ours")
    site.clock.pass_(seconds=30)
    assert site.refuses(alice).kind is ErrorKind.UNAUTHENTICATED
    assert site.enters(alice, password="four words of ours")
    with pytest.raises(PlugskyError):
        site.logins.change_password("alice", "wrong", site.code(alice), "four words of theirs")
    site.clock.pass_(seconds=30)
    assert site.enters(alice, password="four words of ours")


def test_a_reset_login_has_another_password_and_other_codes(site: Site):
    alice = site.logins.add("alice", "viewer")
    again = site.logins.reset("alice")
    assert again.password != alice.password
    assert site.refuses(alice).kind is ErrorKind.UNAUTHENTICATED
    assert site.refuses(again, code=site.code(alice)).kind is ErrorKind.UNAUTHENTICATED
    assert site.enters(again)


def test_a_removed_login_is_nobody(site: Site):
    alice = site.logins.add("alice", "viewer")
    site.logins.remove("alice")
    assert site.logins.list() == ()
    assert site.logins.role_of("alice") is None
    assert site.refuses(alice).kind is ErrorKind.UNAUTHENTICATED
    with pytest.raises(PlugskyError) as refused:
        site.logins.remove("alice")
    assert refused.value.kind is ErrorKind.NOT_FOUND


def test_a_role_changes_at_once_and_is_known_again_after_a_restart(site: Site):
    site.logins.add("alice", "viewer")
    assert site.logins.set_role("alice", "operator").role is Role.OPERATOR
    assert site.logins.role_of("alice") is Role.OPERATOR
    assert site.opened().role_of("alice") is Role.OPERATOR


@pytest.mark.parametrize(
    ("name", "role", "kind"),
    [
        ("Alice", "viewer", ErrorKind.BAD_REQUEST),
        ("", "viewer", ErrorKind.BAD_REQUEST),
        ("x" * 65, "viewer", ErrorKind.BAD_REQUEST),
        ("a b", "viewer", ErrorKind.BAD_REQUEST),
        ("alice", "king", ErrorKind.BAD_REQUEST),
        ("taken", "viewer", ErrorKind.CONFLICT),
    ],
)
def test_what_cannot_be_a_login_is_refused(site: Site, name: str, role: str, kind: ErrorKind):
    site.logins.add("taken", "viewer")
    with pytest.raises(PlugskyError) as refused:
        site.logins.add(name, role)
    assert refused.value.kind is kind
    assert [login.name for login in site.logins.list()] == ["taken"]


def test_what_a_witness_refuses_does_not_happen(site: Site):
    def refuse(_: LoginRecord) -> None:
        raise PlugskyError(ErrorKind.OVERLOADED, "the trail cannot be written")

    alice = site.logins.add("alice", "viewer")
    for act in (
        lambda: site.logins.add("bob", "admin", refuse),
        lambda: site.logins.set_role("alice", "admin", refuse),
        lambda: site.logins.reset("alice", refuse),
        lambda: site.logins.remove("alice", refuse),
    ):
        with pytest.raises(PlugskyError):
            act()
    assert [(login.name, login.role) for login in site.logins.list()] == [("alice", Role.VIEWER)]
    assert site.logins.role_of("alice") is Role.VIEWER
    assert site.enters(alice)


def test_nothing_that_is_stored_opens_the_door(site: Site, tmp_path: Path):
    alice = site.logins.add("alice", "admin")
    secret = b32decode(parse_qs(urlsplit(alice.uri).query)["secret"][0])
    with site.database.read() as session:
        row = session.get(Login, "alice")
        stored = b"".join([row.password.encode(), row.codes])
    stored += b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in stored
    assert alice.password.encode() not in stored
    assert alice.password not in repr(alice)
    assert "otpauth" not in repr(alice)


def test_codes_moved_to_another_login_are_tampered_with(site: Site):
    site.logins.add("alice", "admin")
    mallory = site.logins.add("mallory", "viewer")
    with site.database.write() as session:
        alice, other = session.get(Login, "alice"), session.get(Login, "mallory")
        alice.codes, alice.password = other.codes, other.password
        session.add(alice)
    refused = site.refuses(mallory, name="alice")
    assert (refused.kind, refused.next) == (ErrorKind.TAMPERED, "plugsky login reset alice")


def test_a_name_that_does_not_exist_takes_as_long_as_one_that_does(tmp_path: Path):
    site = Site(tmp_path, tmp_path / "site.db")
    alice = site.logins.add("alice", "viewer")
    seconds = {}
    for name in ("alice", "nobody"):
        begun = time.thread_time()
        site.refuses(alice, name=name, password="wrong")
        seconds[name] = time.thread_time() - begun
    site.database.close()
    assert min(seconds.values()) > 0.5 * max(seconds.values())
