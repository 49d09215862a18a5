"""The Admin protocol over a Unix socket: the same answers, the same errors, bounded and cancellable."""

import asyncio
import itertools
import os
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.admin_site import REQUEST, TRAFFIC, AdminSite
from plugsky.admin import call_server
from plugsky.admin.call_client import MAX_ITEMS, CallClient
from plugsky.admin.call_server import Answer, CallServer
from plugsky.admin.client import AdminClient
from plugsky.admin.gateway_client import GatewayClient
from plugsky.admin.server import AdminServer
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.frames import Abort, Call, CallFailed, encode, from_admin_buffer
from plugsky.core.principal import Role


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[AdminSite]:
    site = AdminSite(tmp_path)
    yield site
    site.close()


@pytest.fixture
async def server(site: AdminSite) -> AsyncIterator[AdminServer]:
    server = AdminServer(site.service)
    await server.start()
    yield server
    await server.close()


@pytest.fixture
async def client(site: AdminSite, server: AdminServer) -> AsyncIterator[AdminClient]:
    async with AdminClient.of(site.past.paths) as client:
        yield client


async def test_every_answer_is_the_same_over_the_socket(site: AdminSite, client: AdminClient):
    direct = site.as_(Role.ADMIN)
    over, here = await client.home(), await direct.home()
    assert over.models == here.models
    assert over.requests == here.requests == (REQUEST,)
    assert over.traffic == here.traffic == TRAFFIC
    assert over.role == "admin"
    assert await client.model_list() == await direct.model_list()
    assert await client.request_list() == await direct.request_list()
    assert await client.key_list() == await direct.key_list()
    assert await client.usage_report(tenant="demo") == await direct.usage_report(tenant="demo")
    assert await client.audit_search("job", limit=5) == await direct.audit_search("job", limit=5)
    assert await client.audit_verify() == await direct.audit_verify()
    assert await client.isolation() == await direct.isolation()


async def test_writes_work_over_the_socket(site: AdminSite, client: AdminClient):
    made = await client.key_create("demo", "from afar", ("m",), 3)
    assert (await client.key_revoke(made.id)).revoked
    await client.request_cancel(REQUEST.job)
    assert await client.request_list() == ()


async def test_an_error_keeps_its_kind_and_words(client: AdminClient):
    with pytest.raises(PlugskyError) as refused:
        await client.key_revoke("nothere1")
    error = refused.value
    assert (error.kind, error.next, error.exit_code) == (ErrorKind.NOT_FOUND, "plugsky key list", 7)


async def test_a_stream_runs_beside_other_calls_and_ends_when_closed(client: AdminClient):
    homes = client.watch_home(0.2)
    first = await anext(homes)
    assert (await client.home()).identity == first.identity
    await anext(homes)
    await homes.aclose()
    assert (await client.home()).identity == first.identity


async def test_a_stream_that_is_refused_raises(client: AdminClient):
    with pytest.raises(PlugskyError) as refused:
        await anext(client.watch_home(0.0))
    assert refused.value.kind is ErrorKind.BAD_REQUEST


async def test_the_socket_is_for_the_owner_and_group_in_a_private_directory(site: AdminSite, server: AdminServer):
    path = site.past.paths.admin_socket
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_site_that_is_not_running_says_how_to_start_it(site: AdminSite):
    async with AdminClient.of(site.past.paths) as client:
        with pytest.raises(PlugskyError) as refused:
            await client.home()
    assert (refused.value.kind, refused.value.exit_code) == (ErrorKind.UNREACHABLE, 8)
    assert refused.value.next == f"plugsky serve --root {site.past.paths.root}"


async def exhaust(items: AsyncGenerator[object]) -> None:
    async for _ in items:
        pass


async def test_a_client_finds_a_restarted_site_by_itself(site: AdminSite):
    async with AdminClient.of(site.past.paths) as client:
        for _ in range(2):
            server = AdminServer(site.service)
            await server.start()
            assert (await client.home()).operator
            homes = client.watch_home(0.2)
            await anext(homes)
            await server.close()
            with pytest.raises(PlugskyError) as lost:
                await exhaust(homes)
            assert lost.value.kind is ErrorKind.UNREACHABLE


async def test_a_second_site_on_the_same_socket_is_refused(site: AdminSite, server: AdminServer):
    with pytest.raises(PlugskyError) as refused:
        await AdminServer(site.service).start()
    assert refused.value.kind is ErrorKind.CONFLICT


