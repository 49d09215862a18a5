"""The main job as its people do it: an operator builds and signs, a sysadmin installs, a developer gets an answer.

Every step is the public command, run as its own process; nothing is imported from the product. The model is the real
SmolLM2-135M-Instruct from its PyPI wheel, the client is the unmodified ``openai`` package.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pseudo_terminal import Terminal

pytestmark = pytest.mark.journey
ROOT = Path(__file__).parents[2]
MODEL = "smollm2-135m-instruct"


class Person:
    """Someone at a shell: runs commands in an environment of their own and remembers nothing else."""

    def __init__(self, environment):
        self.environment = {**os.environ, **environment, "PYTHONDONTWRITEBYTECODE": ""}

    def run(self, *command, program=(sys.executable, "-m", "plugsky"), expect=0, timeout=600):
        done = subprocess.run(
            [*program, *map(str, command)], env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == expect, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *command, **options):
        return json.loads(self.run(*command, "--json", **options).stdout)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A connected machine and a facility, as two directories; the media is the only thing between them."""
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def operator(desk):
    return Person({"PLUGSKY_TRUST": str(desk / "trust"), "PLUGSKY_PASSPHRASE": "correct horse battery staple"})


@pytest.fixture(scope="module")
def bundle(desk, operator):
    """A bundle built, signed and sealed by the operator's commands."""
    operator.run("trust", "init", "--out", desk / "trust")
    built = operator.json("bundle", "build", ROOT / "bundles/recipes/demo.toml", "--out", desk / "media")
    operator.run("trust", "sign", built["path"])
    operator.run("bundle", "seal", built["path"])
    return Path(built["path"])


@pytest.fixture(scope="module")
def pin(desk):
    """What the paper says: the fingerprint of the root, as the operator reads it out."""
    return Person({}).json("trust", "show", "--trust", desk / "trust")["root_fingerprint"]


@pytest.fixture(scope="module")
def sysadmin(desk):
    return Person({"PLUGSKY_ROOT": str(desk / "site"), "PLUGSKY_PORT": str(free_port())})


@pytest.fixture(scope="module")
def site(desk, sysadmin, bundle, pin):
    """The site, installed and running from its own generation."""
    sysadmin.run("bundle", "install", bundle, "--pin", pin, "--yes")
    plugsky = desk / "site/current/venv/bin/plugsky"
    with (desk / "serve.log").open("w") as log:
        process = subprocess.Popen([plugsky, "serve"], env=sysadmin.environment, stdout=log, stderr=log)
    for _ in range(600):
        if process.poll() is not None or (desk / "serve.log").read_text().count("ready"):
            break
        time.sleep(0.1)
    assert process.poll() is None, (desk / "serve.log").read_text()
    yield plugsky
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, (desk / "serve.log").read_text()


def test_the_operators_bundle_verifies_and_says_who_signed_what(operator, bundle, pin):
    verdict = operator.json("bundle", "verify", bundle, "--pin", pin)
    assert verdict["verified"]
    assert verdict["channel"] == "demo"
    assert verdict["checks"]
    inside = operator.json("bundle", "inspect", bundle, "--pin", pin)
    model = next(model for model in inside["models"] if model["id"] == MODEL)
    assert model["licence"] == "Apache-2.0"
    assert model["size"] > 90_000_000


def test_a_developer_gets_a_streamed_answer_and_the_ledger_and_the_trail_agree(sysadmin, site, desk):
    key = sysadmin.json("key", "create", "--tenant", "demo", program=(site,))["secret"]
    base_url = f"http://127.0.0.1:{sysadmin.environment['PLUGSKY_PORT']}/v1"
    developer = Person({"OPENAI_API_KEY": key})
    program = (sys.executable, str(ROOT / "docs/examples/ask.py"))
    answer = developer.run(base_url, MODEL, "Where is the Eiffel Tower?", program=program)
    assert answer.stdout.strip()
    report = sysadmin.json("usage", "report", program=(site,))
    (row,) = [row for row in report["rows"] if row["tenant"] == "demo"]
    assert f"[{row['prompt_tokens']} prompt + {row['completion_tokens']} completion tokens" in answer.stderr
    verdict = sysadmin.json("audit", "verify", program=(site,))
    assert verdict["ok"], verdict["problems"]
    assert any("trust init" in link for link in verdict["links"])


def test_the_console_opens_on_the_running_site_and_gives_the_terminal_back(sysadmin, site):
    environment = {name: sysadmin.environment[name] for name in ("PLUGSKY_ROOT", "PATH")}
    console = Terminal([str(site), "console"], {**environment, "TERM": "xterm-256color"})
    for words in (MODEL, "ready", "NOT PROVEN", "demo"):
        console.until(words)
    console.press(b"q")
    assert console.exit_code() == 0


def test_the_doctor_finds_the_running_site_healthy(sysadmin, site):
    findings = sysadmin.json("doctor", program=(site,))["findings"]
    assert [f for f in findings if f["state"] == "failed"] == []


def test_a_model_that_is_not_there_and_a_wrong_key_are_told_apart(sysadmin, site):
    base_url = f"http://127.0.0.1:{sysadmin.environment['PLUGSKY_PORT']}/v1"
    program = (sys.executable, str(ROOT / "docs/examples/ask.py"))
    stranger = Person({"OPENAI_API_KEY": "psk_00000000_" + "x" * 43})
    assert "AuthenticationError" in stranger.run(base_url, MODEL, "Hello", program=program, expect=1).stderr
    key = sysadmin.json("key", "create", "--tenant", "demo", program=(site,))["secret"]
    developer = Person({"OPENAI_API_KEY": key})
    assert "NotFoundError" in developer.run(base_url, "gpt-9", "Hello", program=program, expect=1).stderr


def test_a_second_site_on_the_same_port_is_refused_with_the_next_command(desk, bundle, pin, sysadmin, site):
    port = sysadmin.environment["PLUGSKY_PORT"]
    other = Person({"PLUGSKY_ROOT": str(desk / "second"), "PLUGSKY_PORT": port})
    other.run("bundle", "install", bundle, "--pin", pin, "--yes")
    refused = other.run("serve", program=(desk / "second/current/venv/bin/plugsky",), expect=1)
    assert f"Port {port} of 127.0.0.1 is in use." in refused.stderr
    assert "--port" in refused.stderr


def test_the_same_site_twice_is_refused_by_name(desk, sysadmin, site):
    refused = sysadmin.run("serve", program=(site,), expect=1)
    assert f"The site at {desk / 'site'} is running already" in refused.stderr
