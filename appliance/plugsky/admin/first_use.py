"""Opens what a site keeps of its keys and usage; makes it on the first use of a site, and never again.

Who lost a database must hear of it: an empty one in its place would forget every key, every budget and every token
used. The signed trail tells the two apart. A site whose trail speaks of more than installations and of its own chains
has been used, and its database and pepper are then a matter of the backup. The trail is the right witness because the
record of the first key is on disk before that key is in the database, and no database is needed before there is one:
a first start that was interrupted anywhere before it leaves a site that may begin.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from plugsky.access.keys import Keys
from plugsky.audit import trail
from plugsky.core.clock import Clock
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.paths import SitePaths
from plugsky.state import RESTORE, Database, open_database

BEFORE_USE: Final = ("audit.", "bundle.", "chain.", "generation.", "model.", "trust.")
"""How the actions of records begin that a site has before its first use."""


@contextmanager
def opened_state(paths: SitePaths, clock: Clock) -> Iterator[tuple[Database, Keys]]:
    """The site's database and keys, closed behind the block.

    Raises TAMPERED where a site that was used lacks them, or has others in their place.
    """

    def beginning() -> None:
        if was_used(paths):
            raise PlugskyError(
                ErrorKind.TAMPERED,
                "this site was used, and its database or its pepper is gone",
                why=f"its audit trail speaks of keys or requests, and {paths.state} does not hold what they depend on",
                next=RESTORE,
            )

    with ExitStack() as stack:
        database = open_database(paths.database_url or paths.database, beginning)
        stack.callback(database.close)
        yield database, Keys.open(database, paths, clock, beginning)


def was_used(paths: SitePaths) -> bool:
    """Whether the trail speaks of the site's use. A trail that cannot be read is not one of a new site."""
    try:
        return any(
            not record.action.startswith(BEFORE_USE)
            for name in trail.chain_names(paths.audit)
            for record in trail.records(paths.audit, name)
        )
    except PlugskyError:
        return True
