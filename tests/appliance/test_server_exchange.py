"""One exchange over ASGI: what goes out, and in which order."""

import asyncio

import pytest

from plugsky.server.exchange import KEEP_ALIVE, Exchange


class Wire:
    """The server's side of ASGI. It refuses what uvicorn refuses, and writes nothing until ``fast`` is set."""

    def __init__(self):
        self.sent = []
        self.fast = asyncio.Event()
        self.blocked = 0

    async def receive(self):
        await asyncio.Event().wait()

    async def send(self, message):
        self.blocked += 1
        await self.fast.wait()
        if self.sent and not self.sent[-1].get("more_body", True):
            raise RuntimeError("Unexpected ASGI message, after response already completed.")
        self.sent.append(message)


@pytest.fixture
async def wire():
    return Wire()


@pytest.fixture
async def exchange(wire):
    return Exchange({"headers": []}, wire.receive, wire.send, "id")


def bodies(wire):
    return [message["body"] for message in wire.sent if message["type"] == "http.response.body"]


async def test_a_comment_that_waits_for_the_client_never_goes_out_behind_the_last_event(wire, exchange):
    wire.fast.set()
    await exchange.open_stream()
    wire.fast.clear()
    last = asyncio.create_task(exchange.end_stream(b"last"))
    await asyncio.sleep(0)
    comment = asyncio.create_task(exchange.write(KEEP_ALIVE))
    await asyncio.sleep(0)
    wire.fast.set()
    await asyncio.gather(last, comment)
    assert bodies(wire) == [b"last"]


async def test_writes_go_out_one_after_another(wire, exchange):
    wire.fast.set()
    await exchange.open_stream()
    wire.fast.clear()
    before = wire.blocked
    writing = [asyncio.create_task(exchange.write(data)) for data in (KEEP_ALIVE, b"piece")]
    writing.append(asyncio.create_task(exchange.end_stream(b"last")))
    await asyncio.sleep(0.01)
    assert wire.blocked == before + 1
    wire.fast.set()
    await asyncio.gather(*writing)
    assert bodies(wire) == [KEEP_ALIVE, b"piece", b"last"]
