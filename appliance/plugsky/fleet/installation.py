"""VerifiedBundle -> Plan -> Generation -> current: one installation, in the only order that is safe.

1. under the lock of the site: it is still what the bundle was verified against and the plan was made for, and as many
   approvers as it asks for have signed (:mod:`plugsky.fleet.enrolled`);
2. the plan is carried out: a complete generation that nothing runs yet;
3. the site accepts the bundle: floors, time and revocations move forward, also where it then turns out not to work
   here: what was signed holds, and an older bundle is no way back. It keeps copies of the metadata for later deltas,
   and signs a receipt of what it holds (:mod:`plugsky.fleet.receipts`);
4. the generation's health is checked, the trail records the installation, and ``current`` moves to it
   (:mod:`plugsky.fleet.switching` has that order). The lock is held until then, so that no revocation is lost on the
   way. A generation that fails its check stays, inactive and marked;
5. the site signs into the bundle's custody log that it runs here (:mod:`plugsky.fleet.site_custody`).

An interruption between any two steps is finished by running the same installation again: each step finds its work done,
and one that was recorded but not yet current is checked and recorded a second time.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from plugsky.audit import events
from plugsky.audit.events import Event
from plugsky.audit.trail import newest_commit
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolled, generations, host_facts, receipts, site_custody, site_trust, switching
from plugsky.fleet.generations import Generation
from plugsky.fleet.health import Verdict
from plugsky.fleet.interruption import sigterm_interrupts
from plugsky.fleet.lock import site_lock
from plugsky.fleet.switching import Around, Trail
from plugsky_bundles import transfer
from plugsky_bundles.approval import Approval
from plugsky_bundles.errors import SiteChanged, TrustLost, UntrustedRoot
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.media import Bundle, open_media
from plugsky_bundles.plan import Plan, plan_install
from plugsky_bundles.preflight import choose_lock, for_host
from plugsky_bundles.progress import Progress, silent
from plugsky_bundles.state import TrustState
from plugsky_bundles.store_index import site_blobs
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata
from plugsky_bundles.walk import Anchor


def verify_for(paths: SitePaths, media: Bundle | Path, pin: str | None, now: datetime | None = None) -> VerifiedBundle:
    """The bundle at ``media``, verified against what the site believes, or on first use against the pinned root.

    Raises UntrustedRoot when the site is new and nothing is pinned (the error says what to compare with the paper), and
    when a given pin is none of the roots that lead to the bundle's.
    """
    bundle = open_media(media) if isinstance(media, Path) else media
    moment = now or datetime.now(UTC)
    verified = verify_metadata(bundle, anchor(paths, pin), now=moment, copies=receipts.copies(paths))
    if pin is not None and pin not in verified.roots:
        raise UntrustedRoot(
            "The paper names another root than this site trusts",
            f"--pin {pin} is none of the roots that lead to {verified.root_fingerprint}",
            "Compare the paper with the site's; leave --pin out to go by what the site trusts",
        )
    return verified


def anchor(paths: SitePaths, pin: str | None) -> Anchor:
    """What to verify against: the site's trust state, else the fingerprint from the paper."""
    believed = site_trust.load(paths)
    if believed is not None:
        return believed
    if paths.current.is_symlink():
        raise TrustLost(
            f"The site {paths.root} has lost what it trusted",
            f"it runs on an installed bundle, and {paths.trust_state} is gone: an old bundle would look new",
            "Restore that file from the backup, or install into a new site with the newest bundle",
        )
    if pin is None:
        raise UntrustedRoot(
            f"The site {paths.root} trusts nobody yet",
            "the first installation needs the root's fingerprint from the paper",
            "Add --pin FINGERPRINT; `plugsky trust show` prints it where the bundle was made",
        )
    return pin


