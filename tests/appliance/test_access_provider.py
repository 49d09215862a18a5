"""ID tokens in the place of passwords: a real OpenID provider's, and all that must not be taken for one."""

import hmac
import json
import logging
import warnings
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, KeySet, OKPKey, RSAKey

from appliance.hand_clock import HandClock
from oidc_provider import CLIENT, OTHER_CLIENT, PERSON, OidcProvider
from plugsky.access import provider
from plugsky.access.logins import Logins, Source
from plugsky.access.provider import MAX_AGE_S, Provider, provider_of
from plugsky.core import settings
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.state import open_database

ISSUER = "https://people.example"
NOW = int(HandClock().now().timestamp())
FACTS = {"iss": ISSUER, "aud": CLIENT, "sub": "5c1f", "iat": NOW - 5, "exp": NOW + 300, "nonce": "n"}
RSA, EC, ED = (
    RSAKey.generate_key(2048, {"kid": "rsa"}),
    ECKey.generate_key("P-256", {"kid": "ec"}),
    OKPKey.generate_key("Ed25519", {"kid": "ed"}),
)


@pytest.mark.integration
def test_a_token_of_a_real_provider_says_who_somebody_is(oidc: OidcProvider):
    real = Provider(oidc.issuer, CLIENT, "sub", oidc.keys, SystemClock())
    tokens = oidc.tokens()
    assert real.knows(PERSON, tokens["id_token"])
    assert real.knows(PERSON, f"\n{tokens['id_token']}\n")
    assert not real.knows("dave", tokens["id_token"])
    assert not real.knows(PERSON, oidc.tokens(OTHER_CLIENT)["id_token"])
    assert not replace(real, issuer="https://elsewhere.example").knows(PERSON, tokens["id_token"])
    later = HandClock(datetime.now(UTC) + timedelta(seconds=MAX_AGE_S + 60))
    assert not replace(real, clock=later).knows(PERSON, tokens["id_token"]), "it is good for an hour, but old"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Provider:
    """A provider whose private keys are ours, so that it can say anything."""
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    keys.write_text(json.dumps(KeySet([RSA, EC, ED]).as_dict(private=False)))
    return Provider(ISSUER, CLIENT, "sub", keys, HandClock())


