"""API keys: their text, their life, and the one check that every request passes."""

import hmac
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from appliance.fresh_site import fresh_paths
from appliance.hand_clock import HandClock
from plugsky.access import key_text, keys
from plugsky.access.keys import IssuedKey, Keys
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.state import Database, open_database


class Site:
    def __init__(self, root: Path, where: Path | str) -> None:
        self.paths = fresh_paths(root)
        self.clock = HandClock()
        self.database: Database = open_database(where)
        self.keys = Keys.open(self.database, self.paths, self.clock)

    def ask(self, text: str):
        return self.keys.authenticate([(b"host", b"x"), (b"authorization", f"Bearer {text}".encode())])


@pytest.fixture
def site(tmp_path: Path, where: Path | str) -> Iterator[Site]:
    site = Site(tmp_path, where)
    yield site
    site.database.close()


def test_a_new_key_opens_the_door_for_its_tenant(site: Site):
    key = site.keys.create("treasury", name="reports", models=("m1", "m0", "m1"))
    principal = site.ask(key.secret)
    assert (principal.tenant, principal.key_id) == ("treasury", key.record.id)
    assert principal.models == {"m0", "m1"}
    assert not principal.may_use("m2")


def test_a_key_is_an_id_of_8_and_a_secret_of_43_characters(site: Site):
    prefix, key_id, secret = site.keys.create("demo").secret.split("_", 2)
    assert (prefix, len(key_id), len(secret)) == ("psk", 8, 43)


def test_nothing_that_is_stored_opens_the_door(site: Site, tmp_path: Path):
    key = site.keys.create("demo")
    secret = key.secret.split("_", 2)[2].encode()[-20:]
    stored = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret not in stored
    assert key.secret not in repr(key)


def wrong_headers(key: IssuedKey) -> dict[str, list[tuple[bytes, bytes]]]:
    good = key.secret
    other_end = "A" if good[-1] != "A" else "B"
    return {
        "no header": [],
        "an empty header": [(b"authorization", b"")],
        "the scheme alone": [(b"authorization", b"Bearer")],
        "another scheme": [(b"authorization", b"Basic " + good.encode())],
        "no scheme": [(b"authorization", good.encode())],
        "an unknown id": [(b"authorization", b"Bearer psk_aaaaaaaa_" + b"x" * 43)],
        "a wrong secret": [(b"authorization", f"Bearer {good[:-1]}{other_end}".encode())],
        "a secret that is too long": [(b"authorization", f"Bearer {good}x".encode())],
        "the key with a newline": [(b"authorization", f"Bearer {good}\n{good}".encode())],
        "bytes that are no text": [(b"authorization", b"Bearer \xff\xfe")],
        "the id alone": [(b"authorization", f"Bearer psk_{key.record.id}_".encode())],
        "two keys": [(b"authorization", f"Bearer {good}".encode())] * 2,
        "two keys in two headers": [(b"authorization", b"Bearer " + good.encode()), (b"x-api-key", good.encode())],
        "a scheme where none belongs": [(b"x-api-key", b"Bearer " + good.encode())],
        "a good key in an unknown header": [(b"x-key", good.encode())],
        "a statement instead of a key": [(b"authorization", b"Bearer ' OR 1=1 --")],
    }


def test_every_way_a_key_can_be_wrong_gets_the_same_answer(site: Site):
    expired, revoked = site.keys.create("demo", days=1), site.keys.create("demo")
    site.keys.revoke(revoked.record.id)
    site.clock.pass_(days=1)
    cases = wrong_headers(site.keys.create("demo"))
    cases["an expired key"] = [(b"authorization", f"Bearer {expired.secret}".encode())]
    cases["a revoked key"] = [(b"authorization", f"Bearer {revoked.secret}".encode())]
    answers = {}
    for name, headers in cases.items():
        with pytest.raises(PlugskyError) as refused:
            site.keys.authenticate(headers)
        error = refused.value
        answers[name] = (error.kind, error.what, error.why, error.next, error.param, error.retry_after)
    assert len(set(answers.values())) == 1
    assert next(iter(answers.values()))[0] is ErrorKind.UNAUTHENTICATED


def test_every_check_compares_32_bytes_in_constant_time(site: Site, monkeypatch: pytest.MonkeyPatch):
    key = site.keys.create("demo")
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(given: bytes, kept: bytes) -> bool:
        compared.append((len(given), len(kept)))
        return compare(given, kept)

    monkeypatch.setattr(keys.hmac, "compare_digest", watched)
    cases = wrong_headers(key)
    for headers in cases.values():
        with pytest.raises(PlugskyError):
            site.keys.authenticate(headers)
    assert compared == [(32, 32)] * len(cases)


