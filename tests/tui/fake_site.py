"""A site made of plain values, for tests and pictures of the console: fixed time, fixed figures, no process behind it.

``python fake_site.py CASE`` opens the real console on it, for the tests that need a real terminal.
"""

import asyncio
import math
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from plugsky.admin.api import Duty, Home, Host, Identity, Isolation, ModelView, RequestView, Traffic
from plugsky.core.errors import ErrorKind, PlugskyError

GIB = 1 << 30
MIB = 1 << 20

IDENTITY = Identity(
    host="vault-7",
    version="0.1.0",
    root="/var/lib/plugsky",
    channel="riyadh",
    generation=4,
    bundle_id="9c41d07be2a5f36811c0de5a7734b1f09a6e2d8844c1b5270f93ab6de1580c2e",
    root_fingerprint="3fa8e1c2957b40d6a1e83c5f7092bd6411aa90ce57f2384db60c7e951d2fa348",
    time="2026-11-22T17:20:05.000000Z",
)
PROVEN = Isolation(
    proven=True, engine_namespace=True, listening=("127.0.0.1:8080",), outbound=(), default_route=False, findings=()
)
OPEN = Isolation(
    proven=False,
    engine_namespace=False,
    listening=("0.0.0.0:8080", "127.0.0.1:22"),
    outbound=("203.0.113.9:443",),
    default_route=True,
    findings=("The gateway listens on every address.", "A process of the site is connected to 203.0.113.9:443."),
)
DUTIES = (
    Duty("bundle-expiry", "warning", "The bundle expires in 12 days.", "plugsky bundle verify /media/usb"),
    Duty("key-backup", "alarm", "The site key has no backup.", "plugsky doctor"),
)
SMOLLM = ModelView(
    id="smollm2-135m-instruct",
    mode="generate",
    size=98 * MIB,
    context=8192,
    licence="Apache-2.0",
    languages=("en",),
    digest="ab" * 32,
    state="ready",
    pid=4711,
    threads=2,
    running=3,
    waiting=1,
    kv_used=3947,
    kv_cells=8192,
    tokens_per_s=142.34,
    rss_bytes=412 * MIB,
)
MODELS = (
    SMOLLM,
    ModelView(
        id="falcon3-7b-instruct",
        mode="generate",
        size=4 * GIB,
        context=32768,
        licence="Falcon-3",
        languages=("ar", "en"),
        digest="cd" * 32,
        state="absent",
    ),
    ModelView(
        id="bge-m3",
        mode="embed",
        size=MIB * 620,
        context=8192,
        licence="MIT",
        languages=("ar", "en", "fr"),
        digest="ef" * 32,
        state="loading",
        pid=4790,
        threads=1,
    ),
)
REQUESTS = tuple(
    RequestView(
        job=f"019ab0c4-71d2-7c3e-9f10-5be2d04a1{number:03}",
        tenant=tenant,
        key_id=key,
        model="smollm2-135m-instruct",
        state=state,
        prompt_tokens=prompt,
        completion_tokens=made,
        age_us=age,
        ttft_us=first,
    )
    for number, (tenant, key, state, prompt, made, age, first) in enumerate(
        (
            ("treasury", "k7Qm2fXa", "decode", 1204, 388, 4_210_000, 212_400),
            ("ministry-of-works", "Zp04HsLw", "decode", 96, 41, 1_870_000, 98_700),
            ("treasury", "k7Qm2fXa", "prefill", 6021, 0, 640_000, None),
            ("clinic", "b1Tn9cRe", "queued", 310, 0, 42_000, None),
        )
    )
)
BUSY = Home(
    identity=IDENTITY,
    operator="layth",
    role="admin",
    uptime_s=273_900.0,
    models=MODELS,
    requests=REQUESTS,
    traffic=Traffic(
        requests=18_204,
        failed=3,
        running=3,
        waiting=1,
        prompt_tokens=9_412_077,
        completion_tokens=3_120_418,
        tokens_per_s=142.34,
        ttft_p50_us=212_400,
        ttft_p95_us=1_630_000,
        inter_token_p50_us=18_230,
        inter_token_p95_us=44_010,
    ),
    isolation=PROVEN,
    duties=DUTIES,
    host=Host(0.62, int(5.1 * GIB), int(7.8 * GIB), 159 * GIB, 238 * GIB),
)
EMPTY = Home(
    identity=Identity("vault-7", "0.1.0", "/srv/site", "", 0, "", "", "2026-11-22T17:20:05.000000Z"),
    operator="layth",
    role="viewer",
    uptime_s=4.2,
    models=(),
    requests=(),
    traffic=None,
    isolation=PROVEN,
    duties=(),
    host=Host(None, None, None, None, None),
)