def signed(key: Key = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **facts: object) -> str:
    """A token; a fact that is None is left out."""
    claims = {name: value for name, value in {**FACTS, **facts}.items() if value is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given = {"alg": alg, "kid": key.kid, **(header or {})}
        return jwt.encode({k: v for k, v in given.items() if v is not None}, claims, key, [alg])


@pytest.mark.parametrize(
    ("key", "alg"),
    [*((RSA, alg) for alg in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")), (EC, "ES256"), (ED, "Ed25519")],
)  # fmt: skip
def test_every_public_key_algorithm_is_read(ours: Provider, key: Key, alg: str):
    assert ours.knows("5c1f", signed(key, alg))


def test_an_audience_may_be_a_list_that_says_who_got_it(ours: Provider):
    assert ours.knows("5c1f", signed(aud=[CLIENT]))
    assert ours.knows("5c1f", signed(aud=["wiki", CLIENT], azp=CLIENT))


REFUSED: dict[str, Callable[[], str]] = {
    "another issuer": lambda: signed(iss="https://people.example.org"),
    "an issuer with a slash": lambda: signed(iss=ISSUER + "/"),
    "no issuer": lambda: signed(iss=None),
    "an issuer in a list": lambda: signed(iss=[ISSUER]),
    "another audience": lambda: signed(aud="wiki"),
    "no audience": lambda: signed(aud=None),
    "an empty audience": lambda: signed(aud=[]),
    "an audience of another type": lambda: signed(aud={CLIENT: 1}),
    "several audiences and nobody who got it": lambda: signed(aud=[CLIENT, "wiki"]),
    "got by another program": lambda: signed(azp="wiki"),
    "another subject": lambda: signed(sub="5c1e"),
    "a subject that begins alike": lambda: signed(sub="5c1f0"),
    "a subject in a list": lambda: signed(sub=["5c1f"]),
    "no subject": lambda: signed(sub=None),
    "expired": lambda: signed(exp=NOW - 31),
    "no end": lambda: signed(exp=None),
    "an end that is text": lambda: signed(exp=str(NOW + 300)),
    "an end that is no number": lambda: signed(exp=float("nan")),
    "old": lambda: signed(iat=NOW - MAX_AGE_S - 1, exp=NOW + 10**6),
    "from the future": lambda: signed(iat=NOW + 31),
    "no time": lambda: signed(iat=None),
    "a time that is true": lambda: signed(iat=True),
    "not yet": lambda: signed(nbf=NOW + 31),
    "an access token of RFC 9068": lambda: signed(header={"typ": "at+jwt"}),
    "a logout token": lambda: signed(header={"typ": "logout+jwt"}),
    "an access token of Keycloak": lambda: signed(typ="Bearer"),
    "an access token with a scope": lambda: signed(scope="openid"),
    "a key that is not there": lambda: signed(RSAKey.generate_key(2048, {"kid": "other"})),
    "another key under a known name": lambda: signed(RSAKey.generate_key(2048, {"kid": "rsa"})),
    "no key named": lambda: signed(header={"kid": None}),
    "a key of its own": lambda: signed(
        (stranger := RSAKey.generate_key(2048, {"kid": "mine"})), header={"jwk": stranger.as_dict(private=False)}
    ),
    "keys elsewhere": lambda: signed(
        RSAKey.generate_key(2048, {"kid": "rsa"}), header={"jku": "https://evil.example/keys"}
    ),
    "the public key as a secret": lambda: _by_hand(
        {"alg": "HS256", "kid": "rsa"}, lambda text: hmac.digest(RSA.as_pem(private=False), text, "sha256")
    ),
    "an algorithm of another key": lambda: signed(EC, "ES256", header={"kid": "rsa"}),
    "something critical": lambda: _by_hand({"alg": "RS256", "kid": "rsa", "crit": ["exp"], "exp": 1}, _rs256),
    "not signed": lambda: _by_hand({"alg": "none", "typ": "JWT"}, lambda _: b""),
    "not signed, in capitals": lambda: _by_hand({"alg": "NonE", "typ": "JWT"}, lambda _: b""),
    "no algorithm": lambda: _by_hand({"kid": "rsa"}, _rs256),
    "no claims": lambda: jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b"[]", RSA),
    "claims that are no JSON": lambda: jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b"\xff{", RSA),
    "cut": lambda: signed()[:-4],
    "nothing": lambda: "",
    "dots": lambda: "..",
    "long": lambda: signed(sub="5c1f", more="x" * 20_000),
    "letters of another script": lambda: signed() + "é",
}


def _by_hand(header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    """A token that no library makes."""
    text = b".".join(_base64(json.dumps(part).encode()) for part in (header, FACTS))
    return (text + b"." + _base64(sign(text))).decode()


def _base64(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _rs256(text: bytes) -> bytes:
    return RSA.private_key.sign(text, padding.PKCS1v15(), hashes.SHA256())


def test_a_token_by_hand_is_one_like_all_others(ours: Provider):
    assert ours.knows("5c1f", _by_hand({"alg": "RS256", "kid": "rsa"}, _rs256))


@pytest.mark.parametrize("made", REFUSED.values(), ids=REFUSED)
def test_whatever_is_no_such_token_is_refused(ours: Provider, made: Callable[[], str]):
    assert not ours.knows("5c1f", made())


@given(st.text(max_size=60), st.integers(0, 900), st.integers(0, 255))
def test_a_token_that_was_touched_is_refused_and_nothing_else_happens(touched: str, place: int, bit: int):
    token = signed()
    at = place % len(token)
    other = token[:at] + chr(ord(token[at]) ^ (bit % 7 + 1)) + token[at + 1 :]
    assert not _OURS.knows("5c1f", touched)
    if other.rpartition(".")[0] != token.rpartition(".")[0]:
        assert not _OURS.knows("5c1f", other)


_OURS: Provider


@pytest.fixture(autouse=True, scope="module")
def _shared(ours: Provider) -> None:
    global _OURS
    _OURS = ours


def test_keys_that_are_exchanged_count_at_once(ours: Provider, tmp_path: Path):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(KeySet([EC]).as_dict(private=False)))
    new = replace(ours, keys=keys)
    assert not new.knows("5c1f", signed())
    keys.write_text(json.dumps(KeySet([RSA]).as_dict(private=False)))
    assert new.knows("5c1f", signed())
    assert new.knows("5c1f", signed(header={"kid": None})), "there is only one"


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{}", b"[]", b'{"keys": []}', b'{"keys": 7}', b'{"keys": [7]}', b'{"keys": [{"kty": "RSA"}]}',
     b'{"keys": [{"kty": "RSA", "n": 7, "e": []}]}', b"\xff", b"[" * 100_000, b'{"keys": [{"kty": "oct", "k": "!"}]}'],
    ids=lambda content: repr(content)[:30],
)  # fmt: skip
def test_keys_that_cannot_be_read_are_told_and_open_nothing(ours: Provider, tmp_path: Path, content: bytes | None):
    keys = tmp_path / "keys.json"
    if content is not None:
        keys.write_bytes(content)
    with pytest.raises(PlugskyError) as refused:
        replace(ours, keys=keys).knows("5c1f", signed())
    assert refused.value.kind is ErrorKind.UNREACHABLE
    assert str(keys) in refused.value.why


