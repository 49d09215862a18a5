"""Fetching from the package index: where it asks, what it reads, what it refuses. The index is a server on loopback."""

import functools
import hashlib
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from setup import index
from setup.errors import SetupError

PAGE = """<!DOCTYPE html><html><body>
<a href="../../files/pip-26.3-py3-none-any.whl#sha256=00" data-requires-python="&gt;=3.10">pip 26.3</a><br/>
<a href="https://files.example/a/pip-26.2%2Blocal.tar.gz#sha256=11">pip</a>
<a>no address</a><p href="pip-1.whl">no anchor</p>
</body></html>"""
WHEEL = "pip-26.3-py3-none-any.whl"


@pytest.mark.parametrize(
    ("file_name", "address"),
    [
        pytest.param(WHEEL, "https://pypi.example/files/pip-26.3-py3-none-any.whl", id="a relative link"),
        pytest.param("pip-26.2+local.tar.gz", "https://files.example/a/pip-26.2%2Blocal.tar.gz", id="an encoded name"),
        pytest.param("pip-26.3.tar.gz", None, id="a file that is not there"),
        pytest.param("pip-1.whl", None, id="a name outside an anchor"),
    ],
)
def test_a_project_page_gives_the_address_of_a_file(file_name, address):
    assert index.link_to(PAGE, "https://pypi.example/simple/pip/", file_name) == address


CONFIGURED = "[global]\nindex-url = https://mirror.example/simple/\ncert = /etc/mirror.pem\n"


@pytest.mark.parametrize(
    ("environ", "configurations", "source"),
    [
        pytest.param({}, [], index.Source(index.PUBLIC_INDEX), id="the public index"),
        pytest.param({}, [CONFIGURED], index.Source("https://mirror.example/simple", "/etc/mirror.pem"), id="pip.conf"),
        pytest.param(
            {},
            [CONFIGURED, "[install]\nindex-url = https://near.example/simple\n"],
            index.Source("https://near.example/simple", "/etc/mirror.pem"),
            id="the nearer pip.conf wins",
        ),
        pytest.param(
            {"PIP_INDEX_URL": "https://env.example/simple", "PIP_CERT": "/env.pem", "PIP_PROXY": "http://proxy:3128"},
            [CONFIGURED],
            index.Source("https://env.example/simple", "/env.pem", "http://proxy:3128"),
            id="the environment wins",
        ),
        pytest.param({}, ["not an ini file"], index.Source(index.PUBLIC_INDEX), id="an unreadable pip.conf"),
    ],
)
def test_it_asks_the_index_that_pip_would_ask(environ, configurations, source):
    assert index.source_of(environ, configurations) == source


def test_a_password_in_the_index_address_is_not_shown():
    assert index.Source("https://me:secret@mirror.example/simple").shown == "https://mirror.example/simple"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        del format, args


@contextmanager
def served(folder: Path) -> Iterator[index.Source]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield index.Source(f"http://127.0.0.1:{server.server_port}/simple")
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def a_mirror(tmp_path: Path) -> Iterator[index.Source]:
    (tmp_path / "site/simple/pip").mkdir(parents=True)
    (tmp_path / "site/files").mkdir()
    (tmp_path / "site/simple/pip/index.html").write_text(PAGE)
    (tmp_path / "site/files" / WHEEL).write_bytes(b"a wheel")
    with served(tmp_path / "site") as source:
        yield source


def nothing(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


RIGHT = hashlib.sha256(b"a wheel").hexdigest()


def test_a_file_whose_hash_is_locked_is_kept_and_not_fetched_again(a_mirror, tmp_path):
    seen: list[tuple[int, int]] = []
    place = index.fetch(a_mirror, "pip", WHEEL, {RIGHT}, tmp_path / "here", lambda *sizes: seen.append(sizes))
    assert place.read_bytes() == b"a wheel"
    assert seen == [(7, 7)]
    nowhere = index.Source("http://127.0.0.1:9/simple")
    assert index.fetch(nowhere, "pip", WHEEL, {RIGHT}, tmp_path / "here", nothing) == place


def test_a_file_with_another_hash_is_refused_and_leaves_nothing(a_mirror, tmp_path):
    with pytest.raises(SetupError) as caught:
        index.fetch(a_mirror, "pip", WHEEL, {"0" * 64}, tmp_path / "here", nothing)
    assert RIGHT in caught.value.why
    assert list((tmp_path / "here").iterdir()) == []


def test_a_kept_file_that_was_changed_is_fetched_anew(a_mirror, tmp_path):
    (tmp_path / WHEEL).write_bytes(b"changed")
    assert index.fetch(a_mirror, "pip", WHEEL, {RIGHT}, tmp_path, nothing).read_bytes() == b"a wheel"


def test_a_file_that_the_index_does_not_list_is_named(a_mirror, tmp_path):
    with pytest.raises(SetupError, match="pip-99"):
        index.fetch(a_mirror, "pip", "pip-99-py3-none-any.whl", {RIGHT}, tmp_path, nothing)


def test_a_project_that_the_index_does_not_have_is_an_error_with_its_address(a_mirror, tmp_path):
    with pytest.raises(SetupError) as caught:
        index.fetch(a_mirror, "other", WHEEL, {RIGHT}, tmp_path, nothing)
    assert "404" in caught.value.why
    assert a_mirror.url in caught.value.what


def test_an_index_page_cannot_make_it_read_a_local_file(tmp_path):
    (tmp_path / "site/simple/pip").mkdir(parents=True)
    (tmp_path / "secret.whl").write_bytes(b"a wheel")
    (tmp_path / "site/simple/pip/index.html").write_text(f'<a href="file://{tmp_path}/secret.whl">secret.whl</a>')
    with served(tmp_path / "site") as source, pytest.raises(SetupError) as caught:
        index.fetch(source, "pip", "secret.whl", {RIGHT}, tmp_path / "here", nothing)
    assert "file address" in caught.value.why


def test_an_index_that_cannot_be_reached_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(index.time, "sleep", nothing_at_all)
    with pytest.raises(SetupError) as caught:
        index.fetch(index.Source("http://127.0.0.1:9/simple"), "pip", WHEEL, {RIGHT}, tmp_path, nothing)
    assert "PIP_INDEX_URL" in caught.value.next_step


def nothing_at_all(_seconds: float) -> None:
    """A pause of no length."""


def test_a_ca_bundle_that_is_not_there_is_named(tmp_path):
    source = index.Source("https://127.0.0.1:9/simple", ca_bundle=str(tmp_path / "none.pem"))
    with pytest.raises(SetupError, match=r"none\.pem"):
        index.fetch(source, "pip", WHEEL, {RIGHT}, tmp_path, nothing)
