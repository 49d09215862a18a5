"""The beginning of trust: keys, the first root that binds them to roles, and the first line of the custody log.

Root and targets belong to people, with a threshold each; snapshot and timestamp to the build machine. The directory
appears whole or not at all: everything is made beside it under a hidden name and renamed. An interrupted run leaves
nothing; after a kill or a power cut the next run clears what is left.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys
from plugsky_bundles.atomic import out_of_space, sync_directory, write_file
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.errors import BadThreshold, ExistsError, PassphraseError
from plugsky_bundles.metadata import MAX_KEYS, NAMES, check_root, serialise, sign_with
from plugsky_bundles.times import stamp, whole_seconds
from plugsky_bundles.trustdir import CUSTODY_LOG, KEYS, ORIGIN, ROOTS
from plugsky_bundles.walk import fingerprint

ROOT_LIFETIME: Final = timedelta(days=5 * 365)


@dataclass(frozen=True, slots=True)
class TrustInit:
    """What a ceremony made. `fingerprint` goes on paper: `sha256sum metadata/1.root.json`."""

    path: Path
    fingerprint: str
    keyids: dict[str, tuple[str, ...]]
    expires: datetime


def init(
    out: Path,
    passphrase: bytes,
    *,
    root_keys: int = 1,
    root_threshold: int = 1,
    targets_keys: int = 1,
    targets_threshold: int = 1,
    scheme: str = keys.ED25519,
    now: datetime,
) -> TrustInit:
    """Make a trust directory at `out`, which must not exist or be empty.

    Raises ExistsError, PassphraseError (an empty passphrase), BadThreshold or NoSpace.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ExistsError(f"{out} is not empty", "trust is begun only once per directory", "Choose another directory")
    if not passphrase:
        raise PassphraseError("The passphrase is empty", "it would protect nothing", "Give a passphrase")
    counts = {"root": (root_keys, root_threshold), "targets": (targets_keys, targets_threshold)}
    for role, (number, threshold) in counts.items():
        if not 1 <= threshold <= number <= MAX_KEYS // 4:
            raise BadThreshold(
                f"A threshold of {threshold} does not fit {number} {role} keys",
                f"it must be between 1 and the number of keys, and there are at most {MAX_KEYS // 4}",
                "Choose other numbers",
            )
    people = {role: [f"{role}-{i + 1}" for i in range(number)] for role, (number, _) in counts.items()}
    names = people | {"snapshot": ["snapshot"], "timestamp": ["timestamp"]}
    signers = {role: {name: keys.generate(scheme) for name in group} for role, group in names.items()}
    thresholds = {role: threshold for role, (_, threshold) in counts.items()}
    root = _root(signers, thresholds, whole_seconds(now) + ROOT_LIFETIME)

    part = out.with_name(f".{out.name}.part")
    with out_of_space(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            _write(part, signers, root, passphrase, now)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync_directory(out.parent)
    keyids = {role: tuple(s.public_key.keyid for s in group.values()) for role, group in signers.items()}
    return TrustInit(out, fingerprint(root), keyids, whole_seconds(now) + ROOT_LIFETIME)


def _root(signers: dict[str, dict[str, CryptoSigner]], thresholds: dict[str, int], expires: datetime) -> bytes:
    root = Root(version=1, expires=expires, consistent_snapshot=True)
    names: dict[str, str] = {}
    for role, group in signers.items():
        for name, signer in group.items():
            root.add_key(signer.public_key, role)
            names[signer.public_key.keyid] = name
        root.roles[role].threshold = thresholds.get(role, 1)
    root.unrecognized_fields[NAMES] = names
    check_root(root, "The new root")
    metadata = Metadata(root)
    sign_with(metadata, signers["root"].values())
    return serialise(metadata)


def _write(
    part: Path, signers: dict[str, dict[str, CryptoSigner]], root: bytes, passphrase: bytes, now: datetime
) -> None:
    part.mkdir(mode=0o700)
    (part / KEYS).mkdir(mode=0o700)
    (part / ROOTS).mkdir()
    for group in signers.values():
        for name, signer in group.items():
            keys.save(part / KEYS / f"{name}.pem", signer, passphrase)
    write_file(part / ROOTS / "1.root.json", root)
    (snapshot,) = signers["snapshot"].values()
    with ChainWriter(part / CUSTODY_LOG, snapshot, ORIGIN) as custody:
        roles = {role: sorted(s.public_key.keyid for s in group.values()) for role, group in signers.items()}
        custody.append({"event": "trust.init", "at": stamp(now), "root_fingerprint": fingerprint(root), "keys": roles})
    sync_directory(part)
