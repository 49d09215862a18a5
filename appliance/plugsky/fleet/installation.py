"""VerifiedBundle -> Plan -> Generation -> current: one installation, in the only order that is safe.

1. the plan is carried out: a complete generation that nothing runs yet;
2. the site accepts the bundle: floors, time and revocations move forward;
3. the trail records it, signed and on disk, before anything changes for users (fail-closed);
4. ``current`` moves to it.

An interruption between any two steps is finished by running the same installation again: each step finds its work done.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from plugsky.audit import AuditLog, events
from plugsky.audit.trail import newest_commit
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, site_trust
from plugsky.fleet.generations import Generation
from plugsky_bundles.errors import UntrustedRoot
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.media import open_bundle
from plugsky_bundles.plan import Plan, plan_install
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import Anchor

Trail = Callable[[], AuditLog]
"""Opens the chain where the installation is recorded: late, because a new site has no directories before the copy."""


def verify_for(paths: SitePaths, media: Path, pin: str | None, now: datetime | None = None) -> VerifiedBundle:
    """The bundle at ``media``, verified against what the site believes, or on first use against the pinned root.

    Raises UntrustedRoot when the site is new and nothing is pinned; the error says what to compare with the paper.
    """
    return verify_metadata(open_bundle(media), anchor(paths, pin), now=now or datetime.now(UTC))


def anchor(paths: SitePaths, pin: str | None) -> Anchor:
    """What to verify against: the site's trust state, else the fingerprint from the paper."""
    believed = site_trust.load(paths)
    if believed is not None:
        return believed
    if pin is None:
        raise UntrustedRoot(
            f"The site {paths.root} trusts nobody yet",
            "the first installation needs the root's fingerprint from the paper",
            "Add --pin FINGERPRINT; `plugsky trust show` prints it where the bundle was made",
        )
    return pin


def plan_for(verified: VerifiedBundle, paths: SitePaths) -> Plan:
    """What installing would do to this site."""
    return plan_install(verified, generations.facts(paths))


def install(
    verified: VerifiedBundle, plan: Plan, paths: SitePaths, trail: Trail, actor: str, *, progress: Progress = silent
) -> Generation:
    """Carry out exactly ``plan`` and make its generation the current one."""
    generation = generations.make(verified, plan, paths, progress=progress)
    site_trust.save(paths, verified.state)
    running = generations.current(paths)
    if running is not None and running.number == generation.number:
        return generation
    custody = newest_commit(generation.path / CUSTODY)
    event = events.bundle_install(
        actor,
        bundle_id=generation.bundle_id,
        content_id=generation.content_id,
        channel=generation.channel,
        version=generation.version,
        generation=generation.number,
        root_fingerprint=generation.root_fingerprint,
        custody_head=custody.hash if custody else "",
    )
    with trail() as log:
        log.record(*event)
    return generations.activate(paths, generation.number, revocations=verified.state.revocations)
