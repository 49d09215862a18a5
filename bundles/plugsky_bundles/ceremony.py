"""The beginning of trust: keys, the first root that binds them to roles, and the first line of the custody log.

Root and targets belong to people, with a threshold each; snapshot and timestamp to the build machine, where they are
made. The keys of people come as cards from the machines where each made their own (`key_cards`), or are made here.
A root whose people are all here is finished at once; any other waits for signatures (`waiting`). One key counts once
in a role, and no two keys have one name.

The directory appears whole or not at all: everything is made beside it under a hidden name and renamed. An interrupted
run leaves nothing; after a kill or a power cut the next run clears what is left.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner, Key, SSlibKey
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys, waiting
from plugsky_bundles.atomic import out_of_space, sync_directory, write_file
from plugsky_bundles.errors import AmbiguousKeys, BadThreshold, ExistsError, PassphraseError
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.metadata import MAX_KEYS, NAMES, check_root, serialise, sign_with
from plugsky_bundles.times import stamp, whole_seconds
from plugsky_bundles.trustdir import KEYS, ROOTS, begin_custody
from plugsky_bundles.walk import fingerprint

ROOT_LIFETIME: Final = timedelta(days=5 * 365)
MAX_HOLDERS: Final = MAX_KEYS // 4
PEOPLE: Final = ("root", "targets")


@dataclass(frozen=True, slots=True)
class TrustInit:
    """What a ceremony made. `fingerprint` goes on paper: `sha256sum metadata/1.root.json`; None while it waits.

    `missing` are the names of those who may still sign a root that waits.
    """

    path: Path
    fingerprint: str | None
    keyids: dict[str, tuple[str, ...]]
    expires: datetime
    missing: tuple[str, ...] = ()


def init(
    out: Path,
    passphrase: bytes,
    *,
    root_keys: int = 1,
    root_threshold: int = 1,
    targets_keys: int = 1,
    targets_threshold: int = 1,
    root_cards: Sequence[KeyCard] = (),
    targets_cards: Sequence[KeyCard] = (),
    scheme: str = keys.ED25519,
    now: datetime,
    lifetime: timedelta = ROOT_LIFETIME,
) -> TrustInit:
    """Make a trust directory at `out`, which must not exist or be empty.

    `root_keys` and `targets_keys` are how many keys of people are made here, beside those on the cards.
    Raises ExistsError, PassphraseError (an empty passphrase), BadThreshold, AmbiguousKeys (a key twice) or NoSpace.
    """
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ExistsError(f"{out} is not empty", "trust is begun only once per directory", "Choose another directory")
    if not passphrase:
        raise PassphraseError("The passphrase is empty", "it would protect nothing", "Give a passphrase")
    made = {"root": root_keys, "targets": targets_keys, "snapshot": 1, "timestamp": 1}
    cards = {"root": root_cards, "targets": targets_cards}
    thresholds = {"root": root_threshold, "targets": targets_threshold, "snapshot": 1, "timestamp": 1}
    for role in PEOPLE:
        check_threshold(role, max(0, made[role]) + len(cards[role]), thresholds[role])
    signers = {role: _make(role, number, scheme) for role, number in made.items()}
    held = {
        role: [*cards.get(role, ()), *(KeyCard(name, s.public_key) for name, s in group.items())]
        for role, group in signers.items()
    }
    expires = whole_seconds(now) + lifetime
    root = bind(held, thresholds, version=1, expires=expires)
    metadata = Metadata(root)
    sign_with(metadata, signers["root"].values())

    part = out.with_name(f".{out.name}.part")
    with out_of_space(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)
        try:
            finished, missing = _write(part, signers, metadata, passphrase, now)
            part.rename(out)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    sync_directory(out.parent)
    keyids = {role: tuple(card.keyid for card in group) for role, group in held.items()}
    return TrustInit(out, finished, keyids, expires, missing)


def check_threshold(role: str, number: int, threshold: int) -> None:
    """Refuse a threshold that its number of keys can never meet, or more keys than a root takes."""
    if not 1 <= threshold <= number <= MAX_HOLDERS:
        raise BadThreshold(
            f"A threshold of {threshold} does not fit {number} {role} keys",
            f"it must be between 1 and the number of keys, and there are at most {MAX_HOLDERS}",
            "Choose other numbers",
        )


def bind(
    held: Mapping[str, Sequence[KeyCard]], thresholds: Mapping[str, int], *, version: int, expires: datetime
) -> Root:
    """A root, unsigned, that gives each role these keys. Pure.

    Raises AmbiguousKeys when one key would count twice in a role, or when a key has two names or a name two keys.
    """
    root = Root(version=version, expires=expires, consistent_snapshot=True)
    names: dict[str, str] = {}
    for role, group in held.items():
        for card in group:
            if card.keyid in root.roles[role].keyids:
                raise AmbiguousKeys(
                    f"The key of {card.name} is there twice for {role}",
                    "one key is one voice, whatever its cards are called",
                    "Name each holder's card once",
                )
            if names.setdefault(card.keyid, card.name) != card.name:
                raise _ambiguous(card.name, "its key is also called something else")
            root.add_key(public_key(card.key), role)
        root.roles[role].threshold = thresholds[role]
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise _ambiguous(twice[0], "two keys have that name")
    root.unrecognized_fields[NAMES] = names
    check_root(root, "The new root")
    return root


def public_key(key: Key) -> SSlibKey:
    """A copy of a key of a root, which `check_root` holds to be one of ours."""
    return SSlibKey(key.keyid, key.keytype, key.scheme, dict(key.keyval))


def _ambiguous(name: str, why: str) -> AmbiguousKeys:
    return AmbiguousKeys(f"The name {name} is not clear", why, "Have one of the holders make a key under another name")


def _make(role: str, number: int, scheme: str) -> dict[str, CryptoSigner]:
    names = [f"{role}-{i + 1}" for i in range(number)] if role in PEOPLE else [role]
    return {name: keys.generate(scheme) for name in names}


def _write(
    part: Path,
    signers: Mapping[str, Mapping[str, CryptoSigner]],
    metadata: Metadata[Root],
    passphrase: bytes,
    now: datetime,
) -> tuple[str | None, tuple[str, ...]]:
    """Write the directory; the fingerprint of its root if that is finished, and who may sign it if not."""
    part.mkdir(mode=0o700)
    (part / KEYS).mkdir(mode=0o700)
    (part / ROOTS).mkdir()
    for group in signers.values():
        for name, signer in group.items():
            keys.save(part / KEYS / f"{name}.pem", signer, passphrase)
    if len(metadata.signatures) < metadata.signed.roles["root"].threshold:
        return None, waiting.put(part, metadata, None).missing
    root = serialise(metadata)
    write_file(part / ROOTS / "1.root.json", root)
    (snapshot,) = signers["snapshot"].values()
    begin_custody(part, snapshot, metadata.signed, {"at": stamp(now), "root_fingerprint": fingerprint(root)})
    sync_directory(part)
    return fingerprint(root), ()
