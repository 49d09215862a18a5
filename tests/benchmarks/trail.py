"""How long a site's trail of many requests takes to verify, to index and to search, and in how much memory.

A site is made with a ledger and the records of its requests, as its gateway writes them: a signature for every four. It
is verified, indexed and searched by processes of their own; a search opens the index anew, as the Admin does.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from appliance.proven_site import ProvenSite
from benchmarks import big_bundles, report
from plugsky.access.ledger_turn import LedgerRow
from plugsky.admin.provenance import verify_trail
from plugsky.audit import index, trail
from plugsky.audit.events import record_of, request_done
from plugsky.audit.query import Query
from plugsky.audit.site_key import site_key
from plugsky.audit.verify import verify_continued
from plugsky.core.clock import SystemClock, rfc3339, unix_us
from plugsky.state import LedgerEntry, LedgerState, Tenant, TenantMonth
from plugsky_bundles.chain_lines import Position, sign_head, write_line

TENANTS, MODELS = 40, 6
SIGNED_EVERY = 4
BATCH = 20_000
EVERY_US = 250_000
ENTRIES = insert(LedgerEntry.__table__)  # type: ignore[attr-defined]  # every mapped class has one
NOT_TOLD = {"reserved_tokens": 600, "price_list": ""}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SEARCHES = {
    "the newest hundred": ("", ""),
    "a request by its id": ("{job}", ""),
    "a tenant's newest hundred": ("tenant=tenant-7", ""),
    "a tenant and a model that it never used": ("tenant=tenant-7 model=model-5", "request.done"),
    "words of every record, and one of none": ("settled completions nowhere", ""),
    "a hundred in the middle": ("", "request.done"),
    "a beginning of ids": ("{beginning}*", ""),
}


def make(root: Path, requests: int) -> str:
    """A site with so many requests; the id of one in the middle."""
    site = ProvenSite(root)
    site.gateway.close()
    path = site.paths.audit / site.gateway.name / trail.CHAIN_FILE
    signer, chance = site_key(site.paths), random.Random(1)  # noqa: S311 - ids of a benchmark
    *_, last = path.read_bytes().splitlines(keepends=True)
    verified = verify_continued(site.paths.audit, site.gateway.name, None)
    if verified:
        raise RuntimeError(f"the site to begin with is broken: {verified}")
    position = trail.newest_commit(path)
    if position is None or not last.startswith(b'{"commit"'):
        raise RuntimeError("the chain to begin with does not end in a signature")
    first = unix_us(SystemClock().now()) - requests * EVERY_US - 3_600_000_000
    middle, used = "", dict[tuple[str, str], int]()
    with site.database.write() as session:
        session.execute(insert(Tenant), [{"id": f"tenant-{number}", "created_us": first} for number in range(TENANTS)])
    rows = _rows(requests, first, chance, site)
    with path.open("ab", buffering=1 << 20) as file:
        for begin in range(0, requests, BATCH):
            batch = list(itertools.islice(rows, BATCH))
            with site.database.write() as session:
                session.connection().execute(ENTRIES, [vars(row) | NOT_TOLD for row in batch])
            for row in batch:
                at = (row.tenant, row.month)
                used[at] = used.get(at, 0) + row.prompt_tokens + row.completion_tokens
                position = _write(file, position, row)
                if position.seq % (SIGNED_EVERY + 1) == 0:
                    position = _sign(file, position, signer, site.gateway.name)
            middle = middle or (batch[0].job if begin >= requests // 2 else "")
        _sign(file, position, signer, site.gateway.name)
    with site.database.write() as session:
        session.execute(
            insert(TenantMonth), [{"tenant": t, "month": m, "used": tokens} for (t, m), tokens in used.items()]
        )
    site.database.close()
    return middle or batch[0].job


def _rows(requests: int, first: int, chance: random.Random, site: ProvenSite) -> Iterator[LedgerRow]:
    for number in range(requests):
        at = first + number * EVERY_US
        yield LedgerRow(
            job=f"{chance.getrandbits(128):032x}", tenant=f"tenant-{number % TENANTS}", key_id=site.key.record.id,
            end_user="", requested_model="gpt-4o", model=_model(number),
            digest="d" * 64, prompt_tokens=number % 900, cached_tokens=number % 90, completion_tokens=number % 300,
            reasoning_tokens=0, image_tokens=0, engine_us=number % 5_000_000, service_class="interactive",
            state=LedgerState.SETTLED, outcome="stop",
            month=rfc3339(EPOCH + timedelta(microseconds=at))[:7], created_us=at - 2_000_000, settled_us=at,
            writer=site.gateway.name,
        )  # fmt: skip


def _model(number: int) -> str:
    """Tenant 7 never uses the last one."""
    return f"model-{number // TENANTS % (MODELS - 1 if number % TENANTS == 7 else MODELS)}"


def _write(file: Any, after: Position, row: LedgerRow) -> Position:
    extra = {"endpoint": "chat.completions", "status": 200, "prompt_sha256": row.job * 2}
    time_ = rfc3339(EPOCH + timedelta(microseconds=row.settled_us + 900))
    raw, position = write_line(after, "record", record_of(request_done(row, extra), time_))
    file.write(raw)
    return position


def _sign(file: Any, after: Position, signer: Any, origin: str) -> Position:
    raw, position = write_line(after, "commit", sign_head(signer, origin, after))
    file.write(raw)
    return position


def in_a_process(act: str, root: Path, *arguments: str) -> dict[str, Any]:
    """What :data:`ACTS` says of ``act``, with the most memory that its process held, in bytes."""
    with subprocess.Popen(
        [sys.executable, __file__, act, str(root), *arguments], stdout=subprocess.PIPE, text=True
    ) as child:
        out = child.stdout.read() if child.stdout else ""
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{act} failed")
    return {**json.loads(out), "rss": used.ru_maxrss << 10}


def verify(root: Path) -> dict[str, Any]:
    """The verdict on a site, and how long it took."""
    from appliance.fresh_site import fresh_paths
    from plugsky.access.keys import Keys
    from plugsky.access.ledger import Ledger
    from plugsky.state import open_database

    paths, clock = fresh_paths(root), SystemClock()
    database = open_database(paths.database)
    begun = time.perf_counter()
    verdict = verify_trail(paths, Ledger(database, clock, "bench"), Keys.open(database, paths, clock), clock)
    return {"s": time.perf_counter() - begun, "ok": verdict.ok, "problems": verdict.problems[:3]}


def search(root: Path, text: str, action: str, since: str, until: str) -> dict[str, Any]:
    """How long the first and the next searches took, and how many records they found."""
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        query = Query.parse(text, action, since or None, until or None)
        found = list(itertools.islice(index.find(root / "site" / "audit", query), 100))
        times.append(time.perf_counter() - begun)
    return {"first": times[0], "s": statistics.median(times[1:]), "found": len(found)}


def measure(base: Path, requests: int) -> tuple[list[object], list[list[object]]]:
    """A row of the table of sizes, and the rows of the searches."""
    with tempfile.TemporaryDirectory(dir=base) as folder:
        root = Path(folder)
        job = make(root, requests)
        audit = next(path for path in root.rglob("audit") if path.is_dir())
        size = sum(path.stat().st_size for path in audit.rglob(trail.CHAIN_FILE))
        verdict = in_a_process("verify", root)
        if not verdict["ok"]:
            raise RuntimeError(f"the site does not verify: {verdict['problems']}")
        print(f"{requests:,}: verified in {verdict['s']:.0f} s", file=sys.stderr, flush=True)
        indexed = in_a_process("search", root, "nothing", "", "", "")
        index_size = sum(path.stat().st_size for path in audit.glob(f"{index.INDEX}*"))
        print(f"{requests:,}: indexed in {indexed['first']:.0f} s", file=sys.stderr, flush=True)
        searches = []
        now = SystemClock().now() - timedelta(microseconds=requests * EVERY_US // 2)
        for name, (text, action) in SEARCHES.items():
            window = (rfc3339(now - timedelta(seconds=600)), rfc3339(now)) if "middle" in name else ("", "")
            found = in_a_process("search", root, text.format(job=job, beginning=job[:4]), action, *window)
            searches.append([name, found["found"], f"{found['s'] * 1e3:.0f} ms"])
            print(searches[-1], file=sys.stderr, flush=True)
    row: list[object] = [
        f"{requests:,}", f"{size / 1e9:.2f} GB", f"{verdict['s']:.0f} s", f"{verdict['s'] / requests * 1e6:.0f} µs",
        f"{verdict['rss'] / (1 << 20):.0f} MiB", f"{indexed['first']:.0f} s", f"{index_size / 1e9:.2f} GB",
    ]  # fmt: skip
    return row, searches


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] in ("verify", "search"):
        act, root, *rest = sys.argv[1:]
        print(json.dumps(verify(Path(root)) if act == "verify" else search(Path(root), *rest)))
        return
    parser = report.options(__doc__)
    parser.add_argument("--requests", type=int, nargs="+", default=[1_000_000, 10_000_000], help="how long the trails")
    options = parser.parse_args()
    needed = max(options.requests) * 2500
    if shutil.disk_usage(options.base).free < needed:
        parser.error(f"{needed / 1e9:.0f} GB are needed in {options.base}: choose another --base")
    conditions = big_bundles.conditions()
    measured = [measure(options.base, requests) for requests in options.requests]
    sizes = report.table(
        ("requests", "trail", "verified in", "a request", "memory", "indexed in", "index"), [row for row, _ in measured]
    )
    searches = report.table(("search", "found", "time"), measured[-1][1])
    command = f"tests/benchmarks/trail.py --requests {' '.join(map(str, options.requests))}"
    body = (
        f"### The trail of very many requests\n\n`PYTHONPATH=tests .venv/bin/python {command}`: {conditions}.\n\n"
        f"{sizes}\n\nSearches in the longest, up to a hundred records each:\n\n{searches}"
    )
    report.publish("trail", body, write=options.write)


if __name__ == "__main__":
    main()
