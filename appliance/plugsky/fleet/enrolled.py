"""Whom a site believes besides its root: the approvers it enrolled, and its own key as others see it.

``trust/enrolled.json`` holds them (:mod:`plugsky_bundles.enrolment`). Every change is in the trail before it counts,
and the list counts only as the trail knows it (:mod:`plugsky.fleet.enrolment_witness`): one that is gone, or older, is
tampering and never nobody. A new list waits in ``enrolled.next.json`` while the trail records it, so that a cut between
the two loses neither.
As soon as installing needs an approval, keys change by a statement of the root's people only
(:mod:`plugsky_bundles.reset`); the key of the site itself always does. A key of the site that was replaced stays
enrolled as one of its own, because it signed the chains of its time; the new key begins chains of its own, which name
the ends of those.
"""

import os
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Final

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root

from plugsky.audit import AuditLog, events
from plugsky.audit.events import Event
from plugsky.audit.site_key import NEW_KEY, site_key, site_key_of_trail
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.fleet import enrolment_witness, site_trust
from plugsky.fleet.lock import site_lock
from plugsky.state.secrets import read_secret
from plugsky_bundles import approval, enrolment, keys, reset
from plugsky_bundles.approval import Approval
from plugsky_bundles.atomic import sync_directory
from plugsky_bundles.enrolment import APPROVER, ENROLLED, SITE, Enrolled
from plugsky_bundles.errors import BundleError, EnrolmentRefused, KeyUnusable, NotFound, UntrustedRoot
from plugsky_bundles.key_cards import KeyCard, check_fingerprint
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.reset import Change, Reset
from plugsky_bundles.state import TrustState
from plugsky_bundles.verified import VerifiedBundle

Trail = Callable[[], AuditLog]
_LOGIN_UID: Final = Path("/proc/self/loginuid")
_NO_LOGIN: Final = (1 << 32) - 1
_NEXT: Final = "enrolled.next.json"


def load(paths: SitePaths) -> Enrolled:
    """The keys that the site enrolled.

    Raises MalformedMetadata for a list that cannot be read, TAMPERED for one that is not the trail's newest.
    """
    there = enrolment.load(paths.trust)
    known = enrolment_witness.newest(paths.audit)
    if known is None or known.fits(there):
        return there
    waiting = enrolment.load(paths.trust, _NEXT)
    if known.fits(waiting):
        return waiting
    raise known.refusal(paths.trust / ENROLLED)


def card(paths: SitePaths, name: str) -> KeyCard:
    """The site's own key under a name, for those who are to believe it. Makes the key of a new site."""
    return KeyCard(name, site_key(paths).public_key)


def check_approvals(verified: VerifiedBundle, paths: SitePaths, approvals: Sequence[Approval]) -> tuple[str, ...]:
    """Who approved ``verified`` for this site: of the approvals given, and of those beside the bundle.

    Nothing is asked where none is required. Raises NotApproved; the caller has written nothing yet.
    """
    enrolled = load(paths)
    if not enrolled.locked:
        return ()
    found = chain(approvals, approval.beside(verified, enrolled))
    return approval.check(verified, found, enrolled, installers(), site_keyid=site_key(paths).public_key.keyid)


def installers() -> frozenset[str]:
    """The names of whoever runs this process: by its user, and by the login that it came from (audit's loginuid).

    Never by the environment, which whoever installs can write.
    """
    uids = {os.getuid()}
    with suppress(OSError, ValueError):  # a kernel without audit
        uids.add(int(_LOGIN_UID.read_text(encoding="ascii")))
    return frozenset(filter(None, (_user(uid) for uid in uids - {_NO_LOGIN})))


def enrol(
    paths: SitePaths,
    newcomer: KeyCard,
    fingerprint: str,
    trail: Trail,
    actor: str,
    now: datetime,
    *,
    role: str = APPROVER,
    approvals_required: int | None = None,
) -> Enrolled:
    """Enrol an approver or a courier by the card whose fingerprint was told; the list as it is then.

    Raises FingerprintDiffers, EnrolmentLocked, EnrolmentRefused or BadThreshold.
    """
    check_fingerprint(newcomer, fingerprint)
    with site_lock(paths.root):
        before = load(paths)
        after = before.enrol(newcomer, role, now, approvals_required=approvals_required)
        if after != before:
            event = events.enrolment("trust.enrol", actor, newcomer.name, after, newcomer.keyid)
            _keep(paths, before, after, event, trail)
        return after


def request_reset(
    paths: SitePaths,
    *,
    role: str,
    name: str,
    newcomer: KeyCard | None,
    approvals_required: int | None,
    now: datetime,
    add: bool = False,
) -> Reset:
    """What the root's people are to sign, so that ``name`` gets another key, or loses the one that is there.

    With ``add``, ``name`` is new in that role, and nobody goes; without it, whoever is not enrolled is a name that was
    mistyped. For the role "site", its key is made here and waits in ``trust/`` until the statement is applied.

    Raises NotFound or EnrolmentRefused for a name that is unknown, or known and to be added; BAD_REQUEST for a card of
    another name; and what the change comes to.
    """
    believed = _believed(paths)
    mine = _identity(paths)
    enrolled = load(paths)
    old: str | None = mine.keyid
    if role == SITE:
        newcomer = KeyCard(name, _new_site_key(paths))
    else:
        holders = enrolled.of(role).items()
        old = next((keyid for keyid, e in holders if e.name.casefold() == name.casefold()), None)
        _check_named(role, name, newcomer, [e.name for _, e in holders], adding=add)
    required = enrolled.approvals_required if approvals_required is None else approvals_required
    change = Change(mine.keyid, enrolled.serial + 1, role, old, newcomer, required)
    _changed(enrolled, change, mine, now)
    return reset.request(change, _root(believed), now)


