"""Pictures of the console as text, kept in ``snapshots/`` and compared; UPDATE_SNAPSHOTS=1 takes them anew."""

import os
from pathlib import Path

import pytest
from textual.app import App

SNAPSHOTS = Path(__file__).parent / "snapshots"


def screen_text(app: App) -> str:
    """What the terminal shows, row by row. The one place that reads Textual's compositor, which is not public."""
    rows = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in row).rstrip() for row in rows) + "\n"


@pytest.fixture
def look():
    return screen_text


@pytest.fixture
def snapshot():
    """Compares a text with the one kept under that name."""

    def compare(name: str, text: str) -> None:
        kept = SNAPSHOTS / f"{name}.txt"
        if os.environ.get("UPDATE_SNAPSHOTS"):
            kept.write_text(text, encoding="utf-8")
        assert text == kept.read_text(encoding="utf-8"), f"{name} looks different; UPDATE_SNAPSHOTS=1 takes it anew"

    return compare
