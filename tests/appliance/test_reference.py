"""The command reference in docs is the one the commands give."""

from pathlib import Path

import pytest

from plugsky.cli import api_page
from plugsky.cli.reference import markdown

API = Path(__file__).parents[2] / "docs/api.md"
PAGE = Path(__file__).parents[2] / "docs/cli/reference.md"


@pytest.mark.integration
def test_the_reference_is_up_to_date():
    assert PAGE.read_text() == markdown() + "\n", "run: .venv/bin/plugsky help reference > docs/cli/reference.md"


def test_the_page_of_the_api_is_up_to_date():
    assert API.read_text() == api_page.markdown() + "\n", "run: .venv/bin/plugsky help api > docs/api.md"


@pytest.mark.integration
def test_every_command_shows_an_example():
    pages = markdown().split("\n## ")[1:]
    commands = [page for page in pages if page.startswith("plugsky ") and "\nCommands:" not in page]
    assert len(commands) > 20
    assert [page.split("\n")[0] for page in commands if "Example: " not in page] == []


@pytest.mark.integration
def test_no_noun_offers_shell_completion_that_the_command_does_not_have():
    assert "-completion" not in markdown()
