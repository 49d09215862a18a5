"""A root on its way: unsigned -> signed by enough people -> finished, and from then on never touched again.

The fingerprint on paper is the SHA-256 of the root's file, signatures included; so it exists only once the last
signature is in. Until then the root lies apart, where nothing can build or seal with it:

```
waiting/<n>.root.json      the root that waits for signatures
waiting/<n-1>.root.json    the finished root before it, whose people must sign too; absent for the first
```

That directory holds nothing secret and everything that a signer needs: copies of it are carried to the machines of the
holders and merged when they come back. **Only the build machine finishes a root**: the trust directory whose snapshot
key opens moves it to `metadata/`, writes its fingerprint into the custody log, and prints it. A finished root takes no
further signature, here or from a copy: one more would be another file with another fingerprint. So there is one
fingerprint of a root, and it is told in one place.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Root

from plugsky_bundles import keys
from plugsky_bundles.atomic import out_of_space, sync_directory, write_file
from plugsky_bundles.cosigning import good_signatures, join
from plugsky_bundles.errors import ExistsError, NotFound, OtherContent, RootWaiting, UntrustedRoot
from plugsky_bundles.format import MAX_ROOT
from plugsky_bundles.locks import locked
from plugsky_bundles.metadata import check_root, key_names, read_metadata, serialise, sign_with
from plugsky_bundles.plain_files import read_plain
from plugsky_bundles.strict_json import malformed
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import KEYS, ROOTS, WAITING, TrustDir, begin_custody, check_roots, open_trust
from plugsky_bundles.walk import fingerprint

_NAME = re.compile(r"([1-9][0-9]{0,9})\.root\.json", re.ASCII)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many of the people of one root have signed: `version` is that root's."""

    version: int
    signed: int
    threshold: int


@dataclass(frozen=True, slots=True)
class WaitingRoot:
    """A root that lies at `path`; `before` is the finished one that it follows, with the bytes of its file."""

    path: Path
    metadata: Metadata[Root]
    before: Root | None
    before_bytes: bytes | None

    @property
    def root(self) -> Root:
        return self.metadata.signed

    @property
    def version(self) -> int:
        return self.root.version

    @property
    def delegators(self) -> list[Root]:
        """The roots whose people must sign: the one before, and itself."""
        return [self.root] if self.before is None else [self.before, self.root]

    @property
    def keyids(self) -> frozenset[str]:
        """The keys that may sign."""
        return frozenset(keyid for root in self.delegators for keyid in root.roles["root"].keyids)

    @property
    def names(self) -> dict[str, str]:
        """What people call the keys of both roots."""
        before = {} if self.before is None else key_names(self.before, "The root before")
        return before | key_names(self.root, f"{self.path}")

    @property
    def tallies(self) -> tuple[Tally, ...]:
        return tuple(
            Tally(root.version, sum(k in self.metadata.signatures for k in role.keyids), role.threshold)
            for root in self.delegators
            for role in (root.roles["root"],)
        )

    @property
    def complete(self) -> bool:
        return all(tally.signed >= tally.threshold for tally in self.tallies)

    @property
    def signers(self) -> tuple[str, ...]:
        """Who has signed, by name."""
        return self.named(self.metadata.signatures)

    @property
    def missing(self) -> tuple[str, ...]:
        """Who may still sign, by name."""
        return self.named(self.keyids - self.metadata.signatures.keys())

    def named(self, keyids: Iterable[str]) -> tuple[str, ...]:
        names = self.names
        return tuple(sorted(names.get(keyid, keyid) for keyid in keyids))

    def explain(self) -> str:
        """How far it is, in words."""
        return " and ".join(f"{t.signed} of {t.threshold} signatures of root {t.version}" for t in self.tallies)