def test_the_scheme_may_be_written_in_any_case(site: Site):
    key = site.keys.create("demo")
    for scheme in (b"bearer", b"BEARER", b"Bearer "):
        assert site.keys.authenticate([(b"authorization", scheme + b" " + key.secret.encode())]).tenant == "demo"


def test_a_key_may_come_in_a_header_of_its_own_through_the_same_check(site: Site):
    key = site.keys.create("demo")
    assert site.keys.authenticate([(b"x-api-key", key.secret.encode())]).tenant == "demo"
    site.keys.revoke(key.record.id)
    with pytest.raises(PlugskyError):
        site.keys.authenticate([(b"x-api-key", key.secret.encode())])


def test_a_revocation_by_another_process_counts_within_a_second(site: Site):
    key = site.keys.create("demo")
    site.ask(key.secret)
    other = Keys.open(site.database, site.paths, site.clock)
    other.revoke(key.record.id)
    site.clock.pass_(seconds=0.9)
    with pytest.raises(PlugskyError):
        site.ask(key.secret)


def test_a_revocation_in_the_same_process_counts_at_once(site: Site):
    key = site.keys.create("demo")
    site.ask(key.secret)
    site.keys.revoke(key.record.id)
    with pytest.raises(PlugskyError):
        site.ask(key.secret)


def test_a_key_seen_a_moment_ago_needs_no_database(site: Site):
    key = site.keys.create("demo")
    site.ask(key.secret)
    with site.database.write() as session:
        session.execute(text("DROP TABLE apikey"))
    assert site.ask(key.secret).tenant == "demo"


def test_a_key_expires_while_it_is_cached(site: Site):
    key = site.keys.create("demo", days=1)
    site.clock.pass_(hours=23, minutes=59, seconds=59.9)
    assert site.ask(key.secret).tenant == "demo"
    site.clock.pass_(seconds=0.2)
    with pytest.raises(PlugskyError):
        site.ask(key.secret)


def test_the_cache_keeps_a_bounded_number_of_keys(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(keys, "MAX_CACHED", 3)
    for _ in range(6):
        site.ask(site.keys.create("demo").secret)
    assert len(site.keys._known) == 3


def test_revoking_twice_keeps_the_first_moment(site: Site):
    key = site.keys.create("demo")
    first = site.keys.revoke(key.record.id)
    site.clock.pass_(hours=1)
    assert site.keys.revoke(f"psk_{key.record.id}") == first


def test_revoking_an_unknown_key_says_where_ids_are_listed(site: Site):
    with pytest.raises(PlugskyError) as refused:
        site.keys.revoke("nothere1")
    assert (refused.value.kind, refused.value.next) == (ErrorKind.NOT_FOUND, "plugsky key list")


def test_the_list_shows_no_secret_and_one_tenant_when_asked(site: Site):
    first = site.keys.create("a", name="one", models=("m",), days=2).record
    site.clock.pass_(seconds=1)
    second = site.keys.create("b").record
    assert site.keys.list() == (first, second)
    assert site.keys.list("b") == (second,)
    assert site.keys.list("c") == ()
    assert first.prefix == f"psk_{first.id}"


@pytest.mark.parametrize(
    ("param", "arguments"),
    [
        ("tenant", {"tenant": ""}),
        ("tenant", {"tenant": "Upper"}),
        ("tenant", {"tenant": "a" * 65}),
        ("tenant", {"tenant": "../etc"}),
        ("name", {"tenant": "a", "name": "x" * 65}),
        ("name", {"tenant": "a", "name": "bell\a"}),
        ("models", {"tenant": "a", "models": ()}),
        ("models", {"tenant": "a", "models": ("Not A Model",)}),
        ("models", {"tenant": "a", "models": ("a,b",)}),
        ("days", {"tenant": "a", "days": 0}),
        ("days", {"tenant": "a", "days": 3651}),
    ],
)
def test_a_key_with_a_wrong_property_is_refused_by_name(site: Site, param: str, arguments: dict):
    with pytest.raises(PlugskyError) as refused:
        site.keys.create(**arguments)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, param)
    assert site.keys.list() == ()


