"""Which bundles a trust directory ever sealed, from its custody log: what a delta may build on.

Every segment of the log is checked from its first line to its last, and must be signed by a snapshot key of one of the
roots. A bundle counts once its `bundle.sealed` stands there.
"""

from __future__ import annotations

from tuf.api.metadata import Root

from plugsky_bundles.chain_lines import Line
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.trustdir import TrustDir


def sealed_before(trust: TrustDir, channel: str) -> dict[int, str]:
    """The ids of the sealed bundles of a channel by version. Raises ChainError for a log that was changed."""
    roots = (read_metadata(data, Root, "A root").signed for data in trust.roots)
    custodians = {keyid for root in roots for keyid in root.roles["snapshot"].keyids}
    sealed: dict[int, str] = {}

    def note(line: Line) -> None:
        if line.body.get("event") == "bundle.sealed" and line.body.get("channel") == channel:
            sealed[line.body["version"]] = line.body["bundle_id"]

    for log in sorted(trust.path.glob("custody*.jsonl")):
        verify_chain(log, custodians, on_record=note)
    return sealed
