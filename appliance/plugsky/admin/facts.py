"""What a site and its host are, read from their files now: identity, catalogue, resources, duties.

A missing source is None, never a guess: the console shows a dash. Nothing here needs a running site.
"""

import os
import platform
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from tuf.api.metadata import Metadata, Root

from plugsky import __version__
from plugsky.admin.api import Duty, Host, Identity
from plugsky.core.clock import Clock, rfc3339
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, site_trust
from plugsky.fleet.generations import Generation
from plugsky.models import catalogue
from plugsky.models.catalogue import ModelEntry
from plugsky_bundles.errors import BundleError
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.state import TrustState

ROOT_WARNING: Final = timedelta(days=90)
DISK_WARNING: Final = 0.10
DISK_ALARM: Final = 0.03


class FilesOfSite:
    """The :class:`~plugsky.admin.ports.SiteFacts` of the site at ``paths``. Safe to call from any thread.

    Raises BundleError for a damaged generation.
    """

    def __init__(self, paths: SitePaths, clock: Clock, running: Generation | None = None) -> None:
        """``running`` is the generation that the site began with; the current one unless given."""
        self._paths, self._clock = paths, clock
        self._cpu = _CpuMeter()
        self._generation = running or generations.current(paths)

    def identity(self) -> Identity:
        """Which site this is, with the generation it began with; 0 and empty ids before the first installation."""
        current = self._generation
        return Identity(
            host=platform.node(),
            version=__version__,
            root=str(self._paths.root),
            channel=current.channel if current else "",
            generation=current.number if current else 0,
            bundle_id=current.bundle_id if current else "",
            root_fingerprint=current.root_fingerprint if current else "",
            time=rfc3339(self._clock.now()),
        )

    def models(self) -> Sequence[ModelEntry]:
        """The catalogue of the generation that the site began with."""
        return catalogue.models(self._paths, self._generation.number if self._generation else None)

    def duties(self) -> tuple[Duty, ...]:
        """What a person must do about this site, worst first."""
        free, total = self._disk()
        duties = [
            *_or_damage(lambda: generation_duties(self._generation, generations.current(self._paths)), "generation"),
            *_or_damage(self._clock_duties, "trust"),
            *disk_duties(free, total, str(self._paths.root)),
        ]
        order = ("alarm", "warning", "info")
        return tuple(sorted(duties, key=lambda duty: order.index(duty.severity)))

    def host(self) -> Host:
        """The host's resources now. CPU is a fraction of all cores since the last call."""
        memory = _memory()
        free, total = self._disk()
        return Host(
            cpu_fraction=self._cpu.read(),
            memory_used=memory[0] - memory[1] if memory else None,
            memory_total=memory[0] if memory else None,
            disk_free=free,
            disk_total=total,
        )

    def _clock_duties(self) -> list[Duty]:
        believed = site_trust.load(self._paths)
        return clock_duties(believed, self._clock.now()) if believed else []

    def _disk(self) -> tuple[int | None, int | None]:
        """Free and all bytes of the site's file system."""
        try:
            disk = os.statvfs(self._paths.root)
        except FileNotFoundError:
            return None, None
        return disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize


def _or_damage(look: Callable[[], list[Duty]], source: str) -> list[Duty]:
    """What ``look`` finds; the duty to mend its source where that is damaged, so that it hides no other duty."""
    try:
        return look()
    except (BundleError, OSError) as error:
        what = f"{error.what}: {error.why}." if isinstance(error, BundleError) else f"{error}."
        return [Duty(f"damaged-{source}", "alarm", what, "plugsky doctor")]


def generation_duties(running: Generation | None, current: Generation | None) -> list[Duty]:
    """A duty when another generation was installed since the site began."""
    if running is None or current is None or running.number == current.number:
        return []
    text = f"Generation {current.number} is installed; the site still runs generation {running.number}."
    return [Duty("restart", "warning", text, "end plugsky serve and start it again")]


def clock_duties(believed: TrustState, now: datetime) -> list[Duty]:
    """Duties that follow from what the site believes and the clock: a root near its end, a clock that runs behind."""
    duties = []
    root: Metadata[Root] = read_metadata(believed.root, Root, "The trusted root")
    left = root.signed.expires - now
    if left < ROOT_WARNING:
        duties.append(
            Duty(
                "root-expiry",
                "warning" if left > timedelta(0) else "alarm",
                f"The trusted root ends on {root.signed.expires:%Y-%m-%d}; bundles cannot be installed after that.",
                "ask the operator for a bundle with a newer root",
            )
        )
    if now < believed.time - timedelta(minutes=5):
        duties.append(
            Duty(
                "clock-behind",
                "alarm",
                f"The clock says {now:%F %H:%M}, but a bundle sealed at {believed.time:%F %H:%M} was accepted.",
                "set the host's clock",
            )
        )
    return duties


def disk_duties(free: int | None, total: int | None, root: str) -> list[Duty]:
    """A duty when the site's file system runs full."""
    if free is None or not total or free / total >= DISK_WARNING:
        return []
    return [
        Duty(
            "disk-full",
            "alarm" if free / total < DISK_ALARM else "warning",
            f"{100 * free / total:.0f} % of the file system of {root} is free.",
            "make room: the audit trail must be written for requests to be served",
        )
    ]


class _CpuMeter:
    """The busy fraction of all cores between two readings of ``/proc/stat``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._before = _cpu_times()

    def read(self) -> float | None:
        with self._lock:
            before, now = self._before, _cpu_times()
            if before is None or now is None or now[1] <= before[1]:
                return None
            self._before = now
            return (now[0] - before[0]) / (now[1] - before[1])


def _cpu_times() -> tuple[int, int] | None:
    """Busy and all jiffies since boot (proc_stat(5): idle and iowait are the fourth and fifth columns)."""
    try:
        with Path("/proc/stat").open() as file:
            times = [int(part) for part in file.readline().split()[1:9]]
    except FileNotFoundError:
        return None
    return sum(times) - times[3] - times[4], sum(times)


def _memory() -> tuple[int, int] | None:
    """Total and available bytes (proc_meminfo(5))."""
    try:
        with Path("/proc/meminfo").open() as file:
            rows = dict(line.split(":", 1) for line in file)
    except FileNotFoundError:
        return None
    return int(rows["MemTotal"].split()[0]) * 1024, int(rows["MemAvailable"].split()[0]) * 1024
