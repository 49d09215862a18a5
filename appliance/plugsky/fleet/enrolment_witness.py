"""What the audit trail knows of a site's enrolled keys: which list is the newest one.

Every change of ``trust/enrolled.json`` is in the trail, with the digest of the list as it is then. A list that is gone
or older would otherwise open the lock in silence, and a statement of the root's people could be used again. So whoever
wants that must change the list and the trail, which is signed, chained and checked by ``plugsky audit verify``.

Only chains of the command line have such records; those of the serving processes are not read.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugsky.audit.trail import Record, chain_names, records
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky_bundles.enrolment import Enrolled

ACTIONS: Final = ("trust.enrol", "trust.reset")
_COMMANDS: Final = re.compile(r".*\.cli(-[0-9]+)?", re.ASCII)


@dataclass(frozen=True)
class Known:
    """What the newest record of a change says of the list."""

    serial: int
    approvals_required: int
    sha256: str

    def fits(self, enrolled: Enrolled) -> bool:
        """Whether this is the list that was recorded."""
        return hashlib.sha256(enrolled.to_json()).hexdigest() == self.sha256

    def refusal(self, path: Path) -> PlugskyError:
        """The error for another list at ``path``."""
        return PlugskyError(
            ErrorKind.TAMPERED,
            f"the list of enrolled keys {path} is not the newest one",
            why=f"the audit trail recorded another one, statement {self.serial}, which asks for "
            f"{self.approvals_required} approvals; this one is gone, older or changed",
            next="restore it from the backup; where a reset statement for the site's key was cut off, apply it again",
        )


def newest(audit: Path) -> Known | None:
    """What was recorded last; None where nothing ever was. Raises TAMPERED for a chain that cannot be read."""
    found = [record for name in chain_names(audit) if _COMMANDS.fullmatch(name) for record in _newest_of(audit, name)]
    known = [(_known(record), record.time) for record in found]
    return max(known, key=lambda pair: (pair[0].serial, pair[1]))[0] if known else None


def _newest_of(audit: Path, chain: str) -> list[Record]:
    return next(([record] for record in records(audit, chain) if record.action in ACTIONS), [])


def _known(record: Record) -> Known:
    fields = record.fields
    serial, required, digest = (fields.get(name) for name in ("serial", "approvals_required", "enrolled_sha256"))
    if not isinstance(serial, int) or not isinstance(required, int) or not isinstance(digest, str):
        raise PlugskyError(
            ErrorKind.TAMPERED,
            f"the audit chain {record.chain} is damaged",
            why=f"its record {record.seq} of {record.action} does not say which keys were enrolled",
            next="plugsky audit verify",
        )
    return Known(serial, required, digest)
