"""A switch of generations on a host, around the step in which ``current`` moves (:mod:`plugsky.fleet.switching`).

1. before: the switch is put on trial (:mod:`plugsky.fleet.trial`), so that from here on the guard takes it back
   whatever happens to this process;
2. ``current`` moves;
3. the guard's script makes units, sockets and processes follow it: the gateway finishes what runs and begins anew,
   engines end and come back with the next request;
4. the new generation has to answer through its own units. Where it does not, ``current`` moves back, the processes
   follow, the trail has a record of both, and HealthCheckFailed is raised;
5. the trial becomes a probation.

The site's lock is held through all of it, by the caller of the step.
"""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from plugsky.core.paths import SYSTEM_ROOT, SitePaths
from plugsky.fleet import generations, trial
from plugsky.fleet.generations import Generation
from plugsky_bundles.errors import HealthCheckFailed, InstallError
from plugsky_bundles.progress import Progress, ProgressEvent, silent
from plugsky_bundles.state import Revocations

GUARD: Final = Path("/usr/local/lib/plugsky/guard")
APPLY_S: Final = 300
Gate = Callable[[Generation], str]
"""Has the generation answer through its units: why it does not, empty where it does."""


def is_provisioned(paths: SitePaths, guard: Path = GUARD) -> bool:
    """Whether the site is one that systemd runs here."""
    return paths.root == SYSTEM_ROOT and guard.is_file()


@dataclass
class HostSwitch:
    """The steps before and after ``current`` moves, on a host."""

    paths: SitePaths
    gate: Gate
    progress: Progress = silent
    guard: Path = GUARD
    _came_from: int | None = field(default=None, init=False)

    def before(self, generation: Generation) -> None:
        """Put the switch to ``generation`` on trial."""
        self._came_from = generations.current_number(self.paths)
        if self._came_from is not None and self._came_from != generation.number:
            self._tell("trial", generation)
            trial.begin(self.paths, self._came_from, generation.number)

    def after(self, generation: Generation, revocations: Revocations) -> None:
        """Have everything follow and answer. Raises HealthCheckFailed when it does not, and all is as it was."""
        self._tell("apply", generation)
        problem = self._follow()
        if not problem:
            self._tell("answer", generation)
            problem = self.gate(generation)
        if not problem:
            if self._came_from is not None and self._came_from != generation.number:
                trial.settle(self.paths, self._came_from, generation.number)
            self._tell("probation", generation)
            return
        before = self._came_from
        if before is None or before == generation.number:
            raise HealthCheckFailed(f"Generation {generation.number} does not answer", problem, _NEXT)
        self._tell("back", generation)
        generations.activate(self.paths, before, revocations=revocations)
        if undone := self._follow():
            raise InstallError(
                f"Generation {generation.number} does not answer, and {before} could not be brought back",
                f"{problem}; {undone}",
                "The guard goes on trying: journalctl --unit plugsky-guard",
            )
        trial.end(self.paths)
        raise HealthCheckFailed(
            f"Generation {generation.number} does not answer, so generation {before} is back", problem, _NEXT
        )

    def _follow(self) -> str:
        """Run the guard's script; why it could not."""
        try:
            done = subprocess.run(
                [str(self.guard), "apply"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=APPLY_S,
                check=False,
                text=True,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return f"its units did not follow within {APPLY_S} s"
        except OSError as error:
            return f"{self.guard}: {error.strerror}"
        return "" if done.returncode == 0 else f"its units do not follow: {' '.join(done.stderr.split())[-400:]}"

    def _tell(self, stage: str, generation: Generation) -> None:
        self.progress(ProgressEvent(stage, 1, 1, f"generation {generation.number}"))


_NEXT: Final = "Look at journalctl --unit 'plugsky*'; `plugsky doctor` compares what is installed"
