"""Ten thousand requests in every dialect while engine and gateway are killed, and then the books are read.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/gateway/soak.py --requests 10000 --write

A real model answers, in an engine under its supervisor, as in `plugsky serve`; the gateway is kept alive by the keeper
that `plugsky serve` has. Between the two, tap.py notes every token that came to the gateway. Ends with 1 and says why
when one of these does not hold in the end:

- every answer that was submitted is in the ledger once, and closed; no reservation is open,
- a settled entry counts just the tokens that came to the gateway for it, and the engine's own count where that came,
- what a killed gateway left open was closed without charge, and nothing else was,
- a client that saw the end of its answer was told what the ledger has,
- each tenant's month is the sum of its entries,
- the audit trail verifies, and has one record for each entry, with the same counts,
- nobody was answered 500, or anything that its request does not explain.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from appliance import engine_host
from benchmarks import big_bundles, report
from benchmarks.engine import figures, run
from benchmarks.engine.scene import chance
from benchmarks.gateway import sites
from benchmarks.gateway.soak_people import Person, Seen
from benchmarks.gateway.tap import Tap
from plugsky.access.keys import KeyRecord, Keys
from plugsky.access.ledger import Ledger
from plugsky.access.ledger_turn import LedgerRow
from plugsky.access.tenants import Tenants
from plugsky.admin.gateway_client import GatewayClient
from plugsky.audit import AuditLog, events
from plugsky.audit.site_key import known_site_keyid
from plugsky.audit.verify import verify_site
from plugsky.cli.gateway_keeper import GatewayKeeper
from plugsky.core.clock import SystemClock, unix_us
from plugsky.core.errors import PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.engine.life.supervisor import EngineSupervisor
from plugsky.engine.spec import EngineSpec
from plugsky.state import LedgerState, open_database

PEOPLE = 24
TENANTS = 4
CELLS = 4096
KILLS_S = (8.0, 40.0)
BUDGET = 40_000
"""Tokens of one tenant's month: it is used up on the way."""
GATEWAY = sites.GATEWAY.replace("int(fd)", "3")


