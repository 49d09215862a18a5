"""Whom a site believes besides its root: the approvers it enrolled, and its own key as others see it.

``trust/enrolled.json`` holds them (:mod:`plugsky_bundles.enrolment`). Every change is in the trail before it counts.
As soon as installing needs an approval, keys change by a statement of the root's people only
(:mod:`plugsky_bundles.reset`); the key of the site itself always does. A key of the site that was replaced stays
enrolled as one of its own, because it signed the chains of its time; the new key begins chains of its own, which name
the ends of those.
"""

import os
import pwd
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final

from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Metadata, Root

from plugsky.audit import AuditLog, events
from plugsky.audit.site_key import NEW_KEY, site_key, site_key_of_trail
from plugsky.core.paths import SitePaths
from plugsky.fleet import site_trust
from plugsky.fleet.lock import site_lock
from plugsky.state.secrets import read_secret
from plugsky_bundles import approval, enrolment, keys, reset
from plugsky_bundles.approval import Approval
from plugsky_bundles.atomic import sync_directory
from plugsky_bundles.enrolment import APPROVER, SITE, Enrolled
from plugsky_bundles.errors import BundleError, KeyUnusable, NotFound, UntrustedRoot
from plugsky_bundles.key_cards import KeyCard, check_fingerprint
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.reset import Change, Reset
from plugsky_bundles.state import TrustState
from plugsky_bundles.verified import VerifiedBundle

Trail = Callable[[], AuditLog]
_LOGIN_UID: Final = Path("/proc/self/loginuid")
_NO_LOGIN: Final = (1 << 32) - 1


def load(paths: SitePaths) -> Enrolled:
    """The keys that the site enrolled. Raises MalformedMetadata for a list that cannot be read."""
    return enrolment.load(paths.trust)


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
    found = (*approvals, *approval.beside(verified.bundle.path))
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

    Raises FingerprintDiffers, EnrolmentLocked, ExistsError, BadKey or BadThreshold.
    """
    check_fingerprint(newcomer, fingerprint)
    with site_lock(paths.root):
        before = load(paths)
        after = before.enrol(newcomer, role, now, approvals_required=approvals_required)
        if after != before:
            with trail() as log:
                log.record(*events.enrolment("trust.enrol", actor, newcomer.name, after, newcomer.keyid))
            enrolment.save(paths.trust, after)
        return after


def request_reset(
    paths: SitePaths,
    *,
    role: str,
    name: str,
    newcomer: KeyCard | None,
    approvals_required: int | None,
    now: datetime,
) -> Reset:
    """What the root's people are to sign, so that ``name`` gets another key, or loses the one that is there.

    For the role "site", its key is made here and waits in ``trust/`` until the statement is applied.
    """
    believed = _believed(paths)
    enrolled = load(paths)
    mine = _identity(paths)
    old: str | None = mine.keyid
    if role == SITE:
        newcomer = KeyCard(name, _new_site_key(paths))
    else:
        old = next((keyid for keyid, e in enrolled.of(APPROVER).items() if e.name == name), None)
        if old is None and newcomer is None:
            raise NotFound(f"There is no approver {name}", "nobody of that name is enrolled", "plugsky trust show")
    required = enrolled.approvals_required if approvals_required is None else approvals_required
    change = Change(mine.keyid, enrolled.serial + 1, role, old, newcomer, required)
    _changed(enrolled, change, mine, now)
    return reset.request(change, _root(believed), now)


def apply_reset(paths: SitePaths, statement: Reset, trail: Trail, actor: str, now: datetime) -> Enrolled:
    """Do what a statement says, if the root's people signed it and it is the next one for this site.

    Raises ThresholdNotMet, SignatureUnknown, SignatureInvalid, Rollback (used before), and what the change
    itself comes to. Applying a site's own key again after a cut finishes it.
    """
    with site_lock(paths.root):
        believed = _believed(paths)
        change = reset.check(statement, _root(believed), revoked=believed.revocations.keys)
        enrolled = load(paths)
        mine = _identity(paths)
        moved = change.role == SITE and change.new is not None and change.new.keyid == mine.keyid
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
        with trail() as log:
            log.record(*event)
        enrolment.save(paths.trust, after)
        return after


def _changed(enrolled: Enrolled, change: Change, mine: SSlibKey, now: datetime) -> Enrolled:
    """The list after a change. A former key of the site itself is added as such."""
    if change.role == SITE:
        former = KeyCard(f"former-{mine.keyid[:16]}", mine)
        return enrolled.replaced(None, former, SITE, now, approvals_required=change.approvals_required)
    return enrolled.replaced(change.old, change.new, APPROVER, now, approvals_required=change.approvals_required)


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