async def test_a_socket_left_by_a_killed_process_is_replaced(site: AdminSite):
    path = site.past.paths.admin_socket
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    server = AdminServer(site.service)
    await server.start()
    await server.close()
    assert not path.exists()


async def test_a_server_removes_its_own_socket_and_no_successors(tmp_path: Path):
    path = tmp_path / "run" / "s"
    server, successor = CallServer(Counter().answer), CallServer(Counter().answer)
    await server.start(path)
    path.unlink()
    await successor.start(path)
    await server.close()
    assert path.is_socket()
    await successor.close()
    assert not path.exists()


async def test_a_stranger_behind_the_socket_is_not_spoken_to(
    site: AdminSite, server: AdminServer, monkeypatch: pytest.MonkeyPatch
):
    client = CallClient(site.past.paths.admin_socket, lambda why: PlugskyError(ErrorKind.UNREACHABLE, why))
    monkeypatch.setattr(client, "_trusted", frozenset())
    with pytest.raises(PlugskyError) as refused:
        await client.call("home", {})
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def raw(site: AdminSite) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_unix_connection(site.past.paths.admin_socket)


async def failure(reader: asyncio.StreamReader) -> CallFailed:
    buffer = from_admin_buffer()
    while data := await reader.read(65536):
        for frame in buffer.feed(data):
            assert isinstance(frame, CallFailed)
            return frame
    raise AssertionError("the connection ended")


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        (Call(1, "shutdown"), "not_found"),
        (Call(1, "_home"), "not_found"),
        (Call(1, "__class__"), "not_found"),
        (Call(1, "key_create", {}), "bad_request"),
        (Call(1, "key_create", {"tenant": "a", "role": 3}), "bad_request"),
        (Call(1, "watch_home", {"interval_s": "often"}), "bad_request"),
    ],
)
async def test_a_call_that_fits_no_verb_is_refused(site: AdminSite, server: AdminServer, call: Call, kind: str):
    reader, writer = await raw(site)
    writer.write(encode(call))
    assert (await failure(reader)).kind == kind
    writer.close()


async def test_bytes_that_are_no_frame_end_that_connection_only(
    site: AdminSite, server: AdminServer, client: AdminClient
):
    await client.home()
    for junk in (b"\xff\xff\xff\xff", b"\0\0\0\3abc", b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await raw(site)
        writer.write(junk)
        assert await reader.read() == b""
        writer.close()
    assert (await client.home()).operator


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(min_size=1, max_size=60))
def test_any_bytes_are_answered_or_cut_never_fatal(tmp_path_factory, junk: bytes):
    async def meet() -> None:
        path = tmp_path_factory.mktemp("run") / "s"
        path.parent.chmod(0o700)

        async def echo() -> str:
            return "here"

        server = CallServer(lambda _uid, _verb, _arguments: echo())
        await server.start(path)
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(junk)
        writer.close()
        client = CallClient(path, lambda why: PlugskyError(ErrorKind.UNREACHABLE, why))
        assert await client.call("any", {}) == "here"
        await client.close()
        await server.close()

    asyncio.run(meet())


class Counter:
    """A call server's work: endless streams and waits, of which it knows how many run."""

    def __init__(self) -> None:
        self.running = 0
        self.counted_to = 0
        self.changed = asyncio.Event()

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.running += 1
        self.changed.set()
        try:
            yield
        finally:
            self.running -= 1
            self.changed.set()

    def answer(self, _uid: int, verb: str, _arguments: Mapping[str, Any]) -> Answer:
        match verb:
            case "flood":
                return self.flood()
            case "break":
                return self.break_()
            case "count":
                return self.count()
            case "echo":
                return self.echo()
            case _:
                return self.wait()

    async def flood(self) -> AsyncGenerator[str]:
        with self.counted():
            while True:
                yield "x" * 100_000
                await asyncio.sleep(0)

    async def count(self) -> AsyncGenerator[int]:
        with self.counted():
            for number in itertools.count():
                self.counted_to = number
                yield number
                await asyncio.sleep(0)

    async def echo(self) -> str:
        return "here"

    async def wait(self) -> None:
        with self.counted():
            await asyncio.Event().wait()

    async def break_(self) -> None:
        raise RuntimeError("a prompt that nobody may see")

    async def settle(self, number: int) -> None:
        async with asyncio.timeout(10):
            while self.running != number:
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def counter(site: AdminSite) -> AsyncIterator[Counter]:
    counter = Counter()
    server = CallServer(counter.answer)
    await server.start(site.past.paths.admin_socket)
    yield counter
    await server.close()
    await counter.settle(0)