class Soak:
    """One run, and what is found in its books."""

    def __init__(self, paths: SitePaths, requests: int, rng: random.Random) -> None:
        self.paths, self.seen, self.kills = paths, Seen(), Counter[str]()
        self.wrong: list[str] = []
        self.rows: dict[str, LedgerRow] = {}
        self.links: tuple[str, ...] = ()
        self._left = requests
        self._rng = rng

    async def run(
        self, port: int, model: str, keys: tuple[str, ...], engine: EngineSupervisor, keeper: GatewayKeeper
    ) -> None:
        """All requests, and meanwhile the kills."""
        killing = asyncio.create_task(self._kill(engine, keeper))
        telling = asyncio.create_task(self._tell())
        people = (self._person(Person(port, model, keys, self.seen, chance(self._rng.random()))) for _ in range(PEOPLE))
        await asyncio.gather(*people)
        for task in (killing, telling):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _person(self, person: Person) -> None:
        while self._left > 0:
            self._left -= 1
            await person.one()

    async def _kill(self, engine: EngineSupervisor, keeper: GatewayKeeper) -> None:
        while True:
            await asyncio.sleep(self._rng.uniform(*KILLS_S))
            name, pid = self._rng.choice([("engine", engine.life.pid), ("gateway", keeper.pid)])
            if pid:
                self.kills[name] += 1
                os.kill(pid, signal.SIGKILL)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(30.0)
            print(f"{self._left} to come; {dict(self.kills)}; {dict(self.seen.ends)}", file=sys.stderr, flush=True)

    def read_books(self, tap: Tap) -> None:
        """See whether everything holds."""
        self.wrong += self.seen.wrong
        database = open_database(self.paths.database)
        with contextlib.closing(database):
            ledger, clock = Ledger(database, SystemClock(), "soak"), SystemClock()
            self.rows = {row.job: row for row in ledger.closed()}
            if still := ledger.report().open_reservations:
                self.wrong.append(f"{still} reservations are open")
            for sums in ledger.sums():
                if (sums.used, sums.reserved) != (sums.used_by_entries, sums.reserved_by_entries):
                    self.wrong.append(f"the month of {sums.tenant} is not the sum of its entries")
            keys = Keys.open(database, self.paths, clock).list()
            before = unix_us(clock.now())
            verdict = verify_site(self.paths.audit, known_site_keyid(self.paths), (), (), ledger, keys, before)
        self.links = verdict.links
        self.wrong += verdict.problems
        self._check_entries(tap)
        self._check_clients()

    def _check_entries(self, tap: Tap) -> None:
        for job, parts in tap.jobs.items():
            row = self.rows.get(job)
            if row is None:
                self.wrong.append(f"{job} was submitted and is not in the ledger")
                continue
            if row.state == LedgerState.RECOVERED:
                continue
            came = sum(told.tokens for told in parts.values())
            finals = [told.final for told in parts.values() if told.final is not None]
            counted = [final.usage.completion_tokens for final in finals]
            if row.completion_tokens != came:
                self.wrong.append(f"{job}, {row.outcome}: {row.completion_tokens} tokens settled, {came} came")
            if len(finals) == len(parts) and sum(counted) != came:
                self.wrong.append(f"{job}: the engine counted {counted}, {came} came")
            if came and finals and row.prompt_tokens != finals[0].usage.prompt_tokens:
                self.wrong.append(f"{job}: the prompt's {row.prompt_tokens} tokens are not those of the engine")
        for row in self.rows.values():
            charged = row.prompt_tokens + row.completion_tokens
            if charged and (row.state == LedgerState.RECOVERED or row.job not in tap.jobs):
                self.wrong.append(f"{row.job} is charged {charged} tokens for nothing")
        recovered = sum(row.state == LedgerState.RECOVERED for row in self.rows.values())
        if recovered > PEOPLE * self.kills["gateway"]:
            self.wrong.append(f"{recovered} entries were recovered after {self.kills['gateway']} kills")

    def _check_clients(self) -> None:
        for request_id in self.seen.ended:
            row = self.rows.get(request_id)
            if row is None or row.state != LedgerState.SETTLED:
                self.wrong.append(f"{request_id} was answered to its end and is {row and row.state}")
            elif (told := self.seen.usage.get(request_id)) not in {None, (row.prompt_tokens, row.completion_tokens)}:
                self.wrong.append(f"{request_id}: the client was told {told}, the ledger has {row}")

    def table(self, tap: Tap) -> str:
        """What was seen."""
        states = Counter(row.state for row in self.rows.values())
        outcomes = Counter(row.outcome for row in self.rows.values())
        settled = sum(row.completion_tokens for row in self.rows.values())
        rows = [
            ("requests", f"{sum(self.seen.kinds.values()):,}: {_told(self.seen.kinds)}"),
            ("ended", _told(self.seen.ends)),
            ("kills", _told(self.kills)),
            ("answers that went on after a kill", f"{tap.resumed:,}"),
            ("ledger", f"{len(self.rows):,} entries: {_told(states)}; outcomes: {_told(outcomes)}"),
            ("tokens settled", f"{settled:,}, each of which came in one of {tap.frames:,} frames"),
            ("usage that clients were told", f"{len(self.seen.usage):,} answers, each as in the ledger"),
            ("audit trail", "; ".join(self.links)),
        ]
        return report.table(("what", "seen"), rows)


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


