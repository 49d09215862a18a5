"""What a holder of a key shows of it, a card with a name and the public key, and the directory where the key is kept.

A card is canonical JSON: `{"key":{"keyid","keytype","public","scheme"},"name","schema":"plugsky.key-card/1"}`.
Its fingerprint is the SHA-256 of its file, so that `sha256sum` on any machine, and a voice on the telephone, can say
that the card that arrived is the one that was made. It binds the name as well as the key: the name is what people
are told of a signature.

```
<name>.pem          the private key, encrypted, 0600; or
<name>.hsm.json     where in a hardware security module it is (see hsm)
<name>.card.json    the card, to be given to whoever binds keys to roles
```
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from securesystemslib.signer import CryptoSigner, Signer, SSlibKey

from plugsky_bundles import keys
from plugsky_bundles.atomic import out_of_space, write_file
from plugsky_bundles.errors import ExistsError, FingerprintDiffers, KeyUnusable, NotFound, PassphraseError, UnsafeName
from plugsky_bundles.format import is_sha256
from plugsky_bundles.plain_files import read_plain
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object

CARD_SCHEMA: Final = "plugsky.key-card/1"
CARD: Final = ".card.json"
HSM: Final = ".hsm.json"
MAX_CARD: Final = 4096
OpenHsm = Callable[[Path, SSlibKey], Signer]
"""Opens the key that an `.hsm.json` file describes; raises KeyUnusable unless it is the one on the card."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeyCard:
    """A public key and what people call its holder."""

    name: str
    key: SSlibKey

    @property
    def keyid(self) -> str:
        return self.key.keyid

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the card's file."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        return encode(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {"schema": CARD_SCHEMA, "name": self.name, "key": keys.public_dict(self.key)}

    @classmethod
    def from_json(cls, data: bytes, what: str = "A key card") -> Self:
        """Read a card exactly. Raises MalformedMetadata, BadKey or UnsafeName."""
        members = parse_object(data, what, limit=MAX_CARD)
        if not is_canonical(data, members):
            raise malformed(what, "it is not written in its canonical form")
        return cls.from_dict(members, what)

    @classmethod
    def from_dict(cls, members: Any, what: str) -> Self:
        if not isinstance(members, dict) or set(members) != {"schema", "name", "key"}:
            raise malformed(what, "it must have exactly schema, name and key")
        if members["schema"] != CARD_SCHEMA:
            raise malformed(what, f"it is not a {CARD_SCHEMA}")
        return cls(check_name(members["name"]), keys.public_from_dict(members["key"]))


def read_card(path: Path) -> KeyCard:
    """The card at `path`. Raises NotFound, MalformedMetadata, BadKey or UnsafeName."""
    return KeyCard.from_json(read_plain(path, MAX_CARD, "Check the path of the card"), f"{path}")


def check_fingerprint(card: KeyCard, fingerprint: str) -> None:
    """Refuse a card that is not the one whose fingerprint was told. Raises FingerprintDiffers."""
    if fingerprint == card.keyid:
        raise FingerprintDiffers(
            f"That is the id of {card.name}'s key, and not the fingerprint of the card",
            "a key id says nothing of the name on the card",
            "Ask the holder for the fingerprint that `plugsky trust card` shows there",
        )
    if not is_sha256(fingerprint) or card.fingerprint != fingerprint:
        raise FingerprintDiffers(
            f"The card of {card.name} is another one than was told",
            f"its fingerprint is {card.fingerprint}",
            "Ask the holder to read out the fingerprint of the card that they made",
        )


