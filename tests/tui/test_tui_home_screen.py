"""The Home screen as it looks: every size, charset and condition has a picture in ``snapshots/``."""

from contextlib import asynccontextmanager

import pytest

from plugsky.admin.api import Duty, ModelView, RequestView
from plugsky_tui.app import ConsoleApp
from plugsky_tui.screens.help import HelpScreen
from plugsky_tui.terminal import TerminalProfile
from tui.fake_site import BUSY, CASES, DUTIES, MODELS, REQUESTS, FakeSite, TickingSite, replaced, unreachable

PROFILES = {
    "dark": TerminalProfile(),
    "sixteen": TerminalProfile(colour="sixteen"),
    "mono-ascii": TerminalProfile(colour="none", charset="ascii", tick=5.0, mouse=False, animation=False),
}


@asynccontextmanager
async def console(*homes, size=(80, 24), profile=PROFILES["dark"]):
    """The console on a fake site that has already said ``homes``, once it has drawn them."""
    site = FakeSite()
    for home in homes:
        site.news.put_nowait(home)
    app = ConsoleApp(site, profile)
    async with app.run_test(size=size) as pilot:
        await drawn(pilot, site)
        yield app, site, pilot


async def drawn(pilot, site):
    """Waits until the console has taken all news and drawn them."""
    await site.news.join()
    await pilot.pause()


def minute_of(home):
    """A minute of the same home, its figures moving."""
    site = TickingSite(last=home)
    return [site.at(step) for step in range(60)]


@pytest.mark.parametrize("profile", ["dark", "mono-ascii"])
@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
@pytest.mark.parametrize("case", sorted(CASES))
async def test_home_looks_like_its_picture(case, size, profile, look, snapshot):
    async with console(*minute_of(CASES[case]), size=size, profile=PROFILES[profile]) as (app, _, _):
        text = look(app)
    snapshot(f"home-{case}-{size[0]}x{size[1]}-{profile}", text)
    assert profile != "mono-ascii" or text.isascii()


@pytest.mark.parametrize("profile", sorted(PROFILES))
async def test_no_meaning_hangs_on_colour_alone(profile, look):
    async with console(CASES["failing"], profile=PROFILES[profile]) as (app, _, _):
        text = look(app)
    assert "NOT PROVEN" in text
    assert "crashed" in text


async def test_before_the_first_news_it_says_that_it_connects(look, snapshot):
    async with console() as (app, _, _):
        snapshot("home-connecting-80x24", look(app))


async def test_a_site_that_does_not_run_is_said_with_the_next_command(look, snapshot):
    async with console(unreachable()) as (app, _, _):
        snapshot("home-unreachable-80x24", look(app))


async def test_a_lost_site_keeps_its_last_picture_and_says_so(look, snapshot):
    async with console(BUSY, unreachable()) as (app, _, _):
        snapshot("home-lost-80x24", look(app))
        assert app.screen.has_class("-stale")


async def test_a_site_that_comes_back_is_shown_again(look):
    async with console(BUSY, unreachable(), BUSY) as (app, _, _):
        assert "not running" not in look(app)
        assert not app.screen.has_class("-stale")


@pytest.mark.parametrize("size", [(79, 24), (80, 23), (40, 10), (20, 5), (8, 1)])
async def test_a_terminal_too_small_still_says_what_matters_most(size, look):
    async with console(CASES["failing"], size=size) as (app, _, _):
        first = look(app).splitlines()[0]
    assert first.startswith("✗ isol")


async def test_the_panels_come_back_when_the_terminal_grows(look):
    async with console(BUSY, size=(20, 5)) as (app, _, pilot):
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        grown = look(app)
    async with console(BUSY) as (app, _, _):
        assert grown == look(app)


async def test_more_than_fits_is_counted_and_trouble_comes_first(look, snapshot):
    models = tuple(replaced(MODELS[0], id=f"model-{number:03}", state="ready") for number in range(40))
    crashed = replaced(MODELS[0], id="zeta", state="crashed", problem="The engine ended with signal 6.")
    requests = tuple(replaced(REQUESTS[number % 4], age_us=number * 1_000_000) for number in range(300))
    duties = tuple(replaced(DUTIES[0], id=f"d{number}") for number in range(9))
    crowd = replaced(BUSY, models=(*models, crashed), requests=requests, duties=duties)
    async with console(crowd) as (app, _, _):
        snapshot("home-crowded-80x24", look(app))


