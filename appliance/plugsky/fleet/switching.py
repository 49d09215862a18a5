"""Generation -> current: the only way in which a site comes to run another generation.

1. nothing of it is revoked: not its bundle, a file, or a chunk of one. Neither expiry is asked nor who signed it: what
   was installed in time keeps its place;
2. it is healthy (:mod:`plugsky.fleet.health`), found out while the one before it still runs. The verdict is kept in it;
3. the trail has a record of the switch, signed and on disk, before anything changes for users (fail-closed);
4. ``current`` moves to it, in one step.

The caller holds the site's lock through all of it. A generation that fails its check stays where it is, inactive and
marked, the trail says so too, and the one before it stays current.
"""

from collections.abc import Callable

from plugsky.audit import AuditLog, events
from plugsky.audit.events import Event
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, health, site_trust
from plugsky.fleet.generations import Generation
from plugsky.fleet.health import Verdict
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.lock import site_lock
from plugsky_bundles.errors import HealthCheckFailed, InstallError, NotFound
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.state import Revocations

Trail = Callable[[], AuditLog]
"""Opens the chain where a change is recorded: late, because a new site has no directories before the copy."""
Record = Callable[[Verdict], Event]
"""The event of a switch, given how the check came out."""


def switch(
    paths: SitePaths,
    generation: Generation,
    revocations: Revocations,
    trail: Trail,
    record: Record,
    *,
    settle: Callable[[], None] | None = None,
    progress: Progress = silent,
) -> tuple[Generation, Verdict]:
    """Make ``generation`` the current one, in the order above. Raises Revoked or HealthCheckFailed.

    ``settle`` does what else must last before the record of a switch; it is not called for one that does not come.
    """
    generation.refuse_revoked(paths.store, revocations)
    verdict = health.check(paths, generation, progress=progress)
    health.keep(generation.path, verdict)
    if settle is not None and not verdict.failed:
        settle()
    with trail() as log:
        log.record(*record(verdict))
    if verdict.failed:
        raise _unhealthy(paths, generation, verdict)
    return generations.activate(paths, generation.number, revocations=revocations), verdict


def activate(
    paths: SitePaths, number: int, trail: Trail, actor: str, *, progress: Progress = silent
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

        return switch(paths, generation, believed.revocations, trail, record, progress=progress)


def _unhealthy(paths: SitePaths, generation: Generation, verdict: Verdict) -> HealthCheckFailed:
    runs = generations.current_number(paths)
    stays = f"generation {runs} stays current" if runs is not None else "the site has no current generation yet"
    return HealthCheckFailed(
        f"Generation {generation.number} failed its health check, so {stays}",
        verdict.why,
        f"Ask the operator for another bundle; where the cause was this host, `plugsky generation activate "
        f"{generation.number}` checks again, and `plugsky generation prune` removes what failed",
    )