def _check_named(role: str, name: str, newcomer: KeyCard | None, there: Sequence[str], *, adding: bool) -> None:
    """Refuse a request that would do something else than whoever asks has in mind: a typing error adds nobody."""
    known = name.casefold() in {other.casefold() for other in there}
    if newcomer is not None and newcomer.name.casefold() != name.casefold():
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"The card is that of {newcomer.name}, and the request is for {name}.",
            why="whoever comes is enrolled under the name on the card",
            next=f"name {newcomer.name}, or take the card of {name}",
        )
    if not known and not adding:
        raise NotFound(
            f"There is no {role} {name}",
            f"enrolled as {role} here: {', '.join(sorted(there)) or 'nobody'}",
            "Check the name" + ("; --add asks for somebody new" if newcomer is not None else ""),
        )
    if known and adding:
        raise EnrolmentRefused(
            f"{name} is enrolled as {role} already",
            "adding leaves every key that is there, and a name has one key",
            "Leave --add out to replace the key",
        )


def apply_reset(paths: SitePaths, statement: Reset, trail: Trail, actor: str, now: datetime) -> Enrolled:
    """Do what a statement says, if the root's people signed it and it is the next one for this site.

    Raises ThresholdNotMet, SignatureUnknown, SignatureInvalid, Rollback (used before), MetadataExpired, and what the
    change itself comes to. Applying a site's own key again after a cut finishes it, whatever the date.
    """
    with site_lock(paths.root):
        believed = _believed(paths)
        change = reset.check(statement, _root(believed), revoked=believed.revocations.keys)
        mine = _identity(paths)
        moved = change.role == SITE and change.new is not None and change.new.keyid == mine.keyid
        if not moved:
            reset.check_date(statement, max(now, believed.time))
        enrolled = _before(paths, change) if moved else load(paths)
        reset.check_serial(change, change.site if moved else mine.keyid, enrolled)
        former = site_key_of_trail(paths, change.site) if moved else mine
        if former is None:
            raise NotFound(f"The key {change.site} signed no chain here", "it is another site's", "Check its copy")
        after = _changed(enrolled, change, former, now)
        event = events.enrolment(
            "trust.reset", actor, change.role, after, "" if change.new is None else change.new.keyid
        )
        if change.role == SITE:
            if not moved:
                _take_new_site_key(paths, change)
            enrolment.save(paths.trust, after)
            with trail() as log:
                log.record(*event)
            return after
        _keep(paths, enrolled, after, event, trail)
        return after


def _keep(paths: SitePaths, before: Enrolled, after: Enrolled, event: Event, trail: Trail) -> None:
    """Make ``after`` the list: it waits beside the one before it until the trail has it, and then takes its place."""
    if enrolment.load(paths.trust) != before:
        enrolment.save(paths.trust, before)
    enrolment.save(paths.trust, after, _NEXT)
    with trail() as log:
        log.record(*event)
    (paths.trust / _NEXT).replace(paths.trust / ENROLLED)
    sync_directory(paths.trust)


def _before(paths: SitePaths, change: Change) -> Enrolled:
    """The list before a change of the site's own key that a cut may have kept from the trail.

    The new key writes the record of it, into a chain that is named after the list; so the list comes first there.
    """
    there = enrolment.load(paths.trust)
    known = enrolment_witness.newest(paths.audit)
    if there.serial == change.serial and change.site in there.keys and (known is None or not known.fits(there)):
        rest = {keyid: key for keyid, key in there.keys.items() if keyid != change.site}
        required = there.approvals_required if known is None else known.approvals_required
        undone = replace(there, keys=rest, serial=there.serial - 1, approvals_required=required)
        if known is None or known.fits(undone):
            return undone
    return load(paths)


def _changed(enrolled: Enrolled, change: Change, mine: SSlibKey, now: datetime) -> Enrolled:
    """The list after a change. A former key of the site itself is added as such."""
    if change.role == SITE:
        former = KeyCard(f"former-{mine.keyid[:16]}", mine)
        return enrolled.replaced(None, former, SITE, now, approvals_required=change.approvals_required)
    return enrolled.replaced(change.old, change.new, change.role, now, approvals_required=change.approvals_required)


def _identity(paths: SitePaths) -> SSlibKey:
    """The site's own key; where it is lost or damaged, the one that signed its trail and was not replaced yet."""
    try:
        if read_secret(paths.trust / "site-key.pem") is not None:
            return keys.load(paths.trust / "site-key.pem", None).public_key
    except BundleError:
        pass
    found = site_key_of_trail(paths, None)
    return site_key(paths).public_key if found is None else found


def _new_site_key(paths: SitePaths) -> SSlibKey:
    path = paths.trust / NEW_KEY
    if read_secret(path) is None:
        keys.save(path, keys.generate(), None)
    return keys.load(path, None).public_key


def _take_new_site_key(paths: SitePaths, change: Change) -> None:
    path = paths.trust / NEW_KEY
    made = keys.load(path, None).public_key.keyid if read_secret(path) is not None else "none"
    if change.new is None or made != change.new.keyid:
        raise KeyUnusable(
            "The statement names another new key than waits here", f"here waits {made}", "Request a new statement"
        )
    path.replace(paths.trust / "site-key.pem")
    sync_directory(paths.trust)


def _believed(paths: SitePaths) -> TrustState:
    believed = site_trust.load(paths)
    if believed is None:
        raise UntrustedRoot(
            f"The site {paths.root} trusts nobody yet", "no bundle was installed", "Install its first bundle first"
        )
    return believed


def _root(believed: TrustState) -> Root:
    metadata: Metadata[Root] = read_metadata(believed.root, Root, "The trusted root of this site")
    return metadata.signed


def _user(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
