"""What ``audit_verify`` compares the trail with: the site's own key, its root, generations, ledger and API keys."""

from dataclasses import replace
from typing import Final

from tuf.api.metadata import Root

from plugsky.access.keys import Keys
from plugsky.access.ledger import Ledger
from plugsky.audit.proof import InstalledBundle
from plugsky.audit.site_key import former_site_keyids, known_site_keyid
from plugsky.audit.verify import SiteVerdict, verify_site
from plugsky.core.clock import Clock, unix_us
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, site_trust
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.metadata import read_metadata

GRACE_US: Final = 10_000_000
"""How long after its settlement a request may be without its record: the group commit and a short stall of the disk."""


def verify_trail(paths: SitePaths, ledger: Ledger, keys: Keys, clock: Clock) -> SiteVerdict:
    """The verdict on the whole trail. Reads every chain: call it in a thread. Raises BundleError for a broken site.

    A generation that is damaged is a problem of the verdict, and hides no other.
    """
    started = unix_us(clock.now())
    damaged = tuple(
        f"generation {number} is damaged, so nothing shows where it comes from: {why}"
        for number, why in generations.unreadable(paths).items()
    )
    known = [
        (
            InstalledBundle(g.number, g.channel, g.version, g.bundle_id, g.content_id, g.root_fingerprint),
            g.path / CUSTODY,
        )
        for g in generations.complete(paths)
    ]
    verdict = verify_site(
        paths.audit,
        known_site_keyid(paths),
        custodians(paths),
        known,
        ledger,
        keys.list(),
        settled_before_us=started - GRACE_US,
        former=former_site_keyids(paths),
    )
    return replace(verdict, problems=(*damaged, *verdict.problems))


def custodians(paths: SitePaths) -> frozenset[str]:
    """The keyids that the roots which the site trusts or trusted let sign custody: those of their snapshot role.

    A kept generation brings the custody log of its time. Empty without a root.
    """
    roots = (read_metadata(data, Root, "A trusted root").signed for data in site_trust.roots(paths))
    return frozenset(keyid for root in roots for keyid in root.roles["snapshot"].keyids)
