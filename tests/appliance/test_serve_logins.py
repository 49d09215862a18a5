"""A site that wants to know who administers it: people log in at a real terminal, one by the site's own directory."""

import json
import os
import re
import subprocess
from base64 import b32decode
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP

from appliance.serving import ask, command, install_site, served
from ldap_server import BASE, BIND, FILTER, PASSWORDS
from oidc_provider import CLIENT, PERSON
from plugsky.core.errors import ExitCode
from pseudo_terminal import Terminal

pytestmark = pytest.mark.integration
TOKEN = re.compile(rb"[A-Za-z0-9_-]{43}(?=\r?\n)")


@pytest.fixture(scope="module")
def paths(tmp_path_factory, chat_model):
    return install_site(tmp_path_factory.mktemp("site"), chat_model)


@pytest.fixture(scope="module")
def environ(ldap, oidc):
    return {
        "PLUGSKY_LOGINS": "required",
        "PLUGSKY_LDAP_URL": ldap.url,
        "PLUGSKY_LDAP_BIND": BIND,
        "PLUGSKY_LDAP_BASE": BASE,
        "PLUGSKY_LDAP_FILTER": FILTER,
        "PLUGSKY_LDAP_AUTHORITIES": str(ldap.authority),
        "PLUGSKY_OIDC_ISSUER": oidc.issuer,
        "PLUGSKY_OIDC_CLIENT": CLIENT,
        "PLUGSKY_OIDC_KEYS": str(oidc.keys),
    }


def code_of(made):
    secret = b32decode(parse_qs(urlsplit(made["uri"]).query)["secret"][0])
    now = int(datetime.now(UTC).timestamp())
    return TOTP(secret, 6, SHA1(), 30).generate(now).decode()  # noqa: S303 - what apps speak


def failed(paths, *words, environ=None):
    done = subprocess.run(
        command(paths, *words, "--json"),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    assert done.returncode != ExitCode.OK
    return done.returncode, json.loads(done.stderr.strip().splitlines()[-1])["error"]


def types(paths, *words, answers):
    """Runs a command at a terminal, where each prompt gets its answer; the child, after its end."""
    child = Terminal(command(paths, *words), {"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    try:
        for prompt, answer in answers:
            child.until(prompt)
            child.press(answer if isinstance(answer, bytes) else answer.encode() + b"\n")
        child.code = child.exit_code()
        return child
    finally:
        child.process.kill()
        os.close(child.master)


def test_a_site_where_nobody_could_log_in_as_administrator_does_not_start(paths, environ):
    code, error = failed(paths, "serve", "--port", 0, environ=environ)
    assert code == ExitCode.FAILED
    assert error["next"].startswith("plugsky login add NAME admin")


def test_people_log_in_and_what_they_do_is_theirs(paths, environ, oidc, tmp_path):
    with_directory = {**os.environ, **environ}
    head = ask(paths, "login", "add", "head", "admin")
    alice = ask(paths, "login", "add", "alice", "admin", "--ldap", env=with_directory)
    bob = ask(paths, "login", "add", "bob", "admin", "--ldap", env=with_directory)
    carol = ask(paths, "login", "add", "carol", "auditor", "--oidc", PERSON, env=with_directory)
    assert alice["password"] == carol["password"] == ""
    with served(paths, **environ):
        code, error = failed(paths, "key", "list")
        assert code == ExitCode.NOT_AUTHORISED
        assert error["next"].startswith("plugsky login begin NAME")

        entered = types(
            paths, "login", "begin", "alice", answers=[("Password", PASSWORDS["alice"]), ("Code", code_of(alice))]
        )
        assert entered.code == ExitCode.OK
        assert PASSWORDS["alice"].encode() not in entered.written
        (token,) = TOKEN.findall(entered.written)
        session = {**os.environ, "PLUGSKY_SESSION": token.decode()}
        key = ask(paths, "key", "create", "--tenant", "lab", env=session)
        assert ask(paths, "audit", "search", "--action", "key.create", env=session)["records"][0]["actor"].startswith(
            "alice as "
        )
        assert [row["name"] for row in ask(paths, "login", "list", env=session)["logins"]] == [
            "alice",
            "bob",
            "carol",
            "head",
        ]

        outside = types(
            paths, "login", "begin", "bob", answers=[("Password", PASSWORDS["bob"]), ("Code", code_of(bob))]
        )
        assert outside.code == ExitCode.NOT_AUTHORISED
        assert b"do not fit together" in outside.written

        token_file = tmp_path / "token"
        token_file.write_text(oidc.tokens()["id_token"])
        vouched = types(paths, "login", "begin", "carol", "--token", token_file, answers=[("Code", code_of(carol))])
        assert vouched.code == ExitCode.OK
        (hers,) = TOKEN.findall(vouched.written)
        theirs = {**os.environ, "PLUGSKY_SESSION": hers.decode()}
        assert ask(paths, "audit", "search", "--action", "login.begin", env=theirs)["records"][0]["subject"] == "carol"

        left = types(paths, "login", "begin", "head", answers=[("Password", b"\x04")])
        assert left.code == ExitCode.DECLINED

        changed = types(
            paths, "login", "password", "head",
            answers=[("so far", head["password"]), ("Code", code_of(head)), ("New", "a much longer one"),
                     ("again", "a much longer one")],
        )  # fmt: skip
        assert changed.code == ExitCode.OK

        ended = subprocess.run(command(paths, "login", "end"), env=session, check=False)
        assert ended.returncode == ExitCode.OK
        code, _ = failed(paths, "key", "revoke", key["id"], environ={"PLUGSKY_SESSION": token.decode()})
        assert code == ExitCode.NOT_AUTHORISED
    files = [path for path in paths.root.rglob("*") if path.is_file() and path.suffix != ".gguf"]
    logs = b"".join(path.read_bytes() for path in files)
    for secret in (PASSWORDS["alice"], "a much longer one", token.decode(), head["password"]):
        assert secret.encode() not in logs
