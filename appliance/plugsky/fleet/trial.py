"""``trial`` in the site's directory: a switch of generations that is not settled yet. The guard of a host reads it.

It is lines of ``name=value``, so that a POSIX shell can read it, replaced in one step. It is there before ``current``
moves, so a switch that is cut off anywhere leaves either no trace or a trial that the guard takes back.

* ``switching``: until the new generation has answered. Whoever switches holds the lock of the site; the guard takes
  the switch back when that lock is free, or when ``until`` has come.
* ``probation``: it has answered. The guard takes it back while ``until`` has not come and its processes die again and
  again, or the host does; then it forgets the trial.

``until`` is in seconds of the host's uptime, which no clock can change; ``boot`` says of which boot.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from plugsky.core.paths import SitePaths
from plugsky_bundles.atomic import sync_directory, write_file

FILE: Final = "trial"
RETURNED: Final = "returned"
SWITCH_S: Final = 1800
PROBATION_S: Final = 600
State = Literal["switching", "probation"]


@dataclass(frozen=True)
class Trial:
    """From which generation to which."""

    state: State
    came_from: int
    to: int
    boot: str
    until: int
    boots: int = 0

    def text(self) -> str:
        """The file's content."""
        names = {"state": self.state, "from": self.came_from, "to": self.to, "boot": self.boot}
        return "".join(f"{k}={v}\n" for k, v in (names | {"until": self.until, "boots": self.boots}).items())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The trial that ``text`` writes. Raises ValueError."""
        values = dict(line.split("=", 1) for line in text.splitlines())
        try:
            came_from, to, until, boots = (int(values[name]) for name in ("from", "to", "until", "boots"))
            match values["state"]:
                case "switching" | "probation" as state:
                    return cls(state, came_from, to, values["boot"], until, boots)
            raise ValueError(f"{values['state']!r} is no state")
        except KeyError as error:
            raise ValueError(f"it has no {error}") from None


def begin(paths: SitePaths, came_from: int, to: int) -> None:
    """Put the switch on trial."""
    _write(paths, "switching", came_from, to, SWITCH_S)


def settle(paths: SitePaths, came_from: int, to: int) -> None:
    """The new generation has answered: watch it for a while."""
    _write(paths, "probation", came_from, to, PROBATION_S)


def end(paths: SitePaths) -> None:
    """Forget the trial, on disk."""
    (paths.root / FILE).unlink(missing_ok=True)
    sync_directory(paths.root)


def read(paths: SitePaths) -> Trial | None:
    """The trial of the site; None where there is none. Raises ValueError for one that cannot be read."""
    try:
        return Trial.parse((paths.root / FILE).read_text())
    except FileNotFoundError:
        return None


def _write(paths: SitePaths, state: State, came_from: int, to: int, seconds: int, proc: Path = Path("/proc")) -> None:
    uptime = int(float((proc / "uptime").read_text().split()[0]))
    boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
    trial = Trial(state, came_from, to, boot, uptime + seconds)
    write_file(paths.root / FILE, trial.text().encode(), mode=0o644)
