"""Root n -> root n + 1: people come and go, thresholds change, keys of the build machine are made anew.

The next root waits for signatures (`waiting`): by the threshold of the root before it, so that the people whom every
site trusts agree, and by its own, so that its keys are known to work. What bundles need is signed by building again:
drafts of before are not, and bundles that were sealed before stay what they were.

New keys of the build machine are made here. They also let a site forget versions that were driven up by whoever had
the old ones (`recovery`). The old snapshot key stays: it signed the custody log, which the new one continues.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys, waiting
from plugsky_bundles.ceremony import PEOPLE, ROOT_LIFETIME, bind, check_threshold, public_key
from plugsky_bundles.errors import ExistsError, NotFound, PassphraseError, Revoked
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.metadata import key_names
from plugsky_bundles.revoking import load as load_revocations
from plugsky_bundles.times import whole_seconds
from plugsky_bundles.trustdir import KEYS, WAITING, TrustDir, open_trust
from plugsky_bundles.waiting import WaitingRoot

MACHINE: Final = ("snapshot", "timestamp")


@dataclass(frozen=True, slots=True)
class RootChanges:
    """What the next root does otherwise.

    `add` and `thresholds` by role; `remove` are names or ids of keys, taken from every role that has them; `renew` are
    the roles of the build machine that get a new key; `lifetime` from now on.
    """

    add: Mapping[str, Sequence[KeyCard]] = field(default_factory=dict)
    remove: Collection[str] = ()
    thresholds: Mapping[str, int] = field(default_factory=dict)
    renew: Collection[str] = ()
    lifetime: timedelta = ROOT_LIFETIME


def next_root(root: Root, changes: RootChanges, renewed: Mapping[str, KeyCard], now: datetime) -> Root:
    """The root after `root`, unsigned. `renewed` are the new keys of the roles to renew. Pure.

    Raises NotFound for a key to remove that no role of people has, BadThreshold or AmbiguousKeys for what cannot be.
    """
    names = key_names(root, "The root")
    held = {
        role: [KeyCard(names.get(keyid, keyid), public_key(root.keys[keyid])) for keyid in root.roles[role].keyids]
        for role in (*PEOPLE, *MACHINE)
    }
    known = {word for role in PEOPLE for card in held[role] for word in (card.name, card.keyid)}
    for word in changes.remove:
        if word not in known:
            raise NotFound(f"There is no key {word!r} to remove", f"people hold {_named(held)}", "Check the name")
    for role in PEOPLE:
        kept = [card for card in held[role] if card.name not in changes.remove and card.keyid not in changes.remove]
        held[role] = [*kept, *changes.add.get(role, ())]
    held |= {role: [card] for role, card in renewed.items()}
    thresholds = {role: changes.thresholds.get(role, root.roles[role].threshold) for role in held}
    for role in PEOPLE:
        check_threshold(role, len(held[role]), thresholds[role])
    return bind(held, thresholds, version=root.version + 1, expires=whole_seconds(now) + changes.lifetime)


def rotate(trust_dir: Path, passphrase: bytes, changes: RootChanges, now: datetime) -> WaitingRoot | TrustDir:
    """Make the next root of a trust directory, signed with the root keys that lie here and open.

    It is finished at once when that is enough, and waits otherwise. Raises ExistsError while another one waits, Revoked
    for a key that must never be accepted again, and what `next_root` raises.
    """
    trust = open_trust(trust_dir)
    if waiting.is_waiting(trust_dir):
        raise ExistsError(
            f"Root {trust.root.version + 1} waits for signatures already",
            "two roots of one number cannot both be",
            "Finish it by `plugsky trust merge`, or drop it by `plugsky trust rotate --cancel`",
        )
    revoked = load_revocations(trust_dir).keys
    for card in (card for group in changes.add.values() for card in group):
        if card.keyid in revoked:
            raise Revoked(f"The key of {card.name} has been revoked", "its id is on the list", "Have a new one made")
    signers = {role: keys.generate(_scheme(trust.root, role)) for role in changes.renew}
    renewed = {
        role: KeyCard(_free(trust_dir, f"{role}-{trust.root.version + 1}"), signer.public_key)
        for role, signer in signers.items()
    }
    root = next_root(trust.root, changes, renewed, now)
    for role, signer in signers.items():
        keys.save(trust_dir / KEYS / f"{renewed[role].name}.pem", signer, passphrase)
    found = waiting.put(trust_dir, Metadata(root), trust.root_bytes)
    waiting.sign(found, at_hand(trust_dir, found, passphrase))
    return waiting.finish(trust_dir, passphrase, now) if found.complete else found


def at_hand(
    trust_dir: Path, found: WaitingRoot, passphrase: bytes, only: Collection[str] | None = None
) -> list[CryptoSigner]:
    """The keys in a trust directory that may sign the root that waits there, and that open; perhaps none.

    `only`: no other than those of these names.
    """
    opened = []
    names = found.names
    for keyid in sorted(found.keyids):
        name = names.get(keyid, keyid)
        path = trust_dir / KEYS / f"{name}.pem"
        if not path.exists() or (only is not None and name not in only):
            continue
        try:
            signer = keys.load(path, passphrase)
        except PassphraseError:
            continue
        if signer.public_key.keyid == keyid:
            opened.append(signer)
    return opened


def cancel(trust_dir: Path) -> int:
    """Drop the root that waits, and the keys that were made for it; its version. The first root cannot be dropped."""
    trust = open_trust(trust_dir)
    found = waiting.find(trust_dir)
    for keyid in found.root.keys.keys() - trust.root.keys.keys():
        name = found.names.get(keyid, keyid)
        if any(keyid in found.root.roles[role].keyids for role in MACHINE):
            (trust_dir / KEYS / f"{name}.pem").unlink(missing_ok=True)
    shutil.rmtree(trust_dir / WAITING)
    return found.version


def _scheme(root: Root, role: str) -> str:
    """What the key that is replaced has."""
    (keyid, *_) = root.roles[role].keyids
    return str(root.keys[keyid].scheme)


def _free(trust_dir: Path, name: str) -> str:
    """A name under which no key lies yet: none is ever overwritten."""
    number, free = 1, name
    while (trust_dir / KEYS / f"{free}.pem").exists():
        number += 1
        free = f"{name}.{number}"
    return free


def _named(held: Mapping[str, Sequence[KeyCard]]) -> str:
    return ", ".join(sorted({card.name for role in PEOPLE for card in held[role]}))
