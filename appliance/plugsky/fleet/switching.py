"""Generation -> current: the only way in which a site comes to run another generation.

1. nothing of it is revoked: not its bundle, a file, or a chunk of one. Neither expiry is asked nor who signed it: what
   was installed in time keeps its place;
2. it is healthy (:mod:`plugsky.fleet.health`), found out while the one before it still runs. The verdict is kept in it;
3. the trail has a record of the switch, signed and on disk, before anything changes for users (fail-closed);
4. ``current`` moves to it, in one step.

On a host that serves, more happens just before and just after the last step (:class:`Around`).

The caller holds the site's lock through all of it. A generation that fails its check stays where it is, inactive and
marked, the trail says so too, and the one before it stays current.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from plugsky.audit import AuditLog, events
from plugsky.audit.events import Event
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, health, site_trust
from plugsky.fleet.generations import Generation
from plugsky.fleet.health import ModelHealth, Verdict
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.lock import site_lock
from plugsky_bundles.errors import HealthCheckFailed, InstallError, NotFound
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.state import Revocations

Trail = Callable[[], AuditLog]
"""Opens the chain where a change is recorded: late, because a new site has no directories before the copy."""
Record = Callable[[Verdict], Event]
"""The event of a switch, given how the check came out."""


class Around(Protocol):
    """What a host does around the step in which ``current`` moves."""

    def before(self, generation: Generation, /) -> None: ...

    def after(self, generation: Generation, revocations: Revocations, /) -> None:
        """Raises HealthCheckFailed, and then what was current is so again."""
        ...


def switch(
    paths: SitePaths,
    generation: Generation,
    revocations: Revocations,
    trail: Trail,
    record: Record,
    *,
    settle: Callable[[], None] | None = None,
    progress: Progress = silent,
    around: Around | None = None,
    known_good: bool = False,
) -> tuple[Generation, Verdict]:
    """Make ``generation`` the current one, in the order above. Raises Revoked or HealthCheckFailed.

    ``settle`` does what else must last before the record of a switch; it is not called for one that does not come.
    The last verdict on one that is ``known_good``, since it ran here, is taken as it is; a host sees what it answers.
    """
    generation.refuse_revoked(paths.store, revocations)
    verdict = health.kept(generation.path) if known_good else None
    if verdict is None or verdict.failed:
        verdict = health.check(paths, generation, progress=progress)
        health.keep(generation.path, verdict)
    if settle is not None and not verdict.failed:
        settle()
    if around is not None and not verdict.failed:
        around.before(generation)
    with trail() as log:
        log.record(*record(verdict))
        if verdict.failed:
            raise _unhealthy(paths, generation, verdict)
        activated = generations.activate(paths, generation.number, revocations=revocations)
        if around is not None:
            try:
                around.after(activated, revocations)
            except HealthCheckFailed as error:
                log.record(*record(replace(verdict, models={"host": ModelHealth("failed", error.why)})))
                raise
    return activated, verdict


def activate(
    paths: SitePaths,
    number: int,
    trail: Trail,
    actor: str,
    *,
    progress: Progress = silent,
    around: Around | None = None,
    known_good: bool = False,
) -> tuple[Generation, Verdict | None]:
    """Switch the site to the kept generation ``number``, by the site's own list of what is revoked.

    Of the one that is current already nothing is changed, and there is no verdict. Raises NotFound, Revoked,
    MalformedMetadata or InstallError for a damaged one, HealthCheckFailed or Busy.
    """
    if not paths.generations.is_dir():
        raise NotFound(
            f"There is no site at {paths.root}", "nothing is installed there", "Run `plugsky bundle install`"
        )
    with sigterm_interrupts(), site_lock(paths.root):
        generation = generations.load(paths, number)
        believed = site_trust.load(paths)
        if believed is None:
            raise InstallError(
                f"Generation {number} cannot be activated",
                f"{paths.trust_state} is missing, so nobody knows what was revoked",
                "Restore it from the backup",
            )
        if generations.current_number(paths) == number:
            generation.refuse_revoked(paths.store, believed.revocations)
            return generation, None
        entries = {entry.path: entry for entry in (*generation.entries, *generation.local)}
        if lacking := generations.damaged(paths, number, entries):
            raise InstallError(
                f"Generation {number} is damaged",
                f"it lacks {', '.join(lacking[:3])}",
                "Install its bundle again; `plugsky generation list` shows the others",
            )

        def record(verdict: Verdict) -> Event:
            return events.generation_activate(
                actor,
                generation=number,
                bundle_id=generation.bundle_id,
                channel=generation.channel,
                version=generation.version,
                health=verdict.summary,
                healthy=not verdict.failed,
            )

        return switch(
            paths,
            generation,
            believed.revocations,
            trail,
            record,
            progress=progress,
            around=around,
            known_good=known_good,
        )


def _unhealthy(paths: SitePaths, generation: Generation, verdict: Verdict) -> HealthCheckFailed:
    runs = generations.current_number(paths)
    stays = f"generation {runs} stays current" if runs is not None else "the site has no current generation yet"
    return HealthCheckFailed(
        f"Generation {generation.number} failed its health check, so {stays}",
        verdict.why,
        f"Ask the operator for another bundle; where the cause was this host, `plugsky generation activate "
        f"{generation.number}` checks again, and `plugsky generation prune` removes what failed",
    )
