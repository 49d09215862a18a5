"""The keeper of the gateway: what it forgives, what it gives up, and that it never fails in silence."""

import asyncio
import socket
import sys

import pytest

from plugsky.cli.gateway_keeper import GatewayKeeper
from plugsky.core import processes
from plugsky.core.errors import ErrorKind, PlugskyError

pytestmark = pytest.mark.integration
DIES = (sys.executable, "-c", "raise SystemExit(3)")
LIVES = (sys.executable, "-c", "import time; time.sleep(600)")


async def silent():
    raise PlugskyError(ErrorKind.UNREACHABLE, "nobody is there")


async def answering():
    return None


@pytest.fixture
def keep(monkeypatch, tmp_path):
    """A keeper of that command, with pauses of a hundredth; ``ask`` as given."""
    monkeypatch.setattr(processes, "FIRST_PAUSE_S", 0.005)
    with socket.socket() as listener:
        yield lambda command, ask: GatewayKeeper(command, listener, tmp_path / "log", ask)


async def test_a_gateway_that_never_answers_is_given_up_after_three_deaths(keep):
    keeper = keep(DIES, silent)
    keeper.start()
    with pytest.raises(PlugskyError, match="cannot be kept") as gone:
        await asyncio.wait_for(keeper.given_up(), 30)
    assert gone.value.why == "it ended with exit code 3, 3 times in a row before it answered once"
    await keeper.stop()


async def test_a_gateway_that_cannot_be_started_is_given_up_by_name(keep, tmp_path):
    keeper = keep((str(tmp_path / "missing"),), silent)
    keeper.start()
    with pytest.raises(PlugskyError) as gone:
        await asyncio.wait_for(keeper.given_up(), 30)
    assert "could not be started: No such file or directory" in gone.value.why
    await keeper.stop()


async def test_a_gateway_that_has_answered_comes_back_however_often_it_dies(keep):
    keeper = keep(LIVES, answering)
    keeper.start()
    seen = set()
    while len(seen) < 5:
        await asyncio.wait_for(keeper.answered(), 30)
        if keeper.pid and keeper.pid not in seen:
            seen.add(keeper.pid)
            await asyncio.sleep(0.01)  # the answer of this life
            keeper._child.kill()
        await asyncio.sleep(0.005)
    await keeper.stop()
    assert keeper._given_up.done() is False


async def test_a_fault_of_the_keeper_itself_ends_the_site_instead_of_leaving_it_without_a_gateway(keep):
    async def broken():
        raise ValueError("no such thing was foreseen")

    keeper = keep(DIES, broken)
    keeper.start()
    with pytest.raises(ValueError, match="foreseen"):
        await asyncio.wait_for(keeper.given_up(), 30)
    await keeper.stop()
