"""The pictures in ``docs/screens/`` are what the console draws; UPDATE_SNAPSHOTS=1 takes them anew."""

import os
import re
from pathlib import Path

from plugsky_tui.app import ConsoleApp
from plugsky_tui.terminal import TerminalProfile
from tui.fake_site import BUSY, FakeSite, TickingSite

SCREENS = Path(__file__).parents[2] / "docs" / "screens"
FONT_FACE = re.compile(r"\s*@font-face \{.*?\}\n", re.DOTALL)


async def picture(size):
    """Home on the busy fake site as SVG, without the web fonts that Rich would fetch."""
    site, moving = FakeSite(), TickingSite(last=BUSY)
    for step in range(60):
        site.news.put_nowait(moving.at(step))
    app = ConsoleApp(site, TerminalProfile())
    async with app.run_test(size=size) as pilot:
        await site.news.join()
        await pilot.pause()
        await pilot.pause()
        return FONT_FACE.sub("", app.export_screenshot(title="plugsky console"))


async def test_the_picture_of_home_in_the_documentation_is_what_home_looks_like():
    drawn, kept = await picture((110, 34)), SCREENS / "home.svg"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(drawn, encoding="utf-8")
    assert "http" not in re.sub(r"http://www.w3.org/\S+|https://www.textualize.io", "", drawn)
    assert drawn == kept.read_text(encoding="utf-8")
