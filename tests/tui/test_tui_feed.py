"""The feed of news: it survives whatever happens to the site, and says what happened."""

import asyncio
from contextlib import aclosing

from plugsky.admin.api import Duty, Host, Isolation
from plugsky_tui.feed import Lost, follow
from plugsky_tui.home_state import HISTORY, HomeState
from tui.fake_site import BUSY, EMPTY, FakeSite, replaced, unreachable

QUICK = (0.0,)


async def first(site, number, **options):
    """The first news of ``site``."""
    async with aclosing(follow(site, 1.0, pauses=QUICK, **options)) as news:
        return [await anext(news) for _ in range(number)]


async def test_a_broken_stream_is_said_once_and_opened_again():
    site = FakeSite()
    for item in (BUSY, unreachable(), EMPTY):
        site.news.put_nowait(item)
    error = unreachable()
    assert await first(site, 3) == [BUSY, Lost(error.what, error.why, error.next), EMPTY]
    assert site.intervals == [1.0, 1.0]


async def test_a_stream_that_ends_counts_as_broken():
    site = FakeSite()
    for item in (BUSY, None, BUSY):
        site.news.put_nowait(item)
    before, lost, after = await first(site, 3)
    assert isinstance(lost, Lost)
    assert "closed the connection" in lost.what
    assert before == after == BUSY


async def test_silence_counts_as_broken():
    site = FakeSite()
    async with aclosing(follow(site, 0.001, pauses=QUICK, silence=0.02)) as news:
        lost = await anext(news)
    assert isinstance(lost, Lost)
    assert "no news" in lost.what


async def test_every_further_failure_is_given_more_time():
    pauses = []
    site = FakeSite()
    real_sleep = asyncio.sleep

    async def sleep(seconds):
        pauses.append(seconds)
        await real_sleep(0)

    for item in (*[unreachable()] * 6, BUSY, unreachable(), BUSY):
        site.news.put_nowait(item)
    asyncio.sleep = sleep
    try:
        async with aclosing(follow(site, 1.0)) as news:
            for _ in range(9):
                await anext(news)
    finally:
        asyncio.sleep = real_sleep
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 1.0]


def test_what_the_site_says_is_clean_before_any_view_sees_it():
    poisoned = replaced(
        BUSY, operator="\x1b]0;owned\x07", duties=(Duty("d", "info", "a\nb", "c\u202ed"),), isolation=BUSY.isolation
    )
    home = HomeState().after(poisoned).home
    assert home.operator == "�]0;owned�"
    assert home.duties[0].text == "a�b"
    assert home.duties[0].next == "c�d"


def test_the_loss_is_clean_too():
    assert HomeState().after(Lost("gone\x1b[2J")).lost == Lost("gone�[2J")


def test_a_home_ends_the_trouble():
    state = HomeState().after(BUSY).after(Lost("gone"))
    assert state.home == BUSY
    assert state.lost == Lost("gone")
    assert state.after(BUSY).lost is None


def test_while_paused_the_picture_stands_still_but_the_loss_shows():
    paused = HomeState().after(BUSY).toggled()
    assert paused.after(EMPTY).home == BUSY
    assert paused.after(EMPTY).tokens_per_s == paused.tokens_per_s
    assert paused.after(Lost("gone")).lost == Lost("gone")
    assert paused.toggled().after(EMPTY).home == EMPTY


def test_before_the_first_home_there_is_nothing_to_pause():
    assert not HomeState().toggled().paused


def test_the_past_is_kept_to_a_bound_and_skips_what_is_missing():
    state = HomeState()
    for _ in range(HISTORY + 5):
        state = state.after(BUSY)
    assert len(state.tokens_per_s) == len(state.cpu) == HISTORY
    missing = replaced(BUSY, traffic=None, host=Host(None, None, None, None, None))
    assert state.after(missing).tokens_per_s == state.tokens_per_s


def test_cleaning_changes_nothing_of_a_clean_home():
    assert HomeState().after(BUSY).home == BUSY
    assert isinstance(HomeState().after(BUSY).home.isolation, Isolation)