def test_why_a_token_was_refused_is_in_the_log_without_the_token(ours: Provider, caplog: pytest.LogCaptureFixture):
    token = signed(aud="wiki")
    with caplog.at_level(logging.WARNING, provider.__name__):
        assert not ours.knows("5c1f", token)
    assert "aud" in caplog.text
    assert token[:40] not in caplog.text


def test_a_claim_that_the_settings_name_says_who_it_is(ours: Provider):
    by_name = replace(ours, claim="preferred_username")
    assert by_name.knows("carol", signed(preferred_username="carol"))
    assert not by_name.knows("5c1f", signed(preferred_username="carol"))
    assert not by_name.knows("carol", signed(sub="carol"))


@pytest.mark.parametrize(
    ("source", "subject", "param"),
    [("oidc", "", "subject"), ("local", "5c1f", "subject"), ("oidc", "x" * 256, "subject"),
     ("oidc", "a\x00b", "subject"), ("ldap", "", "source")],
)  # fmt: skip
def test_a_login_that_nobody_could_vouch_for_is_not_made(
    ours: Provider, tmp_path: Path, source: str, subject: str, param: str
):
    database = open_database(tmp_path / "site.db")
    logins = Logins(database, HandClock(), bytes(32), {Source.OIDC: ours})
    with pytest.raises(PlugskyError) as refused:
        logins.add("carol", "viewer", source, subject)
    assert (refused.value.kind, refused.value.param) == (ErrorKind.BAD_REQUEST, param)
    made = logins.add("carol", "viewer", "oidc", "5c1f")
    assert (made.password, made.record.subject) == ("", "5c1f")
    database.close()


WHOLE = {"PLUGSKY_OIDC_ISSUER": ISSUER, "PLUGSKY_OIDC_CLIENT": CLIENT, "PLUGSKY_OIDC_KEYS": __file__}


def from_environment(environ: dict[str, str]) -> Provider | None:
    return provider_of(settings.load({}, environ, Path("/nonexistent")).values, HandClock())


def test_a_provider_is_made_of_its_settings():
    assert from_environment({}) is None
    found = from_environment(WHOLE)
    assert found is not None
    assert (found.issuer, found.client, found.claim, found.keys) == (ISSUER, CLIENT, "sub", Path(__file__))


@pytest.mark.parametrize("name", WHOLE)
def test_half_a_provider_is_refused_by_name(name: str):
    with pytest.raises(PlugskyError) as refused:
        from_environment({**WHOLE, name: ""})
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert name.removeprefix("PLUGSKY_").lower() in refused.value.what
