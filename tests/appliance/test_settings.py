"""Which value wins, and where it came from."""

import pytest

from plugsky.core import settings
from plugsky.core.errors import ErrorKind, PlugskyError


@pytest.fixture
def place(tmp_path):
    """A system file, a user file, and an environment that names the latter."""
    (tmp_path / "system.toml").write_text('port = 1001\nhost = "127.0.0.2"\nthreads = 7\n')
    (tmp_path / "user.toml").write_text("port = 1002\nthreads = 8\n")
    return tmp_path / "system.toml", {"PLUGSKY_CONFIG": str(tmp_path / "user.toml"), "HOME": str(tmp_path)}


def test_a_flag_beats_the_environment_beats_the_user_beats_the_system_beats_the_default(place):
    system, environ = place
    sourced = settings.load({"port": 1004}, {**environ, "PLUGSKY_PORT": "1003", "PLUGSKY_THREADS": "9"}, system)
    assert (sourced.values.port, sourced.origins["port"]) == (1004, "flag")
    assert (sourced.values.threads, sourced.origins["threads"]) == (9, "PLUGSKY_THREADS")
    assert (sourced.values.host, sourced.origins["host"]) == ("127.0.0.2", str(system))
    assert (sourced.values.context, sourced.origins["context"]) == (4096, "default")
    without = settings.load({"port": None}, environ, system)
    assert (without.values.port, without.origins["port"]) == (1002, environ["PLUGSKY_CONFIG"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("porrt = 1\n", "did you mean port?", id="a name that is no setting"),
        pytest.param("colour = 1\n", "known names", id="a name like no other"),
        pytest.param("port = 70000\n", "between 0 and 65535", id="a number out of range"),
        pytest.param('port = "many"\n', "whole number", id="a word for a number"),
        pytest.param("host = 5\n", "is text", id="a number for a word"),
        pytest.param("port = \n", "", id="no TOML"),
        pytest.param('kv_type = "q2_k"\n', "f16, q8_0, q4_0", id="a word that is no choice"),
        pytest.param('gpu_layers = "some"\n', "or auto", id="a word beside the one that may stand for a number"),
        pytest.param("batch = 8\n", "between 64 and 4096", id="a batch too small"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_by_name(tmp_path, text, words):
    file = tmp_path / "system.toml"
    file.write_text(text)
    with pytest.raises(PlugskyError) as refused:
        settings.load({}, {"XDG_CONFIG_HOME": str(tmp_path / "none")}, file)
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert str(file) in refused.value.what
    assert words in refused.value.why


def test_a_settings_file_that_is_named_and_not_there_is_refused(tmp_path):
    with pytest.raises(PlugskyError) as refused:
        settings.load({}, {"PLUGSKY_CONFIG": str(tmp_path / "none.toml")}, tmp_path / "system.toml")
    assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert "PLUGSKY_CONFIG" in refused.value.why


@pytest.mark.parametrize(("text", "layers"), [("auto", None), ("0", 0), ("33", 33)])
def test_layers_for_gpus_are_a_number_or_as_many_as_fit(tmp_path, text, layers):
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "PLUGSKY_GPU_LAYERS": text}
    assert settings.load({}, environ, tmp_path / "none.toml").values.gpu_layers == layers


def test_hyper_threads_of_one_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert settings.physical_cores(tmp_path) == 2


def test_without_a_topology_every_processor_is_a_core(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2})
    assert settings.physical_cores(tmp_path) == 3


def test_localhost_is_the_loopback_address(tmp_path):
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert settings.load({"host": "localhost"}, environ, tmp_path / "none").values.host == "127.0.0.1"
