"""The documentation in a bundle: pages that lead to each other, load nothing from anywhere, and run nothing."""

import posixpath
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from plugsky_builder.evidence import offline_docs
from plugsky_bundles.format import check_evidence_path

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """What a page links to, loads and names."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            elif name == "href" and tag == "a":
                self.links.append(value)
            elif name in ("href", "src", "srcset", "data", "action"):
                self.loads.append(value)
            elif name.startswith("on") or name == "style":
                self.handlers.append(name)


@pytest.fixture(scope="module")
def pages():
    return {one.path: one.content.decode() for one in offline_docs.materials()}


def rendered(**sources):
    names = {name.replace("__", "/") + ".md": text for name, text in sources.items()}
    return {path: data.decode() for path, data in offline_docs.pages(tuple(sorted(names.items())))}


def test_every_page_of_the_documentation_is_there_under_a_name_that_travels(pages):
    sources = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    expected = {f"docs/{name.removesuffix('.md').lower()}.html" for name in sources}
    assert pages.keys() == expected | {"docs/readme.html", "docs/index.html", "docs/plugsky.css"}
    for path in pages:
        check_evidence_path(path)


def test_every_link_leads_to_a_page_and_a_heading_that_are_there(pages):
    parsed = {path: Page(text) for path, text in pages.items() if path.endswith(".html")}
    dead = []
    for path, page in parsed.items():
        for link in page.links:
            if link.startswith(("https://", "http://", "mailto:")):
                continue
            place, _, fragment = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(path), place)) if place else path
            if target not in parsed or (fragment and fragment not in parsed[target].ids):
                dead.append(f"{path}: {link}")
    assert dead == []


def test_the_index_leads_to_every_page(pages):
    links = {posixpath.normpath(f"docs/{link}") for link in Page(pages["docs/index.html"]).links}
    assert links == {path for path in pages if path.endswith(".html")}


def test_a_page_loads_nothing_but_the_style_and_runs_nothing(pages):
    for path, text in pages.items():
        if path.endswith(".html"):
            page = Page(text)
            loads = [posixpath.normpath(posixpath.join(posixpath.dirname(path), load)) for load in page.loads]
            assert loads == ["docs/plugsky.css"], path
            assert not page.tags & {"script", "iframe", "object", "embed", "img", "form", "base"}, path
            assert page.handlers == [], path
    assert not re.search(r"url\(|@import", pages["docs/plugsky.css"])
    assert "prefers-color-scheme: dark" in pages["docs/plugsky.css"]


@pytest.mark.parametrize(
    ("text", "expected"),
    {
        "a page beside it": ("[x](other.md)", '<a href="other.html">x</a>'),
        "a heading of it": ("[x](other.md#a-part)", '<a href="other.html#a-part">x</a>'),
        "a heading of its own": ("[x](#here)", '<a href="#here">x</a>'),
        "another site": ("[x](https://example.org/a)", '<a href="https://example.org/a">x</a>'),
        "a file that does not travel": ("[x](../setup.py)", "<p>x</p>"),
        "a page outside": ("[x](../../other.md)", "<p>x</p>"),
        "a script": ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        "a picture": ("![a view](https://example.org/a.png)", "<p>a view</p>"),
        "raw HTML": ("<script>alert(1)</script>", "&lt;script&gt;"),
    }.values(),
)
def test_a_link_or_a_picture_becomes(text, expected):
    assert expected in rendered(docs__page=text, docs__other="# A part")["docs/page.html"]


def test_headings_that_are_alike_have_ids_of_their_own():
    page = Page(rendered(docs__page="# One `two`\n\n## Three, four\n\n## Three, four")["docs/page.html"])
    assert page.ids == ["one-two", "three-four", "three-four-1"]


def test_the_installed_wheel_has_every_page_and_nothing_else_of_the_documentation():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    into = {source: target for source, target in included.items() if target.startswith("plugsky/_data/docs/")}
    assert into.pop("README.md") == "plugsky/_data/docs/README.md"
    assert all(target == f"plugsky/_data/{source}" for source, target in into.items())
    files = {
        path.relative_to(ROOT).as_posix()
        for source in into
        for path in ([ROOT / source] if (ROOT / source).is_file() else (ROOT / source).rglob("*"))
        if path.is_file()
    }
    assert files == {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")}, "see force-include"
