"""The files of custody logs beside a bundle: their names, their bounds, and how to read one that may be anything.

`plugsky-returns/custody/<channel>-<version>-<first 16 of the keyid>.jsonl`, origin
`custody.<channel>-<version>.<first 16 of the keyid>`. No link is followed there, no pipe waited for, nothing read
without a bound.
"""

from __future__ import annotations

import os
import re
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final

from plugsky_bundles.chain_lines import MAX_LINE, read_genesis, read_line
from plugsky_bundles.errors import CustodyDoubt, MalformedMetadata
from plugsky_bundles.format import CUSTODY
from plugsky_bundles.plain_files import make_folder, read_plain
from plugsky_bundles.returns import RETURNS
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.verified import VerifiedBundle

FOLDER: Final = "custody"
EVENTS: Final = (
    "bundle.write",
    "bundle.hand-over",
    "bundle.receive",
    "bundle.verify",
    "bundle.approve",
    "bundle.install",
    "bundle.note",
)
SEALED_LOG: Final = "trust"
MAX_CHAINS: Final = 256
MAX_CHAIN_BYTES: Final = 8 << 20
MAX_DETAIL: Final = 500
THEN: Final = "Look at what lies there"
_FILE: Final = re.compile(r"([a-z0-9][a-z0-9-]{0,31})-([1-9][0-9]{0,9})-([0-9a-f]{16})\.jsonl", re.ASCII)
_DETAIL: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)


def file_name(verified: VerifiedBundle, keyid: str) -> str:
    """The name of the chain that the holder of a key writes about a bundle."""
    return f"{_stem(verified)}-{keyid[:16]}.jsonl"


def origin_of(verified: VerifiedBundle, keyid: str) -> str:
    """What that chain calls itself in its first line."""
    return f"custody.{_stem(verified)}.{keyid[:16]}"


def chains(folder: Path, verified: VerifiedBundle) -> list[Path]:
    """The chains of this bundle, by name. Raises CustodyDoubt for more than anyone could have written."""
    return [folder / name for name, plain in named(folder, verified) if plain]


def named(folder: Path, verified: VerifiedBundle) -> list[tuple[str, bool]]:
    """The names of the chains of this bundle, and whether a plain file is there. Raises CustodyDoubt for too many."""
    leads_away = folder.is_symlink() or (folder.parent.name == RETURNS and folder.parent.is_symlink())
    if leads_away or not folder.is_dir():
        return []
    there = sorted((entry.name, entry.is_file(follow_symlinks=False)) for entry in os.scandir(folder))
    found = [(n, plain) for n, plain in there if (m := _FILE.fullmatch(n)) and f"{m[1]}-{m[2]}" == _stem(verified)]
    if len(found) > MAX_CHAINS:
        raise CustodyDoubt(f"{folder} holds too many logs", f"{len(found)} of one bundle", "Look at it by hand")
    return found


def make_logs(folder: Path) -> None:
    """Make the folder of logs; a link there, or for the `plugsky-returns` around it, would lead elsewhere."""
    if folder.parent.name == RETURNS:
        make_folder(folder.parent)
    make_folder(folder)


def check_plain(path: Path) -> None:
    """Refuse a chain that is there and is no plain file."""
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise _no_log(path)


def _no_log(path: Path) -> CustodyDoubt:
    return CustodyDoubt(f"{path} is no custody log", "it is a link, a pipe or a device", "Look at it, and remove it")


def read_log(path: Path) -> bytes:
    """The bytes of a chain. Raises CustodyDoubt for what is no plain file, or too long."""
    try:
        data = read_plain(path, MAX_CHAIN_BYTES, THEN)
    except MalformedMetadata:
        raise _no_log(path) from None
    if len(data) > MAX_CHAIN_BYTES:
        raise CustodyDoubt(f"{path} is too long", f"a custody log has at most {MAX_CHAIN_BYTES} bytes", "Look at it")
    return data


def whose(file: BinaryIO, name: str) -> tuple[str, str]:
    """The key and the origin that a chain's first line names."""
    if os.fstat(file.fileno()).st_size > MAX_CHAIN_BYTES:
        raise malformed(name, f"it has more than {MAX_CHAIN_BYTES} bytes")
    first = file.readline(MAX_LINE + 1)
    if not first.endswith(b"\n"):
        raise malformed(name, "it has no first line")
    key, origin = read_genesis(read_line(first))
    return key.keyid, origin


def sealed_log(verified: VerifiedBundle) -> BinaryIO:
    """The log in the bundle; raises MediaUnreadable or DigestMismatch."""
    return BytesIO(verified.bundle.read(CUSTODY, limit=verified.evidence[CUSTODY].length))


def check_details(values: Any) -> dict[str, str]:
    """The details of a record: few, short, one line each. Raises MalformedMetadata."""
    if not isinstance(values, dict) or len(values) > 32:
        raise malformed("A custody record", "its details cannot be read")
    for name, value in values.items():
        good = _DETAIL.fullmatch(name) and isinstance(value, str) and len(value) <= MAX_DETAIL and value.isprintable()
        if not good:
            raise malformed("A custody record", f"its detail {name[:40]!r} is not one short line")
    return dict(values)


def _stem(verified: VerifiedBundle) -> str:
    return f"{verified.channel}-{verified.version}"
