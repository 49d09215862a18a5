"""What the pages refer to is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)#:]+?)(?:#[^)]*)?\)")
TEST = re.compile(r"`(tests/[^`]+)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere_and_named_tests_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    missing += [glob for glob in TEST.findall(text) if not list(ROOT.glob(glob))]
    assert missing == []


def test_the_architecture_names_modules_and_functions_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    missing = []
    for name in re.findall(r"`(plugsky\w*(?:\.\w+)+)`", text):
        parts = name.split(".")
        package = {"plugsky": "appliance", "plugsky_tui": "tui"}.get(parts[0], "bundles")
        for length in range(len(parts), 0, -1):
            place = ROOT.joinpath(package, *parts[:length])
            source = place.with_suffix(".py") if place.with_suffix(".py").is_file() else place / "__init__.py"
            if source.is_file():
                rest = parts[length:]
                words = source.read_text(encoding="utf-8")
                if not all(re.search(rf"(?:def|class) {word}\b", words) for word in rest):
                    missing.append(name)
                break
        else:
            missing.append(name)
    assert missing == []
