"""What a site keeps of the bundles that it accepted, and what it tells its operator that it holds.

``trust/channels/<channel>/`` holds copies of the newest metadata of a channel
(:mod:`plugsky_bundles.trusted_copies`), so that a later bundle can leave out what did not change. ``returns/`` holds
the newest receipt of each channel: signed by the site's key, carried back, it lets the operator build a delta. A
receipt tells nothing that the bundle did not bring.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from securesystemslib.signer import SSlibKey

from plugsky.audit.site_key import site_key
from plugsky.core.paths import SitePaths
from plugsky.fleet import generations, site_trust
from plugsky_bundles import kept, receipt, store_index, trusted_copies
from plugsky_bundles.atomic import out_of_space, write_file
from plugsky_bundles.errors import NotFound, VerificationError
from plugsky_bundles.format import MAX_CHUNK, Chunk, check_channel
from plugsky_bundles.kept import Kept
from plugsky_bundles.receipt import Receipt
from plugsky_bundles.returns import returns_of
from plugsky_bundles.state import TrustState
from plugsky_bundles.trusted_copies import CopiesIn, EitherOf, TrustedCopies
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.walk import fingerprint


def copies(paths: SitePaths) -> TrustedCopies:
    """The copies of all channels: what is asked for is named by its digest."""
    folder = paths.trust / trusted_copies.CHANNELS
    channels = [CopiesIn(path) for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    return EitherOf(*channels)


@contextmanager
def kept_copies(paths: SitePaths, verified: VerifiedBundle) -> Iterator[None]:
    """Keep copies of ``verified`` around the step in which the site accepts it: added before, older ones gone after.

    Raises NoSpace; then the site has not accepted it.
    """
    folder = _folder(paths, verified.channel)
    needed = dict(verified.copies())
    with out_of_space(folder):
        for parent in (paths.trust, folder.parent):
            parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        trusted_copies.keep(folder, needed.items())
    yield
    trusted_copies.forget(folder, needed)


def held(paths: SitePaths, channel: str) -> Kept:
    """What the site accepted last of a channel. Raises NotFound, or BaseMissing for damaged copies."""
    return _held(paths, _believed(paths, channel), channel)


def make(paths: SitePaths, channel: str, *, now: datetime | None = None) -> tuple[Receipt, bytes]:
    """A receipt of what the site holds now, and its file.

    The files of the store count by their names and lengths: an installation hashes them all before it uses one.
    """
    signer = site_key(paths)
    made = _receipt(paths, channel, signer.public_key.keyid, now or datetime.now(UTC))
    return made, receipt.make(made, signer)


def _receipt(paths: SitePaths, channel: str, site: str, now: datetime) -> Receipt:
    believed = _believed(paths, channel)
    last = _held(paths, believed, channel)
    facts = generations.facts(paths)
    if last.bundle_id not in facts.installed:
        raise NotFound(
            f"The newest bundle of {channel} is not installed here",
            "its generation was removed, or its installation did not finish",
            "Install it again: plugsky bundle install",
        )
    return receipt.of(
        last,
        stored_blobs(paths.store),
        site=site,
        at=now,
        root_fingerprint=fingerprint(believed.root),
        generation=facts.installed[last.bundle_id],
        python=facts.python,
        machine=facts.machine,
    )


def give(paths: SitePaths, channel: str, beside: Path | None) -> Path:
    """Leave a receipt in the site, and in ``plugsky-returns`` next to ``beside`` where that can be written.

    One that says the same already stays as it is. Media may be read-only, gone by now, or hold something else under
    that name: none of that is an error.
    """
    made, data = make(paths, channel)
    folder = paths.returns
    path = folder / receipt.file_name(made)
    there = _same(path, made, site_key(paths).public_key)
    if there is None:
        with out_of_space(path):
            folder.mkdir(mode=0o755, exist_ok=True)
            write_file(path, data)
    for old in folder.iterdir():
        if old != path and re.fullmatch(rf"{channel}-[0-9]+-[0-9a-f]{{8}}\.receipt\.json", old.name):
            old.unlink()
    with suppress(OSError):
        if beside is not None and beside.exists():
            returned = returns_of(beside)
            returned.mkdir(exist_ok=True)
            if not returned.is_symlink() and (there is None or not (returned / path.name).exists()):
                write_file(returned / path.name, there or data)
    return path


def _same(path: Path, made: Receipt, key: SSlibKey) -> bytes | None:
    """The receipt at ``path`` if it says what ``made`` says, whenever it was written."""
    try:
        with path.open("rb") as file:
            data = file.read(receipt.MAX_RECEIPT + 1)
        there = receipt.read(data, {key.keyid: key})
    except (FileNotFoundError, VerificationError):
        return None
    return data if replace(there, at=made.at) == made else None


def stored_blobs(store: Path) -> Iterator[Chunk]:
    """The blobs that a store should hold: the chunks of its files, and files that are one blob."""
    for digest, length in store_index.held(store).items():
        chunks = store_index.chunks_of(store, digest, length)
        yield from chunks
        if not chunks and length <= MAX_CHUNK:
            yield Chunk(digest, length)


def _folder(paths: SitePaths, channel: str) -> Path:
    return paths.trust / trusted_copies.CHANNELS / check_channel(channel)


def _believed(paths: SitePaths, channel: str) -> TrustState:
    believed = site_trust.load(paths)
    if believed is None or channel not in believed.floors:
        known = "nothing" if believed is None else ", ".join(sorted(believed.floors)) or "nothing"
        raise NotFound(
            f"The site {paths.root} has no bundle of {channel}",
            f"it has accepted {known}",
            "Name one of its channels, or install the bundle first",
        )
    return believed


def _held(paths: SitePaths, believed: TrustState, channel: str) -> Kept:
    return kept.read_kept(_folder(paths, channel), believed.floors[channel].bundle_id)