def make_site(paths: SitePaths, spec: EngineSpec) -> tuple[str, ...]:
    """A site with one model, four tenants and two keys of each, one of them with a small budget."""
    sites.make_site(paths, spec.model_id, spec.digest, spec.n_ctx)
    clock = SystemClock()
    with contextlib.closing(open_database(paths.database)) as database, AuditLog.open(paths, "cli", clock) as log:
        keys = Keys.open(database, paths, clock)

        def told(key: KeyRecord) -> object:
            return log.record(*events.key_changed(events.KEY_CREATE, "soak", key))

        made = [keys.create(f"tenant-{number % TENANTS}", witness=told).secret for number in range(2 * TENANTS)]
        Tenants(database, clock).set("tenant-0", lambda terms: replace(terms, monthly_tokens=BUDGET))
    return tuple(made)


@contextlib.asynccontextmanager
async def processes(
    paths: SitePaths, spec: EngineSpec, folder: Path
) -> AsyncIterator[tuple[int, EngineSupervisor, GatewayKeeper, Tap]]:
    """Engine, tap and gateway, the first and the last kept alive."""
    engine = EngineSupervisor(
        spec, folder / "real.sock", command=engine_host.command_for(spec), log=folder / "engine.log"
    )
    await engine.start()
    tap = Tap(engine.socket_path)
    server = await tap.listen(paths.engine_socket(spec.model_id))
    command = (sys.executable, "-c", GATEWAY, str(paths.root), str(paths.run), "3")
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        control = GatewayClient(paths.gateway_socket)
        keeper = GatewayKeeper(command, listener, folder / "gateway.log", control.requests)
        keeper.start()
        try:
            await engine.settled()
            await keeper.answered()
            yield listener.getsockname()[1], engine, keeper, tap
            await _answers(control)
        finally:
            await keeper.stop()
            await control.close()
            server.close()
            await engine.stop()


async def _answers(control: GatewayClient) -> None:
    """Wait for the gateway after the last kill: only then has it closed what the killed one left open."""
    async with asyncio.timeout(60):
        while True:
            try:
                await control.requests()
            except PlugskyError:
                await asyncio.sleep(0.1)
            else:
                return


async def soak(options: argparse.Namespace, folder: Path) -> tuple[Soak, Tap]:
    """The whole of it."""
    model = options.model or run.demo_model()
    spec = EngineSpec("chat", model, engine_host.digest_of(model), "generate", CELLS, options.threads)
    paths = SitePaths.at(folder / "site", folder / "run")
    keys = make_site(paths, spec)
    one = Soak(paths, options.requests, chance(options.seed))
    async with processes(paths, spec, folder) as (port, engine, keeper, tap):
        await one.run(port, spec.model_id, keys, engine, keeper)
    one.read_books(tap)
    log = (folder / "gateway.log").read_text()
    one.wrong += [line for line in log.splitlines() if "Traceback" in line or "never retrieved" in line][:5]
    return one, tap


def main() -> int:
    parser = report.options(__doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", default="1", help="of the random work")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of the engine")
    parser.add_argument("--model", type=Path, help="a GGUF file; without it the demo's SmolLM2-135M-Instruct Q4_1")
    options = parser.parse_args()
    conditions, before, began = big_bundles.conditions(), run.STAT.read_text(), time.monotonic()
    with sites.workplace() as folder:
        one, tap = asyncio.run(soak(options, folder))
        if one.wrong:
            Path("soak-gateway.log").write_bytes((folder / "gateway.log").read_bytes())
    stolen = figures.stolen(before, run.STAT.read_text())
    body = (
        f"### Requests of all dialects with kills\n\n`tests/benchmarks/gateway/soak.py` with `--requests"
        f" {options.requests}`, ended after {(time.monotonic() - began) / 60:.0f} min: {PEOPLE} people;"
        f" {conditions}; {stolen:.1%} of core time stolen.\n\n{one.table(tap)}"
    )
    report.publish("gateway-soak", body, write=options.write and not one.wrong)
    for line in one.wrong[:20]:
        print(f"WRONG: {line}")
    print(json.dumps({"wrong": len(one.wrong)}))
    return 1 if one.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
