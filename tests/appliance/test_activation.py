"""Listening sockets: handed over, bound by name, and kept where nobody else can put theirs."""

import os
import socket
import stat
import subprocess
import sys

import pytest

from plugsky.core import activation
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import MAX_SOCKET_PATH, SitePaths, data_directory, runtime_directory


def test_a_port_in_use_is_named_with_the_way_out():
    with activation.listen("127.0.0.1", 0) as listener, pytest.raises(PlugskyError) as refused:
        activation.listen("127.0.0.1", listener.getsockname()[1])
    assert refused.value.kind is ErrorKind.CONFLICT
    assert "--port" in refused.value.next


def test_an_address_that_is_not_of_this_host_is_refused():
    with pytest.raises(PlugskyError, match=r"192\.0\.2\.1"):
        activation.listen("192.0.2.1", 0)


def test_a_child_takes_the_socket_it_was_handed():
    code = "from plugsky.core.activation import inherited_listener as take; print(take().getsockname()[1])"
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
        activation.inherited_listener()
    assert "plugsky serve" in refused.value.next


def test_the_runtime_directory_is_made_private(tmp_path):
    activation.private_directory(tmp_path / "run")
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
        activation.private_directory(run)
    assert refused.value.kind is ErrorKind.FORBIDDEN


def test_only_one_process_holds_a_lock(tmp_path):
    with (
        activation.only_one(tmp_path / "lock", "It runs"),
        pytest.raises(PlugskyError, match="already"),
        activation.only_one(tmp_path / "lock", "It runs"),
    ):
        pass


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
