"""The operator's trust directory: keys, the chain of roots, what each channel last sealed, and the custody log.

```
keys/<name>.pem            private keys, encrypted, 0600; a signer's own machine holds only that signer's
metadata/<n>.root.json     every root since the first
channels/<channel>.json    the newest sealed bundle of a channel
custody.jsonl              the hash-chained log of what was done, signed with the snapshot key
```
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys
from plugsky_bundles.atomic import write_file
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.errors import KeyUnusable, NotFound, PassphraseError
from plugsky_bundles.format import MAX_ROOT, check_channel, check_version, is_sha256
from plugsky_bundles.metadata import check_root, key_names, read_metadata
from plugsky_bundles.strict_json import encode, malformed, parse_object
from plugsky_bundles.times import parse_stamp

KEYS: Final = "keys"
ROOTS: Final = "metadata"
CHANNELS: Final = "channels"
CUSTODY_LOG: Final = "custody.jsonl"
CHANNEL_SCHEMA: Final = "plugsky.channel/1"
ORIGIN: Final = "trust"
_MAX_RECORD: Final = 65_536


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """The newest bundle of a channel that this trust directory sealed; `sealed_at` as in metadata."""

    channel: str
    version: int
    bundle_id: str
    content_id: str
    sealed_at: str


@dataclass(frozen=True, slots=True)
class TrustDir:
    """An opened trust directory; `roots` are the files in order, `root` the newest, `names` its keyids by name."""

    path: Path
    roots: tuple[bytes, ...]
    root: Root
    names: dict[str, str]

    @property
    def root_bytes(self) -> bytes:
        return self.roots[-1]

    def keyids(self, role: str) -> list[str]:
        return list(self.root.roles[role].keyids)

    def open_keys(self, role: str, passphrase: bytes, names: Collection[str] | None = None) -> list[CryptoSigner]:
        """The keys of a role that lie here and open; with `names`, exactly those.

        Raises NotFound for a name that is not a key of the role or does not lie here, PassphraseError when no key opens
        (or one that was named does not), KeyUnusable when none lies here or a file holds another key than the root's.
        """
        by_name = {self.names.get(keyid, keyid): keyid for keyid in self.keyids(role)}
        for name in names or ():
            if name not in by_name:
                raise NotFound(
                    f"There is no {role} key {name!r}", f"the root names {', '.join(by_name)}", "Check the name"
                )
        wanted = by_name if names is None else {name: by_name[name] for name in names}
        opened: list[CryptoSigner] = []
        locked: PassphraseError | None = None
        for name, keyid in wanted.items():
            path = self.path / KEYS / f"{name}.pem"
            if names is None and not path.exists():
                continue
            try:
                signer = keys.load(path, passphrase)
            except PassphraseError as error:
                if names is not None:
                    raise
                locked = locked or error
                continue
            if signer.public_key.keyid != keyid:
                raise KeyUnusable(
                    f"{path} is the wrong key", f"the root knows {name} as {keyid}", "Restore it from its copy"
                )
            opened.append(signer)
        if not opened and locked is not None:
            raise locked
        if not opened:
            raise KeyUnusable(
                f"No {role} key lies in {self.path / KEYS}",
                "signing needs one",
                "Run this where its holder keeps the key",
            )
        return opened

    def custody(self, passphrase: bytes) -> ChainWriter:
        """The custody log, open for writing; needs the snapshot key."""
        (signer, *_) = self.open_keys("snapshot", passphrase)
        return ChainWriter(self.path / CUSTODY_LOG, signer, ORIGIN)

    def log(self, passphrase: bytes, records: Iterable[Mapping[str, Any]]) -> None:
        """Write to the custody log. A signer's own machine holds no custodian's key: there, only sealing is logged."""
        if not self.holds("snapshot"):
            return
        with self.custody(passphrase) as custody:
            for record in records:
                custody.append(record)

    def key_names(self, keyids: Collection[str]) -> tuple[str, ...]:
        """What people call these keys, sorted."""
        return tuple(sorted(self.names.get(keyid, keyid) for keyid in keyids))

    def holds(self, role: str) -> bool:
        """Whether any key of the role lies here."""
        return any((self.path / KEYS / f"{self.names.get(k, k)}.pem").exists() for k in self.keyids(role))

    def channel(self, channel: str) -> ChannelRecord | None:
        """What was last sealed for `channel`, if anything. Raises MalformedMetadata for an unreadable record."""
        path = self._channel_path(channel)
        what = f"{path}"
        try:
            members = parse_object(path.read_bytes(), what, limit=_MAX_RECORD)
        except FileNotFoundError:
            return None
        if members.pop("schema", None) != CHANNEL_SCHEMA or set(members) != set(ChannelRecord.__slots__):
            raise malformed(what, f"it is not a {CHANNEL_SCHEMA}")
        record = ChannelRecord(**members)
        check_version(record.version)
        parse_stamp(record.sealed_at, what)
        if record.channel != channel or not is_sha256(record.bundle_id) or not is_sha256(record.content_id):
            raise malformed(what, "its channel or its ids are not usable")
        return record

    def record_channel(self, record: ChannelRecord) -> None:
        path = self._channel_path(record.channel)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        fields: dict[str, Any] = {name: getattr(record, name) for name in ChannelRecord.__slots__}
        write_file(path, encode({"schema": CHANNEL_SCHEMA, **fields}) + b"\n")

    def next_version(self, channel: str) -> int:
        """The version after the last one sealed for `channel`; 1 for a new channel."""
        record = self.channel(channel)
        return 1 if record is None else record.version + 1

    def _channel_path(self, channel: str) -> Path:
        return self.path / CHANNELS / f"{check_channel(channel)}.json"


def open_trust(path: Path) -> TrustDir:
    """Open a trust directory. Raises NotFound, or MalformedMetadata or BadKey for a root that cannot be used."""
    roots: list[bytes] = []
    while (file := path / ROOTS / f"{len(roots) + 1}.root.json").is_file():
        with file.open("rb") as stream:
            roots.append(stream.read(MAX_ROOT + 1))
    if not roots:
        raise NotFound(f"There is no trust directory at {path}", "it has no root", "Run `plugsky trust init --out DIR`")
    what = f"{path / ROOTS / f'{len(roots)}.root.json'}"
    metadata: Metadata[Root] = read_metadata(roots[-1], Root, what)
    check_root(metadata.signed, what)
    return TrustDir(path, tuple(roots), metadata.signed, key_names(metadata.signed, what))
