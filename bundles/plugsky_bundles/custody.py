"""Who had a sealed bundle in hand: one signed chain per person, in `plugsky-returns/custody/` beside the bundle.

Until the seal, custody is the operator's log (`evidence/custody.jsonl`, covered by the snapshot). Afterwards a bundle
must not change any more, so everyone who writes it to media, hands it over, verifies, approves or installs it appends
to a chain of their own (`chain`), signed with their own key (`custody_files` has the names).

A record is `{"event", "at", "by", "bundle_id", "details", "seen"}`. `seen` maps the origin of every other chain that
the writer found there, and `trust` for the sealed log, to the hash of its newest commit: a chain that was taken away or
cut afterwards is missed by those who saw it, and the order of events across people does not rest on their clocks.

`custody_review` judges what others wrote.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer

from plugsky_bundles.atomic import write_file
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.custody_files import (
    EVENTS,
    FOLDER,
    SEALED_LOG,
    THEN,
    chains,
    check_details,
    check_plain,
    file_name,
    make_logs,
    origin_of,
    read_log,
    sealed_log,
)
from plugsky_bundles.errors import ChainError, CustodyDoubt
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.plain_files import open_plain
from plugsky_bundles.times import stamp
from plugsky_bundles.verified import VerifiedBundle

__all__ = ["FOLDER", "carry", "file_name", "record"]


def record(
    folder: Path,
    verified: VerifiedBundle,
    signer: Signer,
    by: str,
    event: str,
    now: datetime,
    details: Mapping[str, str] | None = None,
) -> Path:
    """Append one record to the signer's own chain in `folder`, which is made when it is not there; signed and on disk.

    Raises ValueError for an unknown event or details out of bounds, UnsafeName or CustodyDoubt for a link in the place
    of a folder or of the chain, and what `ChainWriter` raises.
    """
    if event not in EVENTS:
        raise ValueError(event)
    checked = check_details(dict(details or {}))
    keyid = signer.public_key.keyid
    make_logs(folder)
    path = folder / file_name(verified, keyid)
    check_plain(path)
    seen = {SEALED_LOG: _sealed_head(verified)} if CUSTODY in verified.evidence else {}
    for other in chains(folder, verified):
        if other != path:
            origin, head = _head_of(other)
            seen[origin] = head
    with ChainWriter(path, signer, origin_of(verified, keyid)) as chain:
        chain.append(
            {
                "event": event,
                "at": stamp(now),
                "by": by,
                "bundle_id": verified.bundle_id,
                "details": checked,
                "seen": seen,
            }
        )
    return path


def carry(source: Path, destination: Path, verified: VerifiedBundle) -> int:
    """Take the chains of a bundle along to where its copy lies; returns how many were taken.

    A chain that is there already stays when it goes further, and is replaced when it only begins like the other.
    Raises CustodyDoubt when the two are different logs, or one is no plain file; UnsafeName for a link in place of a
    folder.
    """
    taken = 0
    for path in chains(source, verified):
        data = read_log(path)
        there = destination / path.name
        before = read_log(there) if os.path.lexists(there) else b""
        if before.startswith(data):
            continue
        if not data.startswith(before):
            raise CustodyDoubt(
                f"There are two custody logs {path.name}",
                f"{there} and {path} differ in what they have in common",
                "Keep both as evidence, and ask whose key it is",
            )
        make_logs(destination)
        write_file(there, data)
        taken += 1
    return taken


def _head_of(path: Path) -> tuple[str, str]:
    """Origin and newest commit of somebody else's chain, whose right to write it is not judged here."""
    try:
        with open_plain(path, THEN) as file:
            report = verify_chain(file)
    except ChainError as error:
        raise CustodyDoubt(
            f"{path} is no custody log that could be continued from", error.why, "Keep it as evidence, apart"
        ) from error
    return report.origin, report.head.hash


def _sealed_head(verified: VerifiedBundle) -> str:
    return verify_chain(sealed_log(verified), verified.custodians).head.hash
