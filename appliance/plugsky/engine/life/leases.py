"""The edge of the core leases: asks the engines of a site who is busy, and sends each its share when that changes."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from plugsky.engine.life.cores import Leases
from plugsky.engine.life.supervisor import EngineSupervisor

PERIOD_S: Final = 0.1
"""Seconds between two looks: how long two engines may compute on the same cores after one of them wakes."""


async def lend_cores(
    cores: int, engines: Mapping[str, EngineSupervisor], seen: Callable[[Mapping[str, bool]], None]
) -> None:
    """Share ``cores`` among ``engines`` until cancelled; ``seen`` hears who is busy."""
    leases = Leases(cores)
    while True:
        loads = dict(zip(engines, await asyncio.gather(*(one.load() for one in engines.values())), strict=True))
        busy = {name: load > 0 for name, load in loads.items() if load is not None}
        seen(busy)
        for name, n in leases.observe(busy, time.monotonic_ns() // 1000):
            engines[name].lend(n)
        await asyncio.sleep(PERIOD_S)


def granted_cores(cores: int, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """``cores``, or what the limits of this process's cgroup and of those above it leave of them; at least one."""
    own = (proc / "self/cgroup").read_text().partition("0::/")[2].strip()
    place = cgroups / own
    for folder in (place, *place.parents):
        if not folder.is_relative_to(cgroups):
            break
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except OSError:  # the root has none, and neither has cgroup v1
            continue
        if quota != "max":
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)
