"""The operator's trust directory: keys, the chain of roots, what each channel last sealed, and the custody log.

```
keys/<name>.pem            private keys, encrypted, 0600; a signer's own machine holds only that signer's
metadata/<n>.root.json     every finished root since the first
waiting/                   a root that waits for signatures (see waiting)
channels/<channel>.json    the newest sealed bundle of a channel
revocations.json           what must never be accepted again; only grows
enrolled.json              keys of sites (see enrolment)
custody.jsonl              the hash-chained log of what was done, signed with the snapshot key
custody.<keyid>.jsonl      the logs that earlier snapshot keys signed, each continued by the next
```

Only finished roots are ever opened: each signed by its own threshold and by that of the root before.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys
from plugsky_bundles.atomic import sync_directory, write_file
from plugsky_bundles.chain import ChainWriter
from plugsky_bundles.chain_lines import MAX_LINE, read_genesis, read_line
from plugsky_bundles.chain_verify import verify_chain
from plugsky_bundles.errors import KeyUnusable, NotFound, PassphraseError, RootWaiting, VerificationError
from plugsky_bundles.format import MAX_ROOT, check_channel, check_version, is_sha256
from plugsky_bundles.metadata import check_root, count_signatures, key_names, read_metadata
from plugsky_bundles.strict_json import encode, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp
from plugsky_bundles.walk import fingerprint

KEYS: Final = "keys"
ROOTS: Final = "metadata"
WAITING: Final = "waiting"
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
        """The custody log, open for writing; needs the snapshot key. A log of an earlier snapshot key is continued."""
        (signer, *_) = self.open_keys("snapshot", passphrase)
        begun_by = _log_key(self.path / CUSTODY_LOG)
        if begun_by not in (None, signer.public_key.keyid) and begun_by in self._former("snapshot"):
            self._continue_custody(str(begun_by), signer)
        return ChainWriter(self.path / CUSTODY_LOG, signer, ORIGIN)

    def _former(self, role: str) -> frozenset[str]:
        """The keyids that a role had in any root."""
        roots = (read_metadata(data, Root, "A root").signed for data in self.roots)
        return frozenset(keyid for root in roots for keyid in root.roles[role].keyids)

    def _continue_custody(self, former: str, signer: CryptoSigner) -> None:
        """Keep the log of a former key beside, and begin one that names its end."""
        log, kept = self.path / CUSTODY_LOG, self.path / f"custody.{former[:16]}.jsonl"
        new = self.path / f".{CUSTODY_LOG}.part"
        head = verify_chain(log, {former}).head
        new.unlink(missing_ok=True)
        at = stamp(datetime.now(UTC))
        continues = {"keyid": former, "seq": head.seq, "head": head.hash}
        with ChainWriter(new, signer, ORIGIN) as custody:
            first = {"event": "trust.init", "at": at, "root_fingerprint": fingerprint(self.roots[0])}
            custody.append({**first, "continues": continues})
            newest = {"version": self.root.version, "root_fingerprint": fingerprint(self.root_bytes)}
            custody.append({"event": "trust.rotate", "at": at, **newest})
        if not kept.exists():
            os.link(log, kept)
        new.replace(log)
        sync_directory(self.path)

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

    def lying_here(self, role: str) -> frozenset[str]:
        """The ids of those keys of the role that lie here."""
        return frozenset(k for k in self.keyids(role) if (self.path / KEYS / f"{self.names.get(k, k)}.pem").exists())

    def holds(self, role: str) -> bool:
        """Whether any key of the role lies here."""
        return bool(self.lying_here(role))

    def elsewhere(self, signed: Collection[str] = ()) -> tuple[str, ...]:
        """Whose signatures a release needs from other machines, by name; nobody's where the keys here are enough.

        `signed` are the ids of those who signed already.
        """
        here = self.lying_here("targets") | set(signed)
        if len(here) >= self.root.roles["targets"].threshold:
            return ()
        return self.key_names(set(self.keyids("targets")) - here)

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
    """Open a trust directory.

    Raises NotFound; RootWaiting when its first root still waits for signatures; MalformedMetadata, BadKey or the error
    of a missing signature for a root that cannot be used.
    """
    roots: list[bytes] = []
    while (file := path / ROOTS / f"{len(roots) + 1}.root.json").is_file():
        with file.open("rb") as stream:
            roots.append(stream.read(MAX_ROOT + 1))
    if not roots and (path / WAITING).is_dir():
        raise RootWaiting(
            f"The first root of {path} waits for signatures",
            "too few of its people have signed, so nothing can be built or sealed with it yet",
            "Have them run `plugsky trust sign` on copies of its waiting/, then merge them by `plugsky trust merge`",
        )
    if not roots:
        raise NotFound(f"There is no trust directory at {path}", "it has no root", "Run `plugsky trust init --out DIR`")
    root = check_roots(roots, path / ROOTS)
    return TrustDir(path, tuple(roots), root, key_names(root, f"{path / ROOTS / f'{len(roots)}.root.json'}"))


def check_roots(roots: Sequence[bytes], folder: Path, *, first: int = 1) -> Root:
    """The last of these root files, if each is signed by its own threshold and by that of the one before.

    `first` is the version of the first, which is taken at its own word; `folder` names them in errors.
    """
    before: Root | None = None
    for number, data in enumerate(roots, start=first):
        what = f"{folder / f'{number}.root.json'}"
        metadata: Metadata[Root] = read_metadata(data, Root, what)
        root = metadata.signed
        if root.version != number:
            raise malformed(what, f"it says that it is version {root.version}")
        check_root(root, what)
        count_signatures([root] if before is None else [before, root], "root", metadata, what)
        before = root
    if before is None:
        msg = "there is no root to check"
        raise ValueError(msg)
    return before


def begin_custody(path: Path, signer: CryptoSigner, root: Root, record: Mapping[str, Any]) -> None:
    """Begin the custody log of a trust directory with the first root that is in force."""
    roles = {name: sorted(role.keyids) for name, role in root.roles.items()}
    with ChainWriter(path / CUSTODY_LOG, signer, ORIGIN) as custody:
        custody.append({"event": "trust.init", **record, "keys": roles})


def _log_key(log: Path) -> str | None:
    """The key that began a log, None where there is none that can be read: opening it says what is wrong."""
    try:
        with log.open("rb") as file:
            return read_genesis(read_line(file.readline(MAX_LINE + 1)))[0].keyid
    except (FileNotFoundError, VerificationError):
        return None