def check_name(name: Any) -> str:
    """`name`, if it can be that of a key: 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise UnsafeName(
            f"{name!r} cannot be the name of a key",
            "it has 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit",
            "Choose another name",
        )
    return name


def make_key(name: str, out: Path, passphrase: bytes, scheme: str = keys.ED25519) -> KeyCard:
    """Make a holder's key in `out`, encrypted, and its card.

    Raises ExistsError, PassphraseError, UnsafeName or NoSpace.
    """
    check_free(name, out)
    signer = keys.generate(scheme)
    pem = keys.private_pem(signer, passphrase)
    with out_of_space(out):
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_file(out / f"{name}.pem", pem, mode=0o600)
    return write_card(out, KeyCard(name, signer.public_key))


def write_card(out: Path, card: KeyCard) -> KeyCard:
    write_file(out / f"{card.name}{CARD}", card.to_json())
    return card


def check_free(name: str, out: Path) -> None:
    """Refuse to make a key where one of this name is: a key that is overwritten is lost."""
    check_name(name)
    for ending in (".pem", HSM, CARD):
        if (out / f"{name}{ending}").exists() or (out / f"{name}{ending}").is_symlink():
            raise ExistsError(
                f"{out / f'{name}{ending}'} is there already", "no key is ever overwritten", "Choose another name"
            )


def _short(keyids: Collection[str]) -> str:
    return ", ".join(sorted(keyid[:16] for keyid in keyids)) or "none"


@dataclass(frozen=True, slots=True)
class Holder:
    """A directory of someone's keys, and what opens them: a passphrase, or the means to reach a hardware module.

    `passphrase` is asked only when an encrypted key is to be opened.
    """

    path: Path
    passphrase: Callable[[], bytes]
    open_hsm: OpenHsm | None = None

    def signers(self, wanted: Collection[str] | None, names: Collection[str] | None = None) -> list[Signer]:
        """The keys of `opened`, without their cards."""
        return [signer for _, signer in self.opened(wanted, names)]

    def opened(
        self, wanted: Collection[str] | None, names: Collection[str] | None = None
    ) -> list[tuple[KeyCard, Signer]]:
        """The keys here whose ids are `wanted` (None: all) and that open; with `names`, exactly those of these names.

        Raises NotFound for a name whose key is not here or not wanted, PassphraseError when no key opens (or one that
        was named does not), KeyUnusable when none here is wanted.
        """
        cards = {card.name: card for card in self._cards() if wanted is None or card.keyid in wanted}
        for name in names or ():
            if name not in cards:
                raise NotFound(
                    f"There is no key {name!r} in {self.path} that may sign this",
                    f"here are {', '.join(cards) or 'none'}",
                    "Check the name and the directory",
                )
        opened: list[tuple[KeyCard, Signer]] = []
        locked: PassphraseError | None = None
        for card in cards.values():
            if names is not None and card.name not in names:
                continue
            try:
                opened.append((card, self._open(card)))
            except PassphraseError as error:
                if names is not None:
                    raise
                locked = locked or error
        if not opened and locked is not None:
            raise locked
        if not opened:
            raise KeyUnusable(
                f"No key in {self.path} may sign this",
                f"the keys that may are {_short(wanted or ())}, and none of these has its card there",
                "Name the directory with the right key by --keys",
            )
        return opened

    def _cards(self) -> list[KeyCard]:
        if not self.path.is_dir():
            raise NotFound(f"There is no directory of keys at {self.path}", "it does not exist", "Check --keys")
        return [read_card(path) for path in sorted(self.path.glob(f"*{CARD}"))]

    def _open(self, card: KeyCard) -> Signer:
        module = self.path / f"{card.name}{HSM}"
        if module.exists():
            if self.open_hsm is None:
                raise KeyUnusable(
                    f"The key of {card.name} is in a hardware security module",
                    "no module was named",
                    "Add --hsm with the path of its PKCS#11 library",
                )
            return self.open_hsm(module, card.key)
        path = self.path / f"{card.name}.pem"
        signer: CryptoSigner = keys.load(path, self.passphrase())
        if signer.public_key.keyid != card.keyid:
            raise KeyUnusable(
                f"{path} is the wrong key", f"the card of {card.name} says {card.keyid}", "Restore it from its copy"
            )
        return signer
