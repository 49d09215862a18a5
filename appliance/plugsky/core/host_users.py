"""The users that a host's processes run as. The playbooks make them; they are static, so that files keep their owners.

An unprivileged site has none of them: everything in it is its owner's.
"""

import pwd
from typing import Final

GATEWAY: Final = "plugsky-gateway"
ENGINE: Final = "plugsky-engine"
ADMIN: Final = "plugsky-admin"


def uids(*names: str) -> frozenset[int]:
    """The uids of those of these users that this host has."""
    found = set()
    for name in names:
        try:
            found.add(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    return frozenset(found)