def replaced(home: Home, **changes: object) -> Home:
    """``home`` with some fields changed."""
    return type(home)(**{name: changes.get(name, getattr(home, name)) for name in home.__struct_fields__})


CRASHED = ModelView(
    **{
        **{name: getattr(SMOLLM, name) for name in SMOLLM.__struct_fields__},
        "state": "crashed",
        "pid": 0,
        "restarts": 5,
        "problem": "The engine ended with signal 11; next start in 16 s.",
    }
)
FAILING = replaced(BUSY, models=(*MODELS[1:], CRASHED), requests=(), isolation=OPEN, role="viewer")
CASES = {"busy": BUSY, "empty": EMPTY, "failing": FAILING}
WAVE = tuple(80 + 50 * math.sin(step / 5) + 14 * math.sin(step * 1.7) for step in range(60))
"""A fixed past of tokens per second."""


@dataclass
class FakeSite:
    """An Admin whose ``watch_home`` gives what a test puts; None ends the stream, an error breaks it.

    ``news.join()`` waits until all of it was taken.
    """

    news: "asyncio.Queue[Home | PlugskyError | None]" = field(default_factory=asyncio.Queue)
    last: Home = BUSY
    intervals: list[float] = field(default_factory=list)
    """One entry for each stream that was opened."""

    async def home(self) -> Home:
        return self.last

    async def watch_home(self, interval_s: float) -> AsyncIterator[Home]:
        self.intervals.append(interval_s)
        while True:
            item = await self.news.get()
            try:
                if item is None:
                    return
                if isinstance(item, PlugskyError):
                    raise item
                yield item
            finally:
                self.news.task_done()


@dataclass
class TickingSite(FakeSite):
    """A fake site whose traffic moves by itself and always in the same way, for tests on a real terminal."""

    async def watch_home(self, interval_s: float) -> AsyncIterator[Home]:
        for step in range(1_000_000):
            yield self.at(step)
            await asyncio.sleep(min(interval_s, 1.0))

    def at(self, step: int) -> Home:
        """The Home of that step."""
        if self.last.traffic is None:
            return self.last
        moment = f"2026-11-22T17:{20 + step // 60:02}:{step % 60:02}.000000Z"
        identity = replaced(self.last.identity, time=moment)
        traffic = replaced(self.last.traffic, tokens_per_s=WAVE[step % len(WAVE)], requests=18_204 + step)
        cpu = replaced(self.last.host, cpu_fraction=WAVE[(step * 3) % len(WAVE)] / 160)
        return replaced(self.last, identity=identity, traffic=traffic, host=cpu)


class BrokenSite(FakeSite):
    """A fake site whose values no console could draw."""

    async def watch_home(self, interval_s: float) -> AsyncIterator[Home]:
        self.intervals.append(interval_s)
        yield replaced(BUSY, models=(replaced(SMOLLM, kv_cells="many"),))


def unreachable() -> PlugskyError:
    """What the client raises while the site is down."""
    return PlugskyError(
        ErrorKind.UNREACHABLE,
        "the site at /srv/site is not running",
        why="/run/plugsky/admin.sock: nothing listens there",
        next="plugsky serve --root /srv/site",
    )


if __name__ == "__main__":
    import plugsky_tui
    from plugsky_tui import terminal

    case, *wishes = sys.argv[1:]
    site = BrokenSite() if "broken" in wishes else TickingSite(last=CASES[case])
    line = "serial" if "serial" in wishes else None
    plugsky_tui.run(site, terminal.decide(terminal.look(), line=line))
