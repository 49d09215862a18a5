"""The page on recipes names every key that the code reads, and no other; the recipes that come along are right."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from plugsky_builder import recipe
from plugsky_builder.debs import lock, parts
from plugsky_builder.file_sources import SOURCES
from plugsky_builder.tables import Table

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "recipes.md"
HASH = "a" * 64
HEADINGS = {
    "": "The recipe",
    "target": "Targets",
    "model": "Models",
    "python": "Python",
    "debs": "Debian packages",
    "playbooks": "Playbooks",
    "rehearsal": "Rehearsal",
    "evidence": "Evidence",
}

FILES = {
    "file": f'path = "m.gguf", sha256 = "{HASH}"',
    "https": f'url = "https://x.example/m.gguf", sha256 = "{HASH}", size = 1, name = "m.gguf"',
    "hugging-face": f'repo = "a/b", revision = "{"b" * 40}", path = "m.gguf", sha256 = "{HASH}", size = 1',
    "pypi-file": f'requirement = "a==1", wheel-sha256 = "{HASH}", member = "m.gguf", sha256 = "{HASH}"',
}
EVERYTHING = """
channel = "lab"
[[target]]
os = "debian-12"
[python]
lock = "lock.txt"
sdists = ["x"]
build-lock = "build.txt"
[debs]
status = "status"
mirror = "https://deb.example/debian"
security-mirror = "https://deb.example/debian-security"
[playbooks]
include = ["*.yml"]
[rehearsal]
skip = "a test"
[evidence]
require-vulnerability-check = true
"""


@pytest.fixture
def read_keys(monkeypatch, tmp_path):
    """The keys that were asked for, by kind of table, when a recipe that has every table was read."""
    keys: dict[str, set[str]] = defaultdict(set)
    take, has = Table._take, Table.has

    def kind(table):
        place = table._place.split(", ")[-1].split(" ")[0]
        return f"source {table._values.get('source')}" if place in ("file", "files", "licence-text") else place

    def taking(table, key, *rest):
        keys[kind(table)].add(key)
        return take(table, key, *rest)

    def having(table, key):
        keys[kind(table)].add(key)
        return has(table, key)

    monkeypatch.setattr(Table, "_take", taking)
    monkeypatch.setattr(Table, "has", having)
    models = "".join(
        f"""
        [[model]]
        id = "m{number}"
        mode = "generate"
        context = 1
        licence = "MIT"
        languages = []
        file = {{ source = "{source}", {values} }}
        licence-text = {{ source = "{source}", {values} }}
        """
        for number, (source, values) in enumerate(FILES.items())
    )
    (tmp_path / "lab.toml").write_text(EVERYTHING + models)
    recipe.load(tmp_path / "lab.toml")
    return keys


def documented():
    """The keys of each table of the page, by the heading above it."""
    keys: dict[str, set[str]] = defaultdict(set)
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif (row := re.match(r"\| `([a-z0-9-]+)` \|", line)) is not None:
            keys[heading].add(row[1])
    return keys


def test_the_page_has_every_key_and_no_other(read_keys):
    page = documented()
    found = {HEADINGS[kind]: keys for kind, keys in read_keys.items() if kind in HEADINGS}
    for source in SOURCES:
        (heading,) = [name for name in page if name.startswith(f'`source = "{source}"`')]
        found[heading] = read_keys[f"source {source}"]
    assert page == found


@pytest.mark.parametrize("path", sorted((ROOT / "bundles" / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_that_comes_along_can_be_read_and_is_named_on_the_page(path):
    loaded = recipe.load(path)
    assert loaded.channel == path.stem
    assert loaded.python is not None
    assert loaded.python.lock.is_file()
    assert f"`{path.name}`" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "bundles" / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_the_debian_locks_that_come_along_answer_their_recipe(path):
    """Whatever Debian's mirror has by now."""
    loaded = recipe.load(path)
    for target in loaded.targets if loaded.debs is not None else ():
        pinned = lock.read(loaded.debs.lock_of(target.folder))
        parts._check_question(pinned, loaded.debs, target)
        assert {"libgomp1", "nftables", "python3"} <= {deb.name for deb in pinned.debs}


def test_the_compile_command_on_the_page_names_the_locked_version():
    lock = (ROOT / "bundles/locks/runtime.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^llama-cpp-python==(\S+)", lock, flags=re.MULTILINE)
    assert f"llama-cpp-python=={version}\n" in PAGE.read_text(encoding="utf-8")
