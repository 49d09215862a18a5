"""``plugsky serve``: one running site, what it survives, and how it ends."""

import os
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest
from openai import APIConnectionError, InternalServerError, OpenAI

from appliance.serving import MODEL, ask, command, install_site, served
from plugsky.core.errors import ExitCode

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def paths(tmp_path_factory, chat_model):
    """A site with the real model, installed once."""
    return install_site(tmp_path_factory.mktemp("site"), chat_model)


@pytest.fixture(scope="module")
def running(paths):
    """That site, running; several tests look at it."""
    with served(paths) as (process, base_url):
        yield process, base_url


@pytest.fixture(scope="module")
def client(paths, running):
    key = ask(paths, "key", "create", "--tenant", "lab")["secret"]
    with OpenAI(base_url=running[1], api_key=key, max_retries=0, timeout=120) as client:
        yield client


def say_hello(client):
    """One short answer of the real model."""
    return client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, temperature=0
    )


def pids(paths):
    """The processes of the site by what they are."""
    found = {"engine": ask(paths, "model", "list")["models"][0]["pid"]}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"gateway" in words and str(paths.root).encode() in words:
                found["gateway"] = int(entry.name)
    return found


def until(question, what, seconds=60):
    """Ask until the answer is true."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if question():
            return
        time.sleep(0.1)
    pytest.fail(f"it never came to this: {what}")


def answers(client):
    try:
        return bool(say_hello(client).choices)
    except (InternalServerError, APIConnectionError):
        return False


def test_it_answers_and_every_command_sees_the_same_site(paths, client):
    reply = say_hello(client)
    assert reply.choices[0].message.content
    (row,) = ask(paths, "usage", "report", "--tenant", "lab")["rows"]
    assert row["completion_tokens"] >= reply.usage.completion_tokens
    (model,) = ask(paths, "model", "list")["models"]
    assert model["state"] == "ready"
    findings = {finding["check"]: finding for finding in ask(paths, "doctor")["findings"]}
    assert findings["gateway"]["state"] == "ok"
    assert findings[f"engine {MODEL}"]["state"] == "ok"


def test_people_read_the_same_in_words(paths, client):
    say_hello(client)
    for words, expected in (
        (("key", "list"), "lab"),
        (("usage", "report"), "lab"),
        (("model", "list"), "ready"),
        (("audit", "search", "--limit", 5), "request"),
        (("console", "--plain"), "Model smollm2-135m-instruct: ready"),
    ):
        done = subprocess.run(command(paths, *words), capture_output=True, text=True, check=True, input="q\n")
        assert expected in done.stdout, words


def test_it_listens_on_loopback_only_and_its_engine_on_no_network(paths, running):
    engine = pids(paths)["engine"]
    if Path(f"/proc/{engine}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
        pytest.skip("the kernel lets this user make no network namespace")
    links = Path(f"/proc/{engine}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in links] == ["lo"]
    assert running[1].startswith("http://127.0.0.1:")


def test_what_it_keeps_and_says_is_its_owners_alone(paths, running):
    assert stat.S_IMODE(paths.run.stat().st_mode) == 0o700
    for path in (paths.database, paths.trust / "site-key.pem", *paths.logs.iterdir()):
        assert not path.stat().st_mode & 0o007, path


def test_a_second_one_on_the_same_site_is_refused(paths, running):
    done = subprocess.run(command(paths, "serve", "--port", 0), capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "already" in done.stderr


@pytest.mark.parametrize("victim", ["engine", "gateway"])
def test_a_killed_process_comes_back_and_the_trail_stays_whole(paths, client, victim):
    before = pids(paths)[victim]
    os.kill(before, signal.SIGKILL)
    until(lambda: pids(paths).get(victim, before) not in (0, before), f"another {victim}")
    until(lambda: answers(client), "an answer")
    time.sleep(0.2)  # the group commit of the last request's record
    verdict = ask(paths, "audit", "verify")
    assert verdict["ok"], verdict["problems"]


def test_a_marked_prompt_and_a_key_are_in_no_file_of_the_site(paths, client):
    marker = "xylophonic-quagga-prompt"
    client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": marker}], max_tokens=4)
    secrets = (marker.encode(), client.api_key.encode(), client.api_key.split("_")[2].encode())
    for path in paths.root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 50_000_000:
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def test_a_port_in_use_is_named_before_anything_starts(paths, tmp_path, chat_model):
    other = install_site(tmp_path, chat_model)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(command(other, "serve", "--port", port), capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.FAILED
    assert f"Port {port} of 127.0.0.1 is in use." in done.stderr
    assert not list(other.run.glob("engines/*"))


def test_an_address_beyond_loopback_is_refused_by_policy(paths):
    every_address = ".".join("0000")
    done = subprocess.run(command(paths, "serve", "--host", every_address), capture_output=True, text=True, check=False)
    assert done.returncode in (ExitCode.REFUSED_BY_POLICY, ExitCode.FAILED)
    assert "may not listen" in done.stderr or "already" in done.stderr


def test_a_model_file_that_was_damaged_on_disk_is_named_and_nothing_stays(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    (model,) = site.current.glob("models/*/*.gguf")
    target = model.resolve()
    target.chmod(0o640)
    target.write_bytes(b"this is no model" * 1000)
    done = subprocess.run(command(site, "serve", "--port", 0), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == ExitCode.UNREACHABLE
    assert "No model of this site can be served" in done.stderr
    assert "GGUF" in done.stderr
    assert not site.admin_socket.exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.OK)])
def test_it_ends_in_good_order_when_asked(tmp_path, chat_model, number, code):
    site = install_site(tmp_path, chat_model)
    with served(site, expect=code) as (process, _):
        process.send_signal(number)
        process.wait(60)
    assert not site.admin_socket.exists()
    assert not site.gateway_socket.exists()
    assert ask(site, "audit", "verify")["ok"]