def put(trust_dir: Path, metadata: Metadata[Root], before: bytes | None) -> WaitingRoot:
    """Let a new root wait in `trust_dir`, beside the finished one before it."""
    folder = trust_dir / WAITING
    with out_of_space(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    if before is not None:
        write_file(folder / f"{metadata.signed.version - 1}.root.json", before)
    write_file(folder / f"{metadata.signed.version}.root.json", serialise(metadata))
    sync_directory(trust_dir)
    return find(trust_dir)


def is_waiting(path: Path) -> bool:
    """Whether a root waits at `path`, a trust directory or a copy of its `waiting/`. Reads no file."""
    newest = _newest(path / WAITING) or (_newest(path) if not (path / ROOTS).is_dir() else None)
    return newest is not None and newest[0] > len(_finished(path))


def find(path: Path) -> WaitingRoot:
    """The root that waits at `path`: a trust directory, or a copy of its `waiting/`, or the file itself.

    Every signature that it carries is checked. Raises NotFound where none waits, and the VerificationError of what is
    wrong: the root before it must be complete, and in a trust directory the one that it holds.
    """
    if not path.exists():
        raise NotFound(f"{path} is not there", "nothing has that name", "Check the path")
    if path.is_file():
        folder, version = path.parent, _number(path)
    else:
        folder = path / WAITING if (path / WAITING).is_dir() or (path / ROOTS).is_dir() else path
        newest = _newest(folder)
        version = 0 if newest is None else newest[0]
    finished = _finished(path)
    if version <= len(finished):
        raise NotFound(
            f"No root waits for signatures at {path}",
            f"root {len(finished)} is finished" if finished else "there is none",
            shlex.join(("plugsky", "trust", "show", f"{path}")),
        )
    file = folder / f"{version}.root.json"
    before = None if version == 1 else _read(folder / f"{version - 1}.root.json")
    if finished and finished[-1] != before:
        raise UntrustedRoot(f"{file} follows another root", "it is not made for this trust directory", "Make it again")
    if before is not None:
        check_roots([before], folder, first=version - 1)
    metadata = read_metadata(_read(file), Root, f"{file}")
    if metadata.signed.version != version:
        raise malformed(f"{file}", f"it says that it is version {metadata.signed.version}")
    check_root(metadata.signed, f"{file}")
    old = None if before is None else read_metadata(before, Root, "The root before").signed
    found = WaitingRoot(file, metadata, old, before)
    good_signatures(found.delegators, "root", metadata, f"{file}")
    return found


def sign(found: WaitingRoot, signers: Iterable[Signer]) -> tuple[str, ...]:
    """Add these signatures and say whose are new, by name. Raises ExistsError when it is complete without them."""
    was_complete = found.complete
    added = sign_with(found.metadata, signers)
    if added and was_complete:
        raise complete(found)
    if added:
        write_file(found.path, serialise(found.metadata))
    return found.named(added)


def merge(found: WaitingRoot, copies: Iterable[Path]) -> tuple[str, ...]:
    """Join the signatures that copies carry, and say whose are new, by name; see `cosigning.join`.

    A copy is a directory like `waiting/`, a trust directory in which the root waits, or a root file.
    """
    read = {f"{copy}": find(copy).metadata for copy in copies}
    added = join(found.metadata, read, found.delegators, "root", f"{found.path}")
    if added:
        write_file(found.path, serialise(found.metadata))
    return found.named(added)


def refuse_more(trust_dir: Path, copies: Iterable[Path]) -> None:
    """What merging into a finished root comes to: nothing, or ExistsError where a copy carries a signature more."""
    trust = open_trust(trust_dir)
    done: Metadata[Root] = read_metadata(trust.root_bytes, Root, "The root")
    for copy in copies:
        carried = find(copy).metadata
        if carried.signed_bytes != done.signed_bytes:
            raise OtherContent(
                f"{copy} is of something else",
                f"root {trust.root.version} is finished, and no root waits here",
                shlex.join(("plugsky", "trust", "show", f"{copy}")),
            )
        if carried.signatures.keys() - done.signatures.keys():
            raise ExistsError(
                f"Root {trust.root.version} is finished",
                f"the signature in {copy} came too late: one more would change the fingerprint on paper",
                "Leave it as it is",
            )


def finish(trust_dir: Path, passphrase: bytes, now: datetime) -> TrustDir:
    """Make the root that waits in `trust_dir` the one in force, if it is complete.

    The custody log has its fingerprint first. Raises RootWaiting below a threshold, PassphraseError or KeyUnusable
    without the snapshot key: a copy on another machine finishes nothing.
    """
    with locked(trust_dir, f"{trust_dir} is in use", "another command changes it"):
        found = find(trust_dir)
        if not found.complete:
            raise incomplete(found)
        data = serialise(found.metadata)
        record = {
            "at": stamp(now),
            "root_fingerprint": fingerprint(data),
            "version": found.version,
            "signers": list(found.signers),
        }
        if found.before is None:
            begin_custody(trust_dir, _snapshot_key(trust_dir, found, passphrase), found.root, record)
        else:
            _snapshot_key(trust_dir, found, passphrase)
            with open_trust(trust_dir).custody(passphrase) as custody:
                custody.append({"event": "trust.rotate", **record})
        (trust_dir / ROOTS).mkdir(exist_ok=True)
        write_file(trust_dir / ROOTS / found.path.name, data)
        shutil.rmtree(trust_dir / WAITING)
        sync_directory(trust_dir)
    return open_trust(trust_dir)


def incomplete(found: WaitingRoot) -> RootWaiting:
    """The refusal of a root below its threshold."""
    return RootWaiting(
        f"Root {found.version} waits for signatures",
        f"it has {found.explain()}; {', '.join(found.missing) or 'nobody'} may sign",
        "Carry a copy of waiting/ to them for `plugsky trust sign`, then `plugsky trust merge` the copies",
    )


def complete(found: WaitingRoot) -> ExistsError:
    """The refusal of a signature beyond what a root needs."""
    return ExistsError(
        f"Root {found.version} has all the signatures that it needs",
        "one more would change the fingerprint that goes on paper",
        "Merge it where it was begun: plugsky trust merge",
    )


def _snapshot_key(trust_dir: Path, found: WaitingRoot, passphrase: bytes) -> CryptoSigner:
    names = key_names(found.root, f"{found.path}")
    (keyid, *_) = found.root.roles["snapshot"].keyids
    signer = keys.load(trust_dir / KEYS / f"{names.get(keyid, keyid)}.pem", passphrase)
    if signer.public_key.keyid != keyid:
        raise malformed(f"{trust_dir / KEYS}", "its snapshot key is another one than the root's")
    return signer


def _finished(path: Path) -> list[bytes]:
    found: list[bytes] = []
    if path.is_dir():
        while (file := path / ROOTS / f"{len(found) + 1}.root.json").is_file():
            found.append(_read(file))
    return found


def _newest(folder: Path) -> tuple[int, Path] | None:
    if not folder.is_dir():
        return None
    return max(((int(m[1]), file) for file in folder.iterdir() if (m := _NAME.fullmatch(file.name))), default=None)


def _number(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    if match is None:
        raise NotFound(f"{file} is no root", "its name is not like 1.root.json", "Name the directory that was carried")
    return int(match[1])


def _read(file: Path) -> bytes:
    return read_plain(file, MAX_ROOT, "Copy the whole of waiting/")
