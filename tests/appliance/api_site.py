"""A site for tests of the API: real keys, ledger and audit trail in a fresh directory, a real HTTP server on loopback,
and an engine by script behind a real Unix socket.
"""

import asyncio
import contextlib
import socket
from dataclasses import replace

import openai

from appliance.scripted_engine import DIGEST, ScriptedEngine
from plugsky.access.aliases import Aliases
from plugsky.access.keys import Keys
from plugsky.access.ledger import Ledger
from plugsky.access.tenants import Tenants
from plugsky.audit import AuditLog
from plugsky.audit.trail import search
from plugsky.batches.batches import Batches
from plugsky.batches.files import Files
from plugsky.core.clock import SystemClock
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy, Limits
from plugsky.glossaries.glossaries import Glossaries
from plugsky.server.batch_runner import BatchRunner
from plugsky.server.books import Books
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.engines import EnginePool
from plugsky.server.flights import Flights
from plugsky.server.gateway import HttpServer
from plugsky.server.openai.batches import answering
from plugsky.server.storage import Storage
from plugsky.state import open_database

MODEL = "poet-1b"
LIMITS = Limits(load_wait_s=1.0, request_timeout_s=20.0, reserve_step=8, max_body_bytes=100_000)


class ApiSite:
    """One running gateway and everything around it."""

    def __init__(self, directory, run, limits=LIMITS, where=None, tls=None):
        self.paths = SitePaths.at(directory / "site", run)
        self.tls = tls
        self.where = where or self.paths.database
        self.clock = SystemClock()
        self.policy = EffectivePolicy(limits=limits)
        self.engine = ScriptedEngine()

    async def __aenter__(self):
        self.paths.state.mkdir(parents=True)
        self.audit = AuditLog.open(self.paths, "gateway", self.clock)
        self.database = open_database(self.where)
        self.keys = Keys.open(self.database, self.paths, self.clock)
        self.tenants = Tenants(self.database, self.clock)
        self.aliases = Aliases(self.database, self.clock)
        self.ledger = Ledger(self.database, self.clock, self.audit.name)
        self.books = Books(self.keys, self.aliases, self.ledger, self.audit, self.clock)
        self.key = self.keys.create("acme").secret
        limits = self.policy.limits
        self.pool = EnginePool(self.paths.engine_socket, limits.load_wait_s, limits.max_queue)
        models = (ServedModel(MODEL, DIGEST, 2048, created=1), ServedModel("other-2b", "cd" * 32, 512, created=2))
        models += (ServedModel("vector-1b", "ef" * 32, 512, mode="embed"),)
        self.gateway = Gateway(
            {model.id: model for model in models},
            self.books,
            self.pool,
            Flights(self.clock),
            self.clock,
            self.policy,
        )
        files = Files(self.database, self.paths.files, self.clock, limits)
        self.gateway.storage = Storage(
            files, Batches(self.database, files, self.clock), Glossaries(self.database, self.clock), self.audit
        )
        runner = BatchRunner(self.gateway, self.gateway.storage, answering(self.gateway))
        self.batches = asyncio.create_task(runner.run())
        await self.engine.listen(self.paths.engine_socket(MODEL))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.server = HttpServer(self.gateway, self.tls)
        self.serving = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        await until(lambda: self.server.started)
        self.clients = []
        self.client = self.sdk(self.key)
        return self

    async def __aexit__(self, *_failure):
        for client in self.clients:
            await client.close()
        self.server.drain()
        self.server.drain()
        await self.serving
        await self.batches
        await self.pool.close()
        await self.engine.close()
        self.books.close()
        self.audit.close()
        self.database.close()

    def sdk(self, key, **options):
        """The unmodified SDK on this site."""
        base = f"http://127.0.0.1:{self.port}{options.pop('prefix', '/v1')}"
        client = openai.AsyncOpenAI(base_url=base, api_key=key, max_retries=0, timeout=20, **options)
        self.clients.append(client)
        return client

    async def ask(self, text="how wide is it", **options):
        """One answer, not streamed."""
        given = {"model": MODEL, "messages": [{"role": "user", "content": text}], **options}
        return await self.client.chat.completions.create(**given)

    async def raw(self, request, read=True):
        """Bytes in, bytes out, over a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        await writer.drain()
        data = await reader.read() if read else b""
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        return data

    async def post(self, body, path="/v1/chat/completions", headers=()):
        """Post these very bytes with a valid key; the reply's status, headers and body."""
        lines = [f"POST {path} HTTP/1.1", "Host: site", f"Authorization: Bearer {self.key}", "Connection: close"]
        lines += [f"Content-Length: {len(body)}", *headers]
        return parsed(await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body))

    async def get(self, path, method="GET", headers=()):
        """Ask without a key unless ``headers`` bring one."""
        lines = [f"{method} {path} HTTP/1.1", "Host: site", "Connection: close", *headers]
        return parsed(await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n"))

    def with_engine(self, **changes):
        """Change the engine's script."""
        self.engine.script = replace(self.engine.script, **changes)

    def rows(self):
        """The closed ledger entries, oldest first."""
        return list(self.ledger.closed())

    def records(self, action):
        """The audit records of an action, oldest first, once those that wait are written."""
        self.audit.record("test.flush", "test", "", "ok", {})
        return [record for record in reversed(search(self.paths.audit, limit=1000)) if record.action == action]

    async def settled(self):
        """Wait until nothing is in flight."""
        assert await self.gateway.flights.landed(10)


async def until(holds):
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - it watches what has no event of its own
            await asyncio.sleep(0.005)


def parsed(data):
    """Status, headers and body of a raw reply."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body
