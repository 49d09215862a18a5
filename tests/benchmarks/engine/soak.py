"""Mixed random work for an hour on engines that are killed now and then, and a count of what must never happen.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/engine/soak.py --minutes 60 --write

The engines run under their supervisor, as in `plugsky serve`; the requests go through the gateway's pool of lines, so
that they outlive a kill. The cache is small beside the work: it is always full. Ends with 1 and says why when

- anything does not hold that `soak_work.py` says of every request, or a request fails but by the error it should have,
- an engine without requests still counts some that run or wait, or cells that they hold,
- an engine's own memory grows by more than 64 MiB after it has lived for a minute; the copies of quiet conversations
  are not counted, which it may make until as many cells lie in host memory as in its cache,
- the canary, asked every minute, is over its bound,
- fewer than 30 % of the tokens of greedy answers come before the first that differs from those of an engine at rest.

What goes wrong is told at once, and how it stands every minute. SIGINT ends it early, with the table. The last quarter,
ten minutes at most, is without kills. Where it is not over when all its requests must long have ended, it says what it
waits for, and ends with 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance import embed_model, engine_host
from benchmarks import big_bundles, report
from benchmarks.engine import figures, run, subject
from benchmarks.engine.scene import chance
from benchmarks.engine.soak_work import END_S, Books, Work, memory
from plugsky.core.errors import PlugskyError
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.headers.estimate import Holding, kv_bytes
from plugsky.engine.headers.shape import shape
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.loading import canary
from plugsky.engine.loading.model_file import check_file
from plugsky.engine.spec import EngineSpec
from plugsky.server.deps import ServedModel
from plugsky.server.engines import EnginePool

CLIENTS = 24
CELLS = 4096
GROWTH = 64 << 20
SAME = 0.3
KILLS_S = (20.0, 90.0)
"""Between one kill and the next; one in five comes again at once, while its successor loads or has just begun."""
AGAIN, AGAIN_S = 0.2, (0.2, 6.0)
CALM = (0.25, 600.0)
"""The share of the time, and its seconds at most, that is left without kills at the end."""
SETTLE_S = 15.0
BESIDE_S = 600.0
"""Seconds at most for all but the work: to load, to have the answers that are compared later, to end the engines."""


@dataclass
class Watch:
    """What was seen of the engines beside their answers."""

    kills: Counter[str] = field(default_factory=Counter)
    canaries: list[float] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)
    """Canaries that were not read, by the error."""
    lives: dict[int, list[tuple[float, int]]] = field(default_factory=dict)
    """Of each life of the chat engine, when it was looked at and the bytes of its memory without its copies."""
    left: str = ""
    """How the engine stood when everything had ended."""


class Soak:
    """One run."""

    def __init__(self, work: Work, engines: dict[str, EngineSupervisor], seconds: float, rng: random.Random) -> None:
        self.work, self.watch = work, Watch()
        self._engines = engines
        self._rng = rng
        self._seconds = seconds
        self._cell = _cell_bytes(engines["chat"].spec)
        self._warm_s = min(60.0, seconds / 8)
        self._over = asyncio.Event()

    def stop(self) -> None:
        """End early."""
        self._over.set()

    async def run(self) -> None:
        """Work, kill, look; then see that nothing is left."""
        await self.work.learn(self._rng)
        clients = [asyncio.create_task(self._client(chance(self._rng.random()))) for _ in range(CLIENTS)]
        beside = [
            asyncio.create_task(each) for each in (self._kill(), self._read_canaries(), self._look(), self._tell())
        ]
        await self._pause(self._seconds)
        self._over.set()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if ended is not None:
                self.work.books.found(f"a request failed without a name: {ended!r}")
        for task in beside:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._check_idle()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), seconds)

    async def _client(self, rng: random.Random) -> None:
        while not self._over.is_set():
            await self.work.one(rng)
            await self._pause(rng.expovariate(2.0))

    async def _kill(self) -> None:
        until = time.monotonic() + self._seconds - min(CALM[0] * self._seconds, CALM[1])
        while True:
            again = self.watch.kills and self._rng.random() < AGAIN
            pause = self._rng.uniform(*(AGAIN_S if again else KILLS_S))
            if time.monotonic() + pause >= until:
                return
            await asyncio.sleep(pause)
            name = self._rng.choice(["chat", "chat", "chat", *self._engines])
            life = self._engines[name].life
            if life.pid:
                state = "" if life.serves else " while loading"
                self.watch.kills[f"{name}{state}"] += 1
                os.kill(life.pid, signal.SIGKILL)

    async def _read_canaries(self) -> None:
        client = EngineClient(self._engines["chat"].socket_path)
        try:
            while True:
                await asyncio.sleep(min(60.0, self._seconds / 12))
                try:
                    await client.connect(30.0)
                    self.watch.canaries.append((await client.canary()).kl)
                except PlugskyError as error:
                    self.watch.unread[error.kind.wire] += 1
        finally:
            await client.close()

    async def _look(self) -> None:
        client = EngineClient(self._engines["chat"].socket_path)
        try:
            while True:
                await asyncio.sleep(5.0)
                with contextlib.suppress(OSError, StopIteration, PlugskyError):  # it has just ended
                    await client.connect(30.0)
                    pid = self._engines["chat"].life.pid
                    copied = int((await client.stats()).saved * self._cell)
                    size = sum(memory(one) for one in subject.family(pid)) - copied
                    self.watch.lives.setdefault(pid, []).append((time.monotonic(), size))
        finally:
            await client.close()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(60.0)
            print(self.standing(), file=sys.stderr, flush=True)

    def standing(self) -> str:
        """How it stands, in a line."""
        books, watch = self.work.books, self.watch
        size = next((seen[-1][1] for seen in reversed(watch.lives.values())), 0)
        return (
            f"{sum(books.kinds.values())} requests, open: {_told(+books.open) or 'none'}; {books.tokens} tokens;"
            f" kills: {_told(watch.kills) or 'none'}; {size >> 20} MiB; canary {watch.canaries[-1:]}"
        )

    def growths(self) -> list[tuple[float, int, int]]:
        """Of each life, the seconds after it was warm, its memory then, and the most it had later."""
        found = []
        for seen in self.watch.lives.values():
            warm = [(at, size) for at, size in seen if at - seen[0][0] >= self._warm_s]
            if len(warm) > 1:
                found.append((warm[-1][0] - warm[0][0], warm[0][1], max(size for _, size in warm)))
        return found

    async def _check_idle(self) -> None:
        client = EngineClient(self._engines["chat"].socket_path)
        await client.connect(30.0)
        until = time.monotonic() + SETTLE_S
        while True:
            stats = await client.stats()
            busy = stats.running or stats.waiting or stats.kv_used
            if not busy or time.monotonic() > until:
                break
            await asyncio.sleep(0.5)
        await client.close()
        self.watch.left = f"{stats.running} running, {stats.waiting} waiting, {stats.kv_used} cells held"
        if busy:
            self.work.books.found(f"an engine whose requests have all ended has {self.watch.left}")

    def judge(self) -> list[str]:
        """Everything that went wrong."""
        books, watch = self.work.books, self.watch
        wrong = list(books.wrong)
        grown = max((later - before for _, before, later in self.growths()), default=0)
        if grown > GROWTH:
            wrong.append(f"an engine's memory grew by {grown >> 20} MiB")
        if not watch.canaries or max(watch.canaries) > canary.BOUND:
            wrong.append(f"the canary: {watch.canaries[-5:]} nats")
        if not books.alike or statistics.mean(books.alike) < SAME:
            wrong.append("greedy answers are not those of an engine at rest")
        return wrong

    def table(self) -> str:
        """What was seen."""
        books, watch = self.work.books, self.watch
        growths = self.growths()
        longest = max(growths, default=(0.0, 0, 0))
        grown = max((later - before for _, before, later in growths), default=0)
        alike = books.alike or [0.0]
        rows = [
            ("requests", f"{sum(books.kinds.values()):,}: {_told(books.kinds)}"),
            ("ended", f"{_told(books.ends)}; {books.kinds['vanishing']:,} peers vanished"),
            ("kills", _told(watch.kills)),
            ("answers that went on after a kill", f"{books.outlived:,}"),
            ("tokens that came", f"{books.tokens:,}, each once: every final counts what came"),
            ("answers known to the letter", f"{sum(books.exact):,} of {len(books.exact):,} as they must be"),
            (
                "greedy answers like those at rest",
                (
                    f"{sum(share == 1.0 for share in alike) / len(alike):.0%} of {len(books.alike):,} to the end;"
                    f" {statistics.mean(alike):.0%} of tokens before the first that differs"
                ),
            ),
            (
                "canary",
                (
                    f"{len(watch.canaries)} readings, at most {max(watch.canaries, default=0):.4f} nats,"
                    f" allowed {canary.BOUND}; {_told(watch.unread) or 'none'} not read"
                ),
            ),
            (
                "memory of a life, once warm",
                (
                    f"at most +{grown / (1 << 20):.1f} MiB; in the longest, {longest[0] / 60:.0f} min,"
                    f" {longest[1] >> 20} MiB, at most {longest[2] >> 20}"
                ),
            ),
            ("errors", f"{_told(books.errors)}; {books.blamed} blamed for two kills while alone; no other"),
            ("at the end", watch.left),
        ]
        return report.table(("what", "seen"), rows)


def _cell_bytes(spec: EngineSpec) -> float:
    """Bytes of one cell of the cache, and of its copy."""
    model, holding = shape(check_file(spec.file)), Holding(spec.n_ctx, spec.batch, 1, 1, kv_type=spec.kv_type)
    return sum(kv_bytes(layer, model, holding) for layer in model.layers) / spec.n_ctx


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


@contextlib.asynccontextmanager
async def engines(models: dict[str, Path], threads: int) -> AsyncIterator[dict[str, EngineSupervisor]]:
    """A supervised engine for each model: ``chat`` generates, ``embed`` embeds."""
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = {}
        for name, file in models.items():
            mode, cells = ("generate", CELLS) if name == "chat" else ("embed", 512)
            spec = EngineSpec(name, file, engine_host.digest_of(file), mode, cells, threads if name == "chat" else 1)
            log = Path(folder, f"{name}.log")
            found[name] = EngineSupervisor(
                spec, Path(folder, f"{name}.sock"), command=engine_host.command_for(spec), log=log
            )
            await found[name].start()
        try:
            yield found
        finally:
            for supervisor in found.values():
                await supervisor.stop()


@contextlib.contextmanager
def bounded(seconds: float, books: Books) -> Iterator[None]:
    """End this process when what is within is not over in time, and say what every task and every thread waits for."""

    def end() -> None:
        print(f"WRONG: it is not over after {seconds / 60:.0f} min; open: {_told(+books.open)}", file=sys.stderr)
        for task in asyncio.all_tasks():
            task.print_stack(file=sys.stderr)
        faulthandler.dump_traceback()
        os._exit(1)  # what hangs may hang when it is cancelled too; the engines end with their parent

    timer = asyncio.get_running_loop().call_later(seconds, end)
    faulthandler.dump_traceback_later(seconds + 60.0, exit=True)  # should the event loop itself be stuck
    try:
        yield
    finally:
        timer.cancel()
        faulthandler.cancel_dump_traceback_later()


async def soak(models: dict[str, Path], options: argparse.Namespace) -> Soak:
    """The whole of it."""
    books = Books()
    with bounded(60.0 * options.minutes + END_S + BESIDE_S, books):
        return await _soak(models, options, books)


async def _soak(models: dict[str, Path], options: argparse.Namespace, books: Books) -> Soak:
    words = await run.pool_of(models["chat"])
    async with engines(models, options.threads) as supervisors:
        for supervisor in supervisors.values():
            await supervisor.settled()
        served = {
            name: ServedModel(name, supervisor.spec.digest, CELLS, supervisor.spec.mode)
            for name, supervisor in supervisors.items()
        }
        pool = EnginePool(lambda name: supervisors[name].socket_path, load_wait_s=300.0, max_waiting=4 * CLIENTS)
        work = Work(pool, supervisors["chat"].socket_path, served["chat"], served.get("embed"), words, books)
        one = Soak(work, supervisors, 60.0 * options.minutes, chance(options.seed))
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, one.stop)
        await one.run()
        await pool.close()
        return one


def main() -> int:
    parser = report.options(__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="how long")
    parser.add_argument("--seed", default="1", help="of the random work")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of the chat engine")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it the demo's SmolLM2-135M-Instruct Q4_1")
    parser.add_argument("--embedding", type=Path, default=embed_model.FILE, help="a GGUF file; none when it is absent")
    options = parser.parse_args()
    models = {"chat": options.model or run.demo_model()}
    if options.embedding.is_file():
        models["embed"] = options.embedding
    conditions, before, began = big_bundles.conditions(), run.STAT.read_text(), time.monotonic()
    one = asyncio.run(soak(models, options))
    stolen = figures.stolen(before, run.STAT.read_text())
    wrong = one.judge()
    body = (
        f"### Mixed work with kills\n\n`tests/benchmarks/engine/soak.py` with `--minutes {options.minutes:g}`, ended"
        f" after {(time.monotonic() - began) / 60:.0f} min: {CLIENTS} clients, {CELLS:,} cells; {conditions};"
        f" {stolen:.1%} of core time stolen.\n\n{one.table()}"
    )
    report.publish("engine-soak", body, write=options.write and not wrong)
    for line in wrong[:20]:
        print(f"WRONG: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
