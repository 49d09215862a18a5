"""What an operator takes back: bundles, files or chunks, keys; `revocations.json` of the trust directory, which grows.

Every later bundle of every channel carries the whole list as `policy/revocations.json`, and a site keeps what it once
accepted; so a revocation is in force at a site from the first bundle on that it installs after.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.metadata import Root

from plugsky_bundles.atomic import write_file
from plugsky_bundles.errors import NotFound
from plugsky_bundles.format import is_sha256
from plugsky_bundles.metadata import key_names, read_metadata
from plugsky_bundles.state import MAX_REVOCATIONS, Revocations
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import TrustDir, open_trust

REVOKED: Final = "revocations.json"


def load(trust_dir: Path) -> Revocations:
    """What was revoked there. Raises MalformedMetadata for a list that cannot be read: it is never taken as empty."""
    try:
        with (trust_dir / REVOKED).open("rb") as file:
            return Revocations.from_json(file.read(MAX_REVOCATIONS + 1))
    except FileNotFoundError:
        return Revocations()


def revoke(
    trust_dir: Path, new: Revocations, passphrase: Callable[[], bytes], now: datetime
) -> tuple[Revocations, Revocations]:
    """Add `new` to the list; gives the whole list and what is new in it. The custody log has it first.

    `passphrase` is asked where the snapshot key lies, which signs that log. Raises MalformedMetadata when the list
    would outgrow what a bundle can carry.
    """
    trust = open_trust(trust_dir)
    before = load(trust_dir)
    whole = before | new
    fresh = Revocations(whole.bundles - before.bundles, whole.digests - before.digests, whole.keys - before.keys)
    if fresh == Revocations():
        return before, fresh
    data = whole.to_json()
    if len(data) > MAX_REVOCATIONS:
        raise malformed(f"{trust_dir / REVOKED}", f"it would have {len(data)} bytes, the limit is {MAX_REVOCATIONS}")
    if trust.holds("snapshot"):
        trust.log(passphrase(), [{"event": "trust.revoke", "at": stamp(now), **fresh.to_dict()}])
    write_file(trust_dir / REVOKED, data)
    return whole, fresh


def keyid_of(trust: TrustDir, word: str) -> str:
    """The id of a key that any root of the directory calls `word`, or `word` itself when it is an id."""
    if is_sha256(word):
        return word
    found = {keyid for data in trust.roots for keyid, name in _names(data).items() if name == word}
    if len(found) != 1:
        raise NotFound(
            f"There is no key {word!r}" if not found else f"{len(found)} keys were called {word!r}",
            "no root names it" if not found else "each of another root",
            "Name the key by its id: plugsky trust show",
        )
    return found.pop()


def _names(data: bytes) -> dict[str, str]:
    return key_names(read_metadata(data, Root, "A root").signed, "A root")
