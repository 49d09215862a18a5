"""The documentation as pages for any browser without a network: `docs/index.html` of a bundle.

README.md and every page below docs/ becomes one HTML page. Links between them lead to the pages; a link to a file that
does not travel becomes plain text. A page loads nothing but `docs/plugsky.css`, reads well
without it, and has no script. Raw HTML in a page is shown, not interpreted. The same sources give the same bytes.
"""

from __future__ import annotations

import functools
import html
import itertools
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from markdown_it import MarkdownIt
from markdown_it.token import Token

from plugsky.core.paths import checkout, data_directory
from plugsky_builder.pack import Material
from plugsky_bundles.errors import NotFound

FOLDER: Final = "docs"
STYLE: Final = f"{FOLDER}/plugsky.css"
INDEX: Final = f"{FOLDER}/index.html"
README: Final = "README.md"
SCHEMES: Final = ("http", "https", "mailto")

CSS: Final = """\
:root { color-scheme: light dark; --text: #1b1f24; --ground: #fff; --quiet: #57606a; --line: #d0d7de; --link: #0757ba; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e9ed; --ground: #14171b; --quiet: #9aa4af; --line: #363c44; --link: #7db4ff; }
}
body { margin: 2rem auto; padding: 0 1rem; max-width: 50rem; color: var(--text); background: var(--ground);
  font: 1rem/1.55 system-ui, sans-serif; }
a { color: var(--link); }
nav { color: var(--quiet); border-bottom: 1px solid var(--line); padding-bottom: .5rem; }
h1, h2, h3 { line-height: 1.25; margin-top: 2rem; }
code, pre { font: .9em/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .75rem; border: 1px solid var(--line); }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border: 1px solid var(--line); padding: .3rem .6rem; text-align: left; vertical-align: top; }
"""


def materials() -> list[Material]:
    """The pages, the index and the style. Raises NotFound where this Plugsky lacks its documentation."""
    return [Material.of_bytes(path, content) for path, content in pages(tuple(sorted(_sources().items())))]


@functools.lru_cache(maxsize=1)
def pages(sources: tuple[tuple[str, str], ...]) -> tuple[tuple[str, bytes], ...]:
    """The files for `sources`, Markdown by path in the source tree."""
    places = {source: _place(source) for source, _ in sources}
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    made = {STYLE: CSS.encode()}
    titles: dict[str, str] = {}
    for source, text in sources:
        tokens = parser.parse(text)
        _name_headings(tokens)
        _rewrite_links(tokens, source, places)
        titles[places[source]] = _title(tokens, source)
        body = parser.renderer.render(tokens, parser.options, {})
        made[places[source]] = _page(places[source], titles[places[source]], body)
    made[INDEX] = _page(INDEX, "Plugsky", _index(titles))
    return tuple(sorted(made.items()))


def _sources() -> dict[str, str]:
    """README.md and the pages below docs/, from the source tree or from the installed wheel."""
    base = data_directory(FOLDER)
    found = {f"{FOLDER}/{path.relative_to(base).as_posix()}": path for path in sorted(base.rglob("*.md"))}
    readme = (checkout() or base) / README
    found.pop(f"{FOLDER}/{README}", None)
    if not found or not readme.is_file():
        raise NotFound("Plugsky's documentation is missing", f"{base} has no pages", "Install Plugsky again")
    return {source: _text(path) for source, path in {README: readme, **found}.items()}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _place(source: str) -> str:
    return f"{FOLDER}/{source.removeprefix(f'{FOLDER}/').removesuffix('.md').lower()}.html"


def _page(path: str, title: str, body: str) -> bytes:
    up = posixpath.relpath(FOLDER, posixpath.dirname(path))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f'<link rel="stylesheet" href="{up}/plugsky.css">\n</head>\n<body>\n'
        f'<nav><a href="{up}/index.html">All pages</a></nav>\n<main>\n{body}</main>\n</body>\n</html>\n'
    ).encode()


def _index(titles: Mapping[str, str]) -> str:
    groups: dict[str, list[str]] = {}
    for path in titles:
        groups.setdefault(posixpath.dirname(path), []).append(path)
    parts = ["<h1>Plugsky</h1>\n<p>The documentation of the Plugsky that built this bundle.</p>\n"]
    for folder, paths in sorted(groups.items()):
        if folder != FOLDER:
            parts.append(f"<h2>{html.escape(posixpath.basename(folder))}</h2>\n")
        items = [
            f'<li><a href="{posixpath.relpath(path, FOLDER)}">{html.escape(titles[path])}</a></li>\n'
            for path in sorted(paths)
        ]
        parts += ["<ul>\n", *items, "</ul>\n"]
    return "".join(parts)


def _name_headings(tokens: Sequence[Token]) -> None:
    """Give every heading the id by which links name it, as the usual viewers of Markdown do."""
    seen: dict[str, int] = {}
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            slug = re.sub(r"[^\w\- ]", "", _plain(inline).lower()).replace(" ", "-")
            count = seen[slug] = seen.get(slug, -1) + 1
            token.attrSet("id", f"{slug}-{count}" if count else slug)


def _title(tokens: Sequence[Token], source: str) -> str:
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            return _plain(inline)
    return source


def _plain(inline: Token) -> str:
    return "".join(child.content for child in inline.children or [] if child.type in ("text", "code_inline"))


def _rewrite_links(tokens: Iterable[Token], source: str, places: Mapping[str, str]) -> None:
    """Let links lead to pages; drop those that lead to what does not travel, and pictures, and keep their text."""
    for token in tokens:
        kept: list[Token] = []
        dropped = False
        for child in token.children or []:
            if child.type == "link_open":
                target = _target(str(child.attrGet("href")), source, places)
                dropped = target is None
                if target is not None:
                    child.attrSet("href", target)
            if child.type == "image":
                child = Token("text", "", 0, content=child.content)
            if not (dropped and child.type in ("link_open", "link_close")):
                kept.append(child)
        if token.children is not None:
            token.children = kept


def _target(link: str, source: str, places: Mapping[str, str]) -> str | None:
    parts = urlsplit(link)
    if parts.scheme:
        return link if parts.scheme in SCHEMES else None
    if not parts.path:
        return link
    wanted = posixpath.normpath(posixpath.join(posixpath.dirname(source), unquote(parts.path)))
    if wanted not in places:
        return None
    path = posixpath.relpath(places[wanted], posixpath.dirname(places[source]))
    return f"{path}#{parts.fragment}" if parts.fragment else path
