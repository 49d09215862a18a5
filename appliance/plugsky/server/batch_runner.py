"""Runs batches: each line as a request of the lowest class, by the same handlers that clients reach.

Guarantees:

1. A line ends once in the files of answers; a process that was killed goes on behind the last that did.
2. At most :data:`AT_A_TIME` lines of a batch are in flight, and :data:`BATCHES` batches: those of tenants with the
   fewest running come first, then the oldest.
3. What may pass (a busy engine, one that loads) is tried again until the batch expires; anything else is an answer.
4. The key that made the batch is asked at every line: once it has ended, so have the lines.
5. A gateway that drains begins no line; the batch goes on when the next one starts.
6. One process runs a batch, whichever of those of the site was first.
7. What goes wrong with a batch itself is logged and tried again later; answers that were damaged end it as failed.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Final

import msgspec

from plugsky.batches import lines
from plugsky.batches.batches import BatchRecord
from plugsky.batches.lines import Answers, Line
from plugsky.core.clock import unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.ids import new_id
from plugsky.server.deps import Gateway
from plugsky.server.description import Handler
from plugsky.server.failures import place_of
from plugsky.server.local_exchange import LocalExchange
from plugsky.server.openai.errors import OPENAI
from plugsky.server.storage import Storage

AT_A_TIME: Final = 8
BATCHES: Final = 4
LOOK_S: Final = 1.0
SWEEP_S: Final = 3600.0
LONGEST_PAUSE_S: Final = 30.0
_PASSING: Final = frozenset(
    {ErrorKind.OVERLOADED, ErrorKind.LOADING, ErrorKind.ENGINE_LOST, ErrorKind.RATE_LIMITED, ErrorKind.UNREACHABLE}
)
_log: Final = logging.getLogger(__name__)


class BatchRunner:
    """The batches of one gateway. ``handlers`` answer for the endpoints that a batch may have, by their paths."""

    def __init__(self, gateway: Gateway, storage: Storage, handlers: Mapping[str, Handler]) -> None:
        self._gateway = gateway
        self._storage = storage
        self._handlers = handlers
        self._runs: dict[str, _Run] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._swept_at = -SWEEP_S

    async def run(self) -> None:
        """Run batches until the gateway drains and the lines in flight are over."""
        try:
            while not self._gateway.draining:
                self._storage.news.clear()
                try:
                    await self._sweep()
                    self._take(await self._storage.ask(self._storage.batches.under_way))
                except PlugskyError as error:
                    _log.error("batches: %s", error.what)
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._storage.news.wait()
            await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        finally:
            for task in self._tasks.values():
                task.cancel()

    async def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._swept_at >= SWEEP_S:
            self._swept_at = now
            await self._storage.ask(self._storage.files.sweep)

    def _take(self, under_way: list[BatchRecord]) -> None:
        """Begin what may begin, and let those that run hear how they stand."""
        for batch_id in [name for name, task in self._tasks.items() if task.done()]:
            del self._tasks[batch_id], self._runs[batch_id]
        waiting = []
        for batch in under_way:
            if batch.id in self._runs:
                self._runs[batch.id].batch = batch
            else:
                waiting.append(batch)
        tenants = Counter(run.batch.tenant for run in self._runs.values())
        while waiting and len(self._tasks) < BATCHES:
            batch = min(waiting, key=lambda each: (tenants[each.tenant], each.id))
            waiting.remove(batch)
            tenants[batch.tenant] += 1
            run = self._runs[batch.id] = _Run(self._gateway, self._storage, self._handlers[batch.endpoint], batch)
            self._tasks[batch.id] = asyncio.create_task(_guarded(run))


class _Run:
    """One batch, from where it stands to its end. ``batch`` is how the database has it."""

    def __init__(self, gateway: Gateway, storage: Storage, handler: Handler, batch: BatchRecord) -> None:
        self.batch = batch
        self._gateway = gateway
        self._storage = storage
        self._handler = handler
        self._disk = asyncio.Lock()
        self._told_at = 0.0

    async def run(self) -> None:
        batch, store = self.batch, self._storage
        claim = await store.ask(lambda: lines.claim(store.files.path(batch.input)))
        if claim is None:
            return
        try:
            if batch.status != "validating" or await self._begin():
                await self._go_on()
        finally:
            claim.close()

    async def _begin(self) -> bool:
        batch, store, limits = self.batch, self._storage, self._gateway.policy.limits
        path = store.files.path(batch.input)
        total, problems = await store.ask(lambda: lines.check(path, batch.endpoint, limits.max_batch_lines))
        if problems:
            told = [msgspec.to_builtins(problem) for problem in problems]
            await self._end("failed", told)
            return False
        self.batch = await store.ask(lambda: store.batches.begun(batch.id, total))
        return True

    async def _go_on(self) -> None:
        batch, files = self.batch, self._storage.files
        try:
            output = await self._storage.ask(lambda: Answers(files.path(batch.output)))
            errors = await self._storage.ask(lambda: Answers(files.path(batch.errors)))
        except PlugskyError as error:
            if error.kind is not ErrorKind.TAMPERED:
                raise
            _log.error("batch %s: %s: %s", batch.id, error.what, error.why)
            problem: dict[str, object] = {
                "code": "answers_damaged",
                "message": "The answers so far cannot be read: make the batch again",
            }
            await self._end("failed", [problem])
            return
        try:
            source = lines.read(files.path(batch.input), batch.endpoint, frozenset(output.done | errors.done))
            await asyncio.gather(*(self._worker(source, output, errors) for _ in range(AT_A_TIME)))
        finally:
            for answers in (output, errors):
                await self._storage.ask(answers.close)
        counts = (len(output.done), len(errors.done))
        status = "completed"
        if sum(counts) < self.batch.total:
            if self._gateway.draining:
                return
            status = "cancelled" if self.batch.status == "cancelling" else "expired"
        sizes = {batch.output: output.size, batch.errors: errors.size}
        await self._end(status, counts=counts, sizes={name: size for name, size in sizes.items() if size})

    async def _end(
        self,
        status: str,
        problems: list[dict[str, object]] | None = None,
        counts: tuple[int, int] = (0, 0),
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        batches = self._storage.batches
        ended = await self._storage.ask(lambda: batches.ended(self.batch.id, status, counts, problems or (), sizes))
        self._storage.ended(ended)

    async def _worker(self, source: Iterator[Line], output: Answers, errors: Answers) -> None:
        while not self._over:
            async with self._disk:
                line = await self._storage.ask(lambda: next(source, None))
            told = None if line is None else await self._answer(line)
            if line is None or told is None:
                return
            status, request_id, body = told
            shape = {
                "id": f"batch_req_{request_id}",
                "custom_id": line.custom_id,
                "response": {"status_code": status, "request_id": request_id, "body": msgspec.Raw(body)},
                "error": None,
            }
            answers, encoded = output if status == 200 else errors, msgspec.json.encode(shape)
            async with self._disk:
                await self._storage.ask(lambda: answers.add(line.custom_id, encoded))  # noqa: B023 - run at once
            await self._tell(len(output.done), len(errors.done))

    async def _answer(self, line: Line) -> tuple[int, str, bytes] | None:
        """How a line ended: its status, request id and body; None when it must not go on."""
        pause = LOOK_S
        while not self._over:
            exchange = LocalExchange(new_id(), line.body, self.batch.key_id)
            try:
                await self._handler(exchange)
            except PlugskyError as error:
                if error.kind not in _PASSING:
                    return OPENAI.status(error), exchange.request_id, OPENAI.body(error)
                await self.wait(max(pause, min(error.retry_after or 0.0, LONGEST_PAUSE_S)))
                pause = min(pause * 2, LONGEST_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - as at the front door: one line's failure is that line's
                _log.error("request %s failed: %s", exchange.request_id, place_of(error))
                failure = PlugskyError(ErrorKind.INTERNAL, "The gateway failed on this request")
                return OPENAI.status(failure), exchange.request_id, OPENAI.body(failure)
            else:
                return exchange.status, exchange.request_id, exchange.answer
        return None

    @property
    def _over(self) -> bool:
        return (
            self._gateway.draining
            or self.batch.status == "cancelling"
            or unix_us(self._gateway.clock.now()) >= self.batch.expires_us
        )

    async def wait(self, seconds: float) -> None:
        """Let time pass, or what ends the batch or this gateway."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._over and loop.time() < until:  # noqa: ASYNC110 - several things end it
            await asyncio.sleep(min(LOOK_S, until - loop.time()))

    async def _tell(self, completed: int, failed: int) -> None:
        """Note how far it is, once a second."""
        now = asyncio.get_running_loop().time()
        if now - self._told_at >= LOOK_S:
            self._told_at = now
            batches = self._storage.batches
            await self._storage.ask(lambda: batches.progressed(self.batch.id, completed, failed))


async def _guarded(run: _Run) -> None:
    try:
        await run.run()
    except PlugskyError as error:  # the books, or the disk: it stays under way and is tried again
        _log.error("batch %s: %s", run.batch.id, error.what)
        await run.wait(LONGEST_PAUSE_S)
    except Exception as error:  # noqa: BLE001 - what nobody foresaw ends this try alone
        _log.error("batch %s failed: %s", run.batch.id, place_of(error))
        await run.wait(LONGEST_PAUSE_S)
