"""The page of malformed input names tests, error codes and exit statuses: each is there, and each is so."""

import ast
import re
from pathlib import Path

import pytest

from plugsky_bundles import errors
from plugsky_bundles.errors import BundleError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/malformed-input.md"
SECTIONS = (
    "Trust",
    "Time and versions",
    "Mixtures",
    "Names",
    "Types of files",
    "Bytes",
    "Bombs",
    "Between one look and the next",
    "Power",
    "Wheels",
    "Debian packages",
    "Models",
    "Templates",
    "People",
)
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
CODE = re.compile(r"`([a-z_]+)` ([1-8])(?:, |$)")


def rows() -> list[tuple[str, str, str, str]]:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    cells = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert all(len(row) == 4 for row in cells)
    return [row for row in cells if row[0] != "case"]


ROWS = rows()


@pytest.fixture(scope="module")
def tests() -> dict[str, set[str]]:
    """The names of the tests of each file; nothing is run."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        found.setdefault(path.name, set()).update(node.name for node in functions)
    return found


def test_the_page_has_every_part_of_the_catalogue():
    assert tuple(re.findall(r"^## (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == SECTIONS
    assert len(ROWS) > 100


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_row_names_a_test_that_exists_or_why_there_is_none(row, tests):
    case, applies, refused, shown = row
    assert case
    if applies.startswith("no"):
        assert len(applies) > 30, "a case that does not apply says why"
        assert not refused
    else:
        assert applies.startswith(("yes", "allowed"))
        assert shown
    assert TEST.sub("", shown).strip(", ") == ""
    for file, name in TEST.findall(shown):
        assert name in tests.get(file, ()), f"{file}::{name}"


CODES = {
    re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind.exit_code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, BundleError)
}


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_row_names_codes_that_exist_with_their_exit_status(row):
    assert CODE.sub("", row[2]) == ""
    for code, status in CODE.findall(row[2]):
        assert CODES[code] == int(status)


def test_every_file_of_the_catalogue_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    missing = [path.name for path in (ROOT / "tests/bundles").glob("test_catalogue_*.py") if path.name not in text]
    assert missing == []
