"""Rules that no linter knows: one place for the environment, quick help, and no stray printing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("appliance/plugsky", "bundles/plugsky_bundles", "bundles/plugsky_builder", "tui/plugsky_tui")
    for path in (ROOT / folder).rglob("*.py")
)


def attributes(path):
    """Every ``a.b`` written in a module, as text."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_the_environment_is_read_in_one_module_only():
    readers = [path for path in SOURCES if {"os.environ", "os.getenv", "os.environb"} & attributes(path)]
    assert [path.relative_to(ROOT).as_posix() for path in readers] == ["appliance/plugsky/core/env.py"]


def test_every_module_says_what_it_guarantees():
    silent = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


def test_a_module_above_400_lines_gives_its_reason():
    long = [path.relative_to(ROOT).as_posix() for path in SOURCES if len(path.read_text().splitlines()) > 400]
    assert long == []


@pytest.mark.integration
def test_help_imports_neither_the_console_nor_the_model_library():
    code = (
        "import sys; from plugsky.cli.app import run; run(['--help']); "
        "heavy = ('textual', 'llama_cpp', 'ansible', 'sqlmodel', 'numpy'); "
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
