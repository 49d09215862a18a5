"""What an engine has done since it started and how it stands now, from the reports of its steps."""

import resource
import time
from pathlib import Path

from plugsky.core.frames import StatsReply
from plugsky.engine.serving.meter import RateMeter
from plugsky.engine.stepping.orders import Report


class Tally:
    """Counts reports."""

    def __init__(self) -> None:
        self.latest = Report()
        """The last report."""
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._meter = RateMeter()

    def add(self, report: Report) -> None:
        """Count a report."""
        self.latest = report
        self._prompt_tokens += report.prompt_tokens
        self._completion_tokens += report.completion_tokens
        self._meter.add(time.monotonic(), report.completion_tokens)

    def reply(self, rid: int, cells: int, canary_kl: float | None, pinned: dict[str, int]) -> StatsReply:
        """The answer to ``stats``, for a cache of ``cells`` of which some are ``pinned``."""
        return StatsReply(
            rid=rid,
            running=self.latest.running,
            waiting=self.latest.waiting,
            kv_used=self.latest.kv_used,
            kv_cells=cells,
            tokens_per_s=self._meter.rate(time.monotonic()),
            steps=self.latest.n,
            completion_tokens=self._completion_tokens,
            prompt_tokens=self._prompt_tokens,
            rss_bytes=_rss_bytes(),
            canary_kl=canary_kl,
            parked=self.latest.kv_parked,
            highest=self.latest.kv_highest,
            saved=self.latest.kv_saved,
            paused=self.latest.paused,
            waiting_by_class=self.latest.waiting_by_class,
            pinned=pinned,
        )


def _rss_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