def test_a_witness_that_refuses_undoes_the_key(site: Site):
    def refuse(_key: object) -> None:
        raise PlugskyError(ErrorKind.OVERLOADED, "the audit trail cannot be written")

    with pytest.raises(PlugskyError):
        site.keys.create("demo", witness=refuse)
    assert site.keys.list() == ()
    key = site.keys.create("demo")
    with pytest.raises(PlugskyError):
        site.keys.revoke(key.record.id, witness=refuse)
    assert site.ask(key.secret).tenant == "demo"


def test_a_lost_pepper_is_not_silently_replaced(site: Site):
    (site.paths.state / "pepper").unlink()
    Keys.open(site.database, site.paths, site.clock)  # no keys yet: nothing depends on it
    site.keys.create("demo")
    (site.paths.state / "pepper").unlink()
    with pytest.raises(PlugskyError) as refused:
        Keys.open(site.database, site.paths, site.clock)
    assert refused.value.kind is ErrorKind.TAMPERED
    assert "backup" in refused.value.next
    assert not (site.paths.state / "pepper").exists()


@pytest.mark.parametrize("length", [0, 1, 31, 33])
def test_a_pepper_of_another_length_is_none(site: Site, length: int):
    (site.paths.state / "pepper").write_bytes(bytes(length))
    with pytest.raises(PlugskyError) as refused:
        Keys.open(site.database, site.paths, site.clock)
    assert refused.value.kind is ErrorKind.TAMPERED
    assert f"{length} bytes" in refused.value.why


def test_keys_survive_a_restart(site: Site, tmp_path: Path, where: Path | str):
    key = site.keys.create("demo")
    again = Site(tmp_path, where)
    assert again.ask(key.secret).tenant == "demo"
    again.database.close()


def test_a_stolen_database_without_the_pepper_verifies_no_guess(site: Site, tmp_path: Path):
    key = site.keys.create("demo")
    with site.database.read() as thief:
        digest = bytes(thief.scalar(text("SELECT digest FROM apikey")))
    assert digest != key_text.digest_of(key.secret, b"")
    assert digest == key_text.digest_of(key.secret, (site.paths.state / "pepper").read_bytes())


SCHEMES = st.sampled_from([b"", b"Bearer ", b"bearer\t", b"Basic ", b" BEARER  "])
NAMES = st.sampled_from([b"authorization", b"x-api-key", b"cookie"])


@given(st.lists(st.tuples(NAMES, SCHEMES, st.binary(max_size=80)), max_size=4))
def test_any_headers_give_at_most_the_one_text_that_a_single_one_carries(
    headers: list[tuple[bytes, bytes, bytes]],
):
    found = key_text.key_in([(name, scheme + value) for name, scheme, value in headers])
    texts = [(name, (scheme + value).strip().decode()) for name, scheme, value in headers if (scheme + value).isascii()]
    carried = [
        text.partition(" ")[2].strip() if name == b"authorization" else text
        for name, text in texts
        if name == b"x-api-key" or (name == b"authorization" and text.lower().startswith("bearer "))
    ]
    told = [text for text in carried if text]
    assert found == (told[0] if len(told) == 1 else None)


@given(st.text(max_size=80))
def test_only_the_exact_form_is_a_key(text: str):
    key_id = key_text.id_of(text)
    assert key_id is None or (text.startswith(f"psk_{key_id}_") and len(text) == 56)


def test_what_is_known_at_hand_is_what_was_asked_for_within_half_a_second(site: Site):
    key = site.keys.create("demo")
    headers = [(b"x-api-key", key.secret.encode())]
    assert site.keys.at_hand(headers) is None
    principal = site.keys.authenticate(headers)
    assert site.keys.at_hand(headers) == principal
    assert site.keys.at_hand([(b"x-api-key", key.secret[:-1].encode() + b"!")]) is None
    assert site.keys.at_hand([]) is None
    site.clock.pass_(seconds=0.6)
    assert site.keys.at_hand(headers) is None


def test_a_key_that_was_revoked_or_has_expired_is_not_at_hand(site: Site):
    revoked, short = site.keys.create("demo"), site.keys.create("demo", days=1)
    for key in (revoked, short):
        site.keys.authenticate([(b"x-api-key", key.secret.encode())])
    site.keys.revoke(revoked.record.id)
    assert site.keys.at_hand([(b"x-api-key", revoked.secret.encode())]) is None
    site.clock.moment += timedelta(days=2)  # as when the host's clock is set
    assert site.keys.at_hand([(b"x-api-key", short.secret.encode())]) is None