async def test_hostile_names_cannot_break_the_picture(look, snapshot):
    name = "مفتاح‮\x1b[31m日本語" + "x" * 300
    model = ModelView(name, "generate", 1, 1, name, (), "", "ready", problem=name)
    request = RequestView(name, name, name, name, "decode", 1, 1, 1)
    identity = replaced(BUSY.identity, host=name, channel=name, version=name, time="not a time")
    duty = Duty(name, "alarm", name, name)
    hostile = replaced(
        BUSY, identity=identity, operator=name, role=name, models=(model,), requests=(request,), duties=(duty,)
    )
    async with console(hostile, profile=PROFILES["mono-ascii"]) as (app, _, _):
        text = look(app)
    snapshot("home-hostile-80x24", text)
    assert all(len(row) <= 80 for row in text.splitlines())
    assert text.isascii()


async def test_a_quiet_site_repaints_nothing_but_what_changed():
    painted = []
    async with console(BUSY) as (app, site, pilot):
        for panel in app.screen.query("Panel"):
            panel.refresh = lambda *regions, repaint=panel.refresh, name=panel.id, **options: (
                painted.append((name, regions)),
                repaint(*regions, **options),
            )[1]
        site.news.put_nowait(replaced(BUSY, identity=replaced(BUSY.identity, time="2026-11-22T17:20:06Z")))
        await drawn(pilot, site)
    assert [(name, region.size) for name, (region,) in painted] == [
        ("masthead", (1, 1)),  # the second
        ("traffic", (1, 1)),  # one more value of the past
        ("host", (1, 1)),
    ]


async def test_p_makes_the_picture_stand_still_and_move_again(look):
    async with console(BUSY) as (app, site, pilot):
        await pilot.press("p")
        site.news.put_nowait(CASES["failing"])
        await drawn(pilot, site)
        assert "PAUSED" in look(app)
        assert "NOT PROVEN" not in look(app)
        await pilot.press("p")
        site.news.put_nowait(CASES["failing"])
        await drawn(pilot, site)
        assert "PAUSED" not in look(app)
        assert "NOT PROVEN" in look(app)


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
async def test_the_console_is_left_by(key):
    async with console(BUSY) as (app, _, pilot):
        await pilot.press(key)
        await pilot.pause()
        assert not app.is_running
    assert app.return_code == 0


@pytest.mark.parametrize("profile", ["dark", "mono-ascii"])
async def test_help_looks_like_its_picture(profile, look, snapshot):
    async with console(BUSY, profile=PROFILES[profile]) as (app, _, pilot):
        await pilot.press("question_mark")
        await pilot.pause()
        snapshot(f"help-80x24-{profile}", look(app))


@pytest.mark.parametrize("key", ["escape", "question_mark", "q"])
async def test_help_closes_by(key):
    async with console(BUSY) as (app, _, pilot):
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press(key)
        await pilot.pause()
        assert not isinstance(app.screen, HelpScreen)
        assert app.is_running


async def test_control_c_leaves_from_help_too():
    async with console(BUSY) as (app, _, pilot):
        await pilot.press("question_mark")
        await pilot.press("ctrl+c")
        await pilot.pause()
        assert not app.is_running


async def test_footer_and_help_name_the_same_keys_and_every_key_has_its_words(look):
    async with console(BUSY) as (app, _, pilot):
        shown = [active.binding for active in app.screen.active_bindings.values() if active.binding.show]
        footer = look(app).splitlines()[-1]
        await pilot.press("question_mark")
        await pilot.pause()
        text = look(app)
    assert shown
    for binding in shown:
        key = app.get_key_display(binding)
        assert f"{key} {binding.description}" in footer
        assert f"{key}   {binding.tooltip}" in text
        assert binding.id


async def test_a_key_without_a_screen_does_nothing(look):
    async with console(BUSY) as (app, _, pilot):
        before = look(app)
        await pilot.press("1", "5", "0", "x", "colon")
        await pilot.pause()
        assert look(app) == before
