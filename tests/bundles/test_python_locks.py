"""Locks of requirements for each target: resolved by uv itself, against a real index on this machine."""

import hashlib
from pathlib import Path

import pytest

from bundles.web_server import Reply, serving
from bundles.wheel_forge import write_wheel
from plugsky_builder import locks, python_locks, recipe
from plugsky_bundles.errors import RecipeError, SourceError, SourceUnreachable
from plugsky_bundles.progress import silent

pytestmark = pytest.mark.integration

RECIPE = """
channel = "lab"
[[target]]
os = "debian-12"
[[target]]
os = "debian-13"
[python]
lock = "lock.txt"
requirements = ["tools.in"]
appliance = false
"""


class Index:
    """A package index over HTTP, as PEP 503 describes it."""

    def __init__(self, site, folder: Path) -> None:
        self.site, self.folder = site, folder
        self._pages: dict[str, list[str]] = {}

    def add(self, name: str, version: str, *, tag: str = "py3-none-any", about: str = "") -> str:
        path = write_wheel(self.folder, name, version, {f"{name}.py": b""}, tag=tag, about=about)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.site.pages[f"/files/{path.name}"] = Reply(path.read_bytes())
        links = self._pages.setdefault(name, [])
        links.append(f'<a href="/files/{path.name}#sha256={digest}">{path.name}</a>')
        page = Reply("".join(links).encode(), headers={"Content-Type": "text/html"})
        self.site.pages |= {f"/simple/{name}": page, f"/simple/{name}/": page}
        return digest


@pytest.fixture
def index(tmp_path, monkeypatch):
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    (tmp_path / "wheels").mkdir()
    (tmp_path / "lock.txt").write_text("")
    (tmp_path / "lab.toml").write_text(RECIPE)
    with serving() as site:
        monkeypatch.setenv("PIP_INDEX_URL", f"http://me:hunter2@127.0.0.1:{site.port}/simple")
        yield Index(site, tmp_path / "wheels")


def renewed(tmp_path, requirements):
    (tmp_path / "tools.in").write_text(requirements)
    return python_locks.renew(recipe.load(tmp_path / "lab.toml"), silent)


def lock(tmp_path, folder):
    return {f"{pin.name}=={pin.version}": pin.hashes for pin in locks.read(tmp_path / f"tools.{folder}.txt")}


def test_each_target_is_resolved_for_its_python_and_its_glibc(index, tmp_path):
    index.add("native", "1.0", tag="cp311-abi3-manylinux_2_17_x86_64")
    index.add("native", "2.0", tag="cp311-abi3-manylinux_2_39_x86_64")
    index.add("backport", "1.0")
    about = "Requires-Dist: native\nRequires-Dist: backport ; python_version < '3.12'\n"
    digest = index.add("tool", "1.0", about=about)
    made = renewed(tmp_path, "tool\n")
    assert [(one.target, one.packages, one.changed) for one in made] == [
        ("debian-12-amd64", 3, True),
        ("debian-13-amd64", 2, True),
    ]
    assert set(lock(tmp_path, "debian-12-amd64")) == {"backport==1.0", "native==1.0", "tool==1.0"}
    assert set(lock(tmp_path, "debian-13-amd64")) == {"native==2.0", "tool==1.0"}
    assert lock(tmp_path, "debian-13-amd64")["tool==1.0"] == (digest,)


def test_a_lock_keeps_its_versions_and_is_left_alone_while_they_do(index, tmp_path):
    index.add("tool", "1.0")
    renewed(tmp_path, "tool\n")
    before = (tmp_path / "tools.debian-12-amd64.txt").stat().st_mtime_ns
    index.add("tool", "2.0")
    assert not any(one.changed for one in renewed(tmp_path, "tool\n"))
    assert (tmp_path / "tools.debian-12-amd64.txt").stat().st_mtime_ns == before
    (one, _) = renewed(tmp_path, "tool>=2\n")
    assert (one.added, one.removed) == (("tool==2.0",), ("tool==1.0",))


def test_the_recipes_own_lock_constrains_the_answer(index, tmp_path):
    index.add("base", "1.0")
    index.add("base", "2.0")
    (tmp_path / "lock.txt").write_text(f"base==1.0 --hash=sha256:{'a' * 64}\n")
    renewed(tmp_path, "base\n")
    assert set(lock(tmp_path, "debian-12-amd64")) == {"base==1.0"}


def test_what_cannot_be_resolved_is_named_without_a_password_and_nothing_is_written(index, tmp_path):
    index.add("tool", "1.0")
    with pytest.raises(SourceError, match=r"tools\.in cannot be resolved for debian-12") as caught:
        renewed(tmp_path, "tool>=9\n")
    assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.glob("tools.*.txt"))


def test_an_index_that_does_not_answer_is_unreachable(index, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(SourceUnreachable) as caught:
        renewed(tmp_path, "tool\n")
    assert "hunter2" not in str(caught.value)


def test_options_in_a_requirements_file_are_refused_before_anything_is_asked(index, tmp_path):
    with pytest.raises(RecipeError, match="is no requirement"):
        renewed(tmp_path, "--index-url https://evil.example/simple\n")
    assert index.site.seen == []