def plan_for(verified: VerifiedBundle, paths: SitePaths, *, repair: bool = False, progress: Progress = silent) -> Plan:
    """What installing would do to this site.

    A generation of this bundle that lacks a file, or that ``repair`` doubts, is made anew. Whenever a generation is to
    be made, every file that the store holds for it is read and hashed first: what is not as signed is copied again, and
    the plan says so.
    """
    site = host_facts.of(paths)
    entries = for_host(verified.entries, choose_lock(verified.entries, site))
    there = site.installed.get(verified.bundle_id)
    if there is not None and (repair or generations.damaged(paths, there, entries)):
        site = replace(site, damaged=frozenset({there}))
    blobs = {blob.sha256 for entry in entries.values() for blob in entry.blobs}
    site = replace(site, blobs=frozenset(site_blobs(paths.store, blobs)))
    plan = plan_install(verified, site)
    if plan.installed:
        return plan
    wanted = {entry.sha256: entry.length for entry in entries.values()}
    good = transfer.whole(paths.store, wanted, progress)
    spoiled = frozenset(site.store.keys() & wanted) - good.keys()
    return plan_install(verified, replace(site, store=good, spoiled=spoiled, blobs=site.blobs - spoiled))


def install(
    verified: VerifiedBundle,
    plan: Plan,
    paths: SitePaths,
    trail: Trail,
    actor: str,
    *,
    approvals: Sequence[Approval] = (),
    progress: Progress = silent,
    around: Around | None = None,
) -> Generation:
    """Carry out exactly ``plan`` and make its generation the current one.

    ``approvals`` count beside those that lie with the bundle. Raises NotApproved when the site requires
    more, Busy when someone else changes the site, SiteChanged when someone did since it was verified or planned,
    HealthCheckFailed when it was installed and does not work here.
    SIGTERM is taken as Ctrl-C: what is half made is removed and KeyboardInterrupt raised.
    """
    generations.prepare(paths)
    with sigterm_interrupts(), site_lock(paths.root):
        believed = site_trust.load(paths)
        _check_unchanged(verified, plan, paths, believed)
        approved_by = enrolled.check_approvals(verified, paths, approvals)
        generation = generations.make(verified, plan, paths, progress=progress)
        with receipts.kept_copies(paths, verified):
            if verified.state != believed:
                site_trust.save(paths, verified.state)
        receipts.give(paths, verified.channel, verified.bundle.path)
        if not plan.activates:
            site_custody.complete(paths, verified, generation.number, datetime.now(UTC))
            return generation
        revocations = verified.state.revocations
        record = partial(_event, generation, actor, approved_by)
        switching.switch(paths, generation, revocations, trail, record, progress=progress, around=around)
        site_custody.installed(paths, verified, generation.number, datetime.now(UTC))
        return generation


def _check_unchanged(verified: VerifiedBundle, plan: Plan, paths: SitePaths, believed: TrustState | None) -> None:
    """Refuse what was verified against another belief, or planned for another current generation."""
    against = verified.anchor if isinstance(verified.anchor, TrustState) else None
    if against != believed:
        raise SiteChanged(
            "The bundle must be verified again",
            "the site accepted another bundle since this one was verified, and something may have been revoked",
            "Run `plugsky bundle install` again",
        )
    if generations.facts(paths).current != plan.replaces:
        raise SiteChanged(
            "The plan must be made again",
            "another generation became the current one since it was made",
            "Run `plugsky bundle install` again",
        )


def _event(generation: Generation, actor: str, approved_by: Collection[str], verdict: Verdict) -> Event:
    """What the trail keeps of an installation."""
    custody = newest_commit(generation.path / CUSTODY)
    return events.bundle_install(
        actor,
        bundle_id=generation.bundle_id,
        content_id=generation.content_id,
        channel=generation.channel,
        version=generation.version,
        generation=generation.number,
        root_fingerprint=generation.root_fingerprint,
        custody_head=custody.hash if custody else "",
        approved_by=approved_by,
        health=verdict.summary,
        healthy=not verdict.failed,
        local=generation.local_ids,
    )