async def test_a_stream_that_nobody_reads_holds_up_no_other_call(site: AdminSite, counter: Counter):
    client = CallClient(site.past.paths.admin_socket, lambda why: PlugskyError(ErrorKind.UNREACHABLE, why))
    flood = client.stream("count", {})
    assert await anext(flood) == 0
    async with asyncio.timeout(20):
        while counter.counted_to < 3 * MAX_ITEMS:
            assert await client.call("echo", {}) == "here"
    assert await anext(flood) > 1, "the oldest were dropped, the newest are there"
    await flood.aclose()
    await client.close()


@pytest.mark.parametrize("arguments", [{"tenant": "\udcff"}, {"te\ud800": 1}])
async def test_arguments_that_are_not_utf8_are_refused_by_name(client: AdminClient, arguments: dict[str, Any]):
    for _ in range(2):
        with pytest.raises(PlugskyError) as refused:
            await client._calls.call("key_list", arguments)
        assert refused.value.kind is ErrorKind.BAD_REQUEST
    assert await client.key_list()


async def test_an_abort_and_a_lost_peer_end_what_they_asked_for(site: AdminSite, counter: Counter):
    _, writer = await raw(site)
    writer.write(encode(Call(1, "wait")) + encode(Call(2, "wait")))
    await counter.settle(2)
    writer.write(encode(Abort(1)))
    await counter.settle(1)
    writer.close()
    await counter.settle(0)


async def test_a_call_that_is_cancelled_here_is_cancelled_there(site: AdminSite, counter: Counter):
    client = CallClient(site.past.paths.admin_socket, lambda why: PlugskyError(ErrorKind.UNREACHABLE, why))
    call = asyncio.create_task(client.call("wait", {}))
    await counter.settle(1)
    call.cancel()
    await counter.settle(0)
    await client.close()


async def test_one_connection_runs_a_bounded_number_of_calls(site: AdminSite, counter: Counter):
    reader, writer = await raw(site)
    for number in range(call_server.MAX_CALLS + 1):
        writer.write(encode(Call(number, "wait")))
    refused = await failure(reader)
    assert (refused.id, refused.kind) == (call_server.MAX_CALLS, "overloaded")
    assert counter.running == call_server.MAX_CALLS
    writer.close()


async def test_a_peer_that_does_not_read_is_cut(site: AdminSite, counter: Counter, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(call_server, "PATIENCE_S", 0.05)
    _, writer = await raw(site)
    writer.write(encode(Call(1, "flood")))
    await counter.settle(1)
    await counter.settle(0)
    writer.close()


async def test_an_unforeseen_failure_answers_internal_without_its_words(site: AdminSite, counter: Counter):
    client = CallClient(site.past.paths.admin_socket, lambda why: PlugskyError(ErrorKind.UNREACHABLE, why))
    with pytest.raises(PlugskyError) as failed:
        await client.call("break", {})
    assert failed.value.kind is ErrorKind.INTERNAL
    assert "prompt" not in failed.value.what + failed.value.why
    await client.close()


async def test_the_gateways_control_socket_is_read_as_values(site: AdminSite):
    gateway = site.gateway

    def answer(_uid: int, verb: str, arguments: Mapping[str, Any]) -> Answer:
        match verb:
            case "requests":
                return gateway.requests()
            case "traffic":
                return gateway.traffic()
            case _:
                return gateway.cancel(**arguments)

    path = site.past.paths.gateway_socket
    server = CallServer(answer)
    await server.start(path)
    client = GatewayClient(path)
    assert await client.requests() == (REQUEST,)
    assert await client.traffic() == TRAFFIC
    await client.cancel(REQUEST.job)
    with pytest.raises(PlugskyError) as gone:
        await client.cancel(REQUEST.job)
    assert gone.value.kind is ErrorKind.NOT_FOUND
    await server.close()
    with pytest.raises(PlugskyError) as unreachable:
        await client.traffic()
    assert unreachable.value.kind is ErrorKind.UNREACHABLE
    await client.close()
