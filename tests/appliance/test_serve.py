"""``plugsky serve``: one running site, what it survives, and how it ends."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

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
    (generation,) = ask(paths, "generation", "list")["generations"]
    assert generation["served"], "nobody may prune what is running"
    findings = {finding["check"]: finding for finding in ask(paths, "doctor")["findings"]}
    assert findings["gateway"]["state"] == "ok"
    assert findings[f"engine {MODEL}"]["state"] == "ok"


def test_a_client_is_told_the_context_that_is_served_also_before_the_first_request(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    with served(site, "--context", 512) as (_, base_url):
        key = ask(site, "key", "create", "--tenant", "lab")["secret"]
        with OpenAI(base_url=base_url, api_key=key) as client:
            assert client.models.retrieve(MODEL).context_length == 512
        assert ask(site, "model", "list")["models"][0]["context"] == 512


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
    secrets = (marker.encode(), client.api_key.encode(), client.api_key.split("_", 2)[2].encode())
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


def test_an_address_beyond_loopback_is_refused_by_policy(tmp_path, chat_model):
    other = install_site(tmp_path, chat_model)
    every_address = ".".join("0000")
    done = subprocess.run(command(other, "serve", "--host", every_address), capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.REFUSED_BY_POLICY
    assert f"may not listen on {every_address}" in done.stderr


def test_it_is_found_and_stays_the_only_one_in_any_environment(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    with tempfile.TemporaryDirectory(prefix="ps") as short, served(site, XDG_RUNTIME_DIR=short):
        bare = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        (model,) = ask(site, "model", "list", env=bare)["models"]
        assert model["state"] == "ready"
        second = command(site, "serve", "--port", 0)
        done = subprocess.run(second, capture_output=True, text=True, check=False, env=bare, timeout=60)
        assert done.returncode == ExitCode.FAILED
        assert f"The site at {site.root} is running already" in done.stderr


def test_its_address_is_a_url_also_where_it_is_an_ipv6_address(tmp_path, chat_model):
    if not Path("/proc/net/if_inet6").exists() or "lo" not in Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6 loopback")
    site = install_site(tmp_path, chat_model)
    with served(site, "--host", "::1") as (_, base_url):
        assert base_url.startswith("http://[::1]:")
        with OpenAI(base_url=base_url, api_key=ask(site, "key", "create", "--tenant", "lab")["secret"]) as client:
            assert [model.id for model in client.models.list()] == [MODEL]


def test_a_process_that_was_started_by_one_that_is_gone_ends_at_once(paths):
    gone = ("--exit-with-parent", os.getppid())
    for words in (("serve", "--port", 0), ("gateway", "run")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            done = subprocess.run(
                ["bash", "-c", f'exec "$@" 3<&{listener.fileno()}', "bash", *command(paths, *words, *gone)],
                env={**os.environ, "LISTEN_FDS": "1"},
                pass_fds=[listener.fileno()],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
        assert (done.returncode, done.stdout) == (ExitCode.FAILED, ""), words


def test_a_gateway_that_comes_back_serves_the_generation_that_the_site_began_with(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    key = ask(site, "key", "create", "--tenant", "lab")["secret"]
    with served(site) as (_, base_url), OpenAI(base_url=base_url, api_key=key) as client:
        shutil.copytree(site.generations / "1", site.generations / "2", copy_function=os.link, symlinks=True)
        (site.generations / "2" / "models" / MODEL).rename(site.generations / "2" / "models" / "newcomer")
        entry = site.generations / "2" / "models" / "newcomer" / "model.json"
        content = entry.read_text().replace(MODEL, "newcomer")
        entry.unlink()
        entry.write_text(content)
        site.current.unlink()
        site.current.symlink_to("generations/2")
        before = pids(site)["gateway"]
        os.kill(before, signal.SIGKILL)
        until(lambda: pids(site).get("gateway", before) != before, "another gateway")
        until(lambda: answers(client), "an answer of the model that the engines hold")
        assert [model.id for model in client.models.list()] == [MODEL]
        assert [model["id"] for model in ask(site, "model", "list")["models"]] == [MODEL]


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


def test_one_that_was_killed_is_replaced_at_once_though_its_last_answer_is_still_being_given(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    key = ask(site, "key", "create", "--tenant", "lab")["secret"]
    with (
        served(site, expect=-signal.SIGKILL) as (process, base_url),
        OpenAI(base_url=base_url, api_key=key, max_retries=0) as client,
    ):
        story = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me a long story."}],
            max_tokens=300,
            temperature=0,
            stream=True,
        )
        next(iter(story))
        process.kill()
        process.wait()
        with served(site, "--port", urlsplit(base_url).port):
            assert list(story)[-1].choices[0].finish_reason in ("stop", "length")
            assert answers(client)


def test_an_engine_that_nobody_asks_gives_its_memory_back_until_somebody_does(tmp_path, chat_model):
    site = install_site(tmp_path, chat_model)
    key = ask(site, "key", "create", "--tenant", "lab")["secret"]
    with served(site, "--idle-exit", 1) as (_, base_url), OpenAI(base_url=base_url, api_key=key) as client:
        first = pids(site)["engine"]
        assert say_hello(client).choices
        until(lambda: ask(site, "model", "list")["models"][0]["state"] == "absent", "an engine that ended")
        assert not Path(f"/proc/{first}").exists()
        assert say_hello(client).choices, "the request that wakes it is answered"
        until(lambda: ask(site, "model", "list")["models"][0]["state"] == "absent", "that it ended again")
        findings = {finding["check"]: finding for finding in ask(site, "doctor")["findings"]}
        assert findings[f"engine {MODEL}"]["state"] == "ok", findings


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.OK)])
def test_it_ends_in_good_order_when_asked(tmp_path, chat_model, number, code):
    site = install_site(tmp_path, chat_model)
    with served(site, expect=code) as (process, _):
        process.send_signal(number)
        process.wait(60)
    assert not site.run.exists()
    assert not site.run_link.is_symlink()
    assert ask(site, "audit", "verify")["ok"]
