"""One gateway process: its parts put together, its listener served, its end in good order.

The process binds nothing: it serves the listening socket it is given, and only on an address that the policy allows.
SIGTERM or SIGINT drains: no connection is accepted any more, what runs may finish for :data:`DRAIN_S`, what then still
runs is cancelled and settled; a second signal, a second later or more, cancels at once. Then the books and the audit
trail are closed.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Generator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import Final

import uvicorn

from plugsky.access.aliases import Aliases
from plugsky.access.ledger import Ledger
from plugsky.admin.call_server import CallServer
from plugsky.admin.first_use import opened_state
from plugsky.admin.recovery import recover, say_damage
from plugsky.audit import AuditLog
from plugsky.batches.batches import Batches
from plugsky.batches.files import Files
from plugsky.core.clock import SystemClock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.core.policy import EffectivePolicy
from plugsky.core.processes import allow_descriptors, on_wish_to_end
from plugsky.glossaries.glossaries import Glossaries
from plugsky.models import catalogue
from plugsky.models.catalogue import ModelEntry
from plugsky.server import control
from plugsky.server.app import build_app
from plugsky.server.batch_runner import BatchRunner
from plugsky.server.books import Books
from plugsky.server.connections import Connection
from plugsky.server.deps import Gateway, ServedModel
from plugsky.server.engines import EnginePool
from plugsky.server.flights import Flights
from plugsky.server.openai.batches import answering
from plugsky.server.storage import Storage
from plugsky.server.tls import Tls, TlsFiles
from plugsky.state import Database

PROCESS: Final = "gateway"
DRAIN_S: Final = 30.0
CLOSE_S: Final = 10
"""After the drain: how long cancelled requests have to be settled."""
KEEP_ALIVE_S: Final = 75
MAX_HEADERS: Final = 32 << 10
_log: Final = logging.getLogger(__name__)


def run(
    paths: SitePaths,
    listener: socket.socket,
    policy: EffectivePolicy,
    generation: int | None = None,
    context: int | None = None,
    tls_files: TlsFiles | None = None,
    control_listener: socket.socket | None = None,
) -> None:
    """Serve the site's API on ``listener`` until told to stop, with the models of ``generation`` or the current one.

    Admin asks for live requests on ``control_listener``, or on the site's control socket, which is then bound here.
    ``context`` is how many tokens an engine is given at most; until an engine says so itself, clients are told that.
    Raises :class:`PlugskyError` when it cannot begin.
    """
    allow_descriptors()
    tls = None if tls_files is None else Tls(tls_files)
    check_listener(listener, policy, encrypted=tls is not None)
    models = {entry.id: _served(entry, context) for entry in catalogue.models(paths, generation)}
    asyncio.run(_run(paths, listener, policy, models, tls, control_listener))


def _served(entry: ModelEntry, context: int | None) -> ServedModel:
    return ServedModel(
        id=entry.id,
        digest=entry.sha256,
        context=entry.context if context is None else min(entry.context, context),
        mode=entry.mode,
        licence=entry.licence,
        languages=entry.languages,
        dimensions=entry.dimensions,
        created=int(entry.path.stat().st_mtime),
    )


def check_listener(listener: socket.socket, policy: EffectivePolicy, *, encrypted: bool = False) -> None:
    """Refuse an address that the policy does not name (by default any but loopback) for what is not encrypted."""
    host = listener.getsockname()[0]
    if host not in policy.bind_hosts and not encrypted:
        raise PlugskyError(
            ErrorKind.POLICY_REFUSED,
            f"the gateway may not listen on {host}",
            why=f"this site's policy allows {', '.join(policy.bind_hosts)}",
            next="plugsky serve --host 127.0.0.1",
        )


async def _run(
    paths: SitePaths,
    listener: socket.socket,
    policy: EffectivePolicy,
    models: Mapping[str, ServedModel],
    tls: Tls | None,
    control_listener: socket.socket | None,
) -> None:
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        audit = await asyncio.to_thread(
            AuditLog.open, paths, PROCESS, clock, serve_without_audit=policy.serve_without_audit
        )
        stack.push_async_callback(asyncio.to_thread, audit.close)
        await asyncio.to_thread(say_damage, paths, audit.name)
        state = opened_state(paths, clock)
        database, keys = await asyncio.to_thread(stack.enter_context, state)
        ledger = Ledger(database, clock, audit.name)
        left = await asyncio.to_thread(recover, paths, ledger, audit)
        if left.reservations:
            _log.warning("%d requests of an earlier gateway were closed without charge", left.reservations)
        books = Books(keys, Aliases(database, clock), ledger, audit, clock)
        stack.push_async_callback(asyncio.to_thread, books.close)
        engines = EnginePool(paths.engine_socket, policy.limits.load_wait_s, policy.limits.max_queue)
        stack.push_async_callback(engines.close)
        gateway = Gateway(models, books, engines, Flights(clock), clock, policy)
        storage = Storage(*await asyncio.to_thread(_stored, database, paths, clock, policy), audit)
        gateway.storage = storage
        calls = CallServer(control.verbs(gateway.flights))
        await calls.start(paths.gateway_socket, control_listener)
        stack.push_async_callback(calls.close)
        server = HttpServer(gateway, tls)
        loop.add_signal_handler(signal.SIGHUP, _reload, tls)
        on_wish_to_end(loop, server.drain)
        batches = asyncio.create_task(BatchRunner(gateway, storage, answering(gateway)).run())
        await server.serve(sockets=[listener])
        await gateway.flights.landed(DRAIN_S + CLOSE_S)
        await asyncio.wait([batches], timeout=CLOSE_S)
        batches.cancel()
        with suppress(asyncio.CancelledError):
            await batches


def _reload(tls: Tls | None) -> None:
    """Take new certificates. Where they cannot be used, the former go on."""
    try:
        if tls is not None:
            tls.reload()
            _log.info("the certificate was read again")
    except PlugskyError as error:
        _log.error("%s: %s. The former goes on. Next: %s", error.what, error.why, error.next)


def _stored(
    database: Database, paths: SitePaths, clock: SystemClock, policy: EffectivePolicy
) -> tuple[Files, Batches, Glossaries]:
    files = Files(database, paths.files, clock, policy.limits)
    return files, Batches(database, files, clock), Glossaries(database, clock)


class HttpServer(uvicorn.Server):
    """uvicorn, with its signals and its end in our hands."""

    def __init__(self, gateway: Gateway, tls: Tls | None = None) -> None:
        super().__init__(
            uvicorn.Config(
                build_app(gateway),
                http=Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=int(DRAIN_S) + CLOSE_S,
                h11_max_incomplete_event_size=MAX_HEADERS,
            )
        )
        self._gateway = gateway
        self.config.load()
        self.config.ssl = None if tls is None else tls.context

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave the process's signals alone: :func:`run` has them."""
        yield

    def drain(self) -> None:
        """Stop taking requests and let those that run finish; called again, cancel them."""
        flights = self._gateway.flights
        if self._gateway.draining:
            flights.cancel_all("drain")
            return
        self._gateway.draining = True
        self.should_exit = True
        asyncio.get_running_loop().call_later(DRAIN_S, flights.cancel_all, "drain")
