"""Listening sockets: handed over, bound by name, and kept where nobody else can put theirs."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from plugsky.core import listeners, locks
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import MAX_SOCKET_PATH, SitePaths, data_directory, runtime_directory


def test_a_port_in_use_is_named_with_the_way_out():
    with listeners.listen("127.0.0.1", 0) as listener, pytest.raises(PlugskyError) as refused:
        listeners.listen("127.0.0.1", listener.getsockname()[1])
    assert refused.value.kind is ErrorKind.CONFLICT
    assert "--port" in refused.value.next


def test_an_address_that_is_not_of_this_host_is_refused():
    with pytest.raises(PlugskyError, match=r"192\.0\.2\.1"):
        listeners.listen("192.0.2.1", 0)


def test_a_child_takes_the_socket_it_was_handed():
    code = "from plugsky.core.listeners import inherited_listener as take; print(take().getsockname()[1])"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        done = subprocess.run(
            ["bash", "-c", f'exec "$0" -c "$1" 3<&{number}', sys.executable, code],
            env={**os.environ, "LISTEN_FDS": "1"},
            pass_fds=[number],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == str(listener.getsockname()[1]), done.stderr


@pytest.mark.parametrize("names", ["api:control", "control:api"])
def test_a_child_that_is_handed_two_sockets_knows_them_by_name(names):
    code = "from plugsky.core.listeners import inherited_listeners as take; "
    code += "print([s.getsockname()[1] for s in take('api', 'control')])"
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        by_name = dict(zip(names.split(":"), (first, second), strict=True))
        done = subprocess.run(
            ["bash", "-c", f'exec "$0" -c "$1" 3<&{first.fileno()} 4<&{second.fileno()}', sys.executable, code],
            env={**os.environ, "LISTEN_FDS": "2", "LISTEN_FDNAMES": names},
            pass_fds=[first.fileno(), second.fileno()],
            capture_output=True,
            text=True,
            check=False,
        )
        ports = [by_name[name].getsockname()[1] for name in ("api", "control")]
        assert done.stdout.strip() == str(ports), done.stderr


@pytest.mark.parametrize("names", [{}, {"LISTEN_FDNAMES": "api"}, {"LISTEN_FDNAMES": "api:other"}])
def test_two_sockets_without_the_expected_names_are_refused(monkeypatch, names):
    monkeypatch.setenv("LISTEN_FDS", "2")
    monkeypatch.delenv("LISTEN_PID", raising=False)
    monkeypatch.delenv("LISTEN_FDNAMES", raising=False)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PlugskyError, match="api and control"):
        listeners.inherited_listeners("api", "control")


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="nothing was handed over"),
        pytest.param({"LISTEN_FDS": "2"}, id="two were"),
        pytest.param({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, id="it was meant for another"),
    ],
)
def test_a_process_started_by_hand_says_what_starts_it(monkeypatch, environment):
    for name in ("LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PlugskyError) as refused:
        listeners.inherited_listener()
    assert "plugsky serve" in refused.value.next


def test_the_runtime_directory_is_made_private(tmp_path):
    listeners.private_directory(tmp_path / "run")
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


@pytest.mark.parametrize("trap", ["a link", "open to all"])
def test_a_runtime_directory_that_someone_else_prepared_is_refused(tmp_path, trap):
    target = tmp_path / "theirs"
    target.mkdir()
    run = tmp_path / "run"
    if trap == "a link":
        run.symlink_to(target)
    else:
        run.mkdir()
        run.chmod(0o777)
    with pytest.raises(PlugskyError) as refused:
        listeners.private_directory(run)
    assert refused.value.kind is ErrorKind.FORBIDDEN


def test_only_one_process_holds_a_lock(tmp_path):
    with (
        locks.only_one(tmp_path / "lock", "It runs"),
        pytest.raises(PlugskyError, match="already"),
        locks.only_one(tmp_path / "lock", "It runs"),
    ):
        pass


def test_a_lock_is_waited_for_until_the_last_child_that_holds_it_has_ended(tmp_path):
    waits, code = [], "import sys; sys.stdin.read(); print('ended')"
    with locks.one_after_another(tmp_path / "lock", lambda: waits.append("never")) as held:
        child = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=(held,)
        )
    with child, locks.one_after_another(tmp_path / "lock", lambda: (waits.append("once"), child.stdin.close())):
        assert waits == ["once"]
        assert child.stdout.read() == "ended\n"


@pytest.fixture
def short():
    """A directory whose path leaves room for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="psa-") as name:
        yield Path(name)


def test_a_unix_socket_is_open_to_its_owner_and_group_and_replaces_a_dead_one(short):
    for _ in range(2):
        with listeners.bind_unix(short / "s.sock") as listener:
            assert stat.S_IMODE((short / "s.sock").stat().st_mode) == 0o660
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(listener.getsockname())


def test_a_unix_socket_never_takes_the_place_of_a_living_one_or_of_a_file(short):
    (short / "file").write_text("keep me")
    with listeners.bind_unix(short / "s.sock"):
        for name in ("s.sock", "file"):
            with pytest.raises(PlugskyError) as refused:
                listeners.bind_unix(short / name)
            assert refused.value.kind is ErrorKind.CONFLICT
    assert (short / "file").read_text() == "keep me"


def test_a_unix_socket_with_too_long_a_path_is_refused_with_the_limit(short):
    with pytest.raises(PlugskyError, match="too long") as refused:
        listeners.bind_unix(short / ("x" * MAX_SOCKET_PATH))
    assert str(MAX_SOCKET_PATH) in refused.value.why


@pytest.mark.parametrize(("host", "written"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_an_address_is_written_as_a_url_needs_it(host, written):
    try:
        listener = listeners.listen(host, 0)
    except PlugskyError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        assert listeners.authority(listener) == f"{written}:{listener.getsockname()[1]}"


def test_a_command_of_any_environment_finds_the_directory_a_site_was_started_with(monkeypatch, tmp_path):
    root = tmp_path / "site"
    root.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    started = SitePaths.at(root).to_be_started()
    listeners.announce(started)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/2000")
    assert SitePaths.at(root) == started
    again = SitePaths.at(root).to_be_started()
    assert again.run.parent == Path("/run/user/2000")
    listeners.announce(again)
    assert SitePaths.at(root) == again


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a stranger's link")
def test_a_link_that_a_stranger_left_in_a_site_is_not_followed(tmp_path):
    (tmp_path / "run").symlink_to("/somewhere")
    os.chown(tmp_path / "run", 4242, 4242, follow_symlinks=False)
    assert SitePaths.at(tmp_path).run == runtime_directory(tmp_path)


def test_sockets_of_any_site_and_model_fit_into_an_address(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    paths = SitePaths.at(tmp_path / ("deep/" * 40))
    for model in ("m", "m" * 64):
        assert len(os.fsencode(paths.engine_socket(model))) <= MAX_SOCKET_PATH
    assert paths.engine_socket("m" * 64) != paths.engine_socket("m" * 63 + "n")


def test_a_long_runtime_directory_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * 60)
    assert len(str(runtime_directory(tmp_path))) < 50


@pytest.mark.parametrize("name", ["recipes", "locks", "playbooks", "examples"])
def test_data_is_found_in_the_checkout(name):
    assert any(data_directory(name).iterdir())
