"""Draft -> Signed: the signatures of the people who answer for a bundle.

`sign` adds the signature of every targets key at hand to targets and to each role under it, so that signers on
different machines each run it once; a role file that was taken over from the last sealed bundle stays as it is.
`sign_as_holder` does so where no trust directory is, with the keys of one person and the root that lies in the draft;
`merge` joins what copies of a draft carry. What a site would refuse is not signed. Signing again changes nothing; a
sealed bundle takes no further signature, because one would break its seal. Each signature is in the custody log first,
where its key lies.

What is signed is shown before any key is opened: a signer who read the same on another machine knows that both sign
the same release, and that `install.sh` is the one whose SHA-256 stands on the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer
from tuf.api.metadata import Metadata, Root, Targets

from plugsky_bundles.atomic import write_file
from plugsky_bundles.cosigning import good_signatures, join
from plugsky_bundles.drafting import Draft, read_draft, sweep
from plugsky_bundles.errors import ExistsError, FingerprintDiffers, MetadataMissing
from plugsky_bundles.format import MAX_ROOT, MAX_TARGETS_METADATA, METADATA
from plugsky_bundles.key_cards import Holder
from plugsky_bundles.locks import locked
from plugsky_bundles.media import Bundle, open_bundle
from plugsky_bundles.metadata import key_names, read_metadata, serialise, sign_with
from plugsky_bundles.plain_files import read_plain
from plugsky_bundles.times import stamp
from plugsky_bundles.trustdir import TrustDir, check_roots, open_trust
from plugsky_bundles.walk import fingerprint


@dataclass(frozen=True, slots=True)
class ToSign:
    """What a signature on targets vouches for: `files` and `bytes` of the release, and the files `beside` them.

    `install_sha256` is what `sha256sum install.sh` says, None without one; `taken_over` the roles signed before.
    """

    channel: str
    version: int
    content_id: str
    files: int
    bytes: int
    beside: int
    install_sha256: str | None
    taken_over: tuple[str, ...]


Show = Callable[[ToSign], None]


def to_sign(found: Draft) -> ToSign:
    """What those who sign this draft vouch for."""
    return ToSign(
        found.channel,
        found.version,
        found.content_id,
        len(found.entries),
        sum(entry.length for entry in found.entries.values()),
        len(found.binds.files),
        found.binds.installer,
        tuple(role for role in found.metadata if role not in found.fresh),
    )


def unseen(_: ToSign) -> None:
    """For whom nobody looks at what is signed."""


@dataclass(frozen=True, slots=True)
class Signed:
    """Who signed now (`added`) and who has signed every role file (`signers`), by the names of their keys.

    `missing_signers` may still sign; `root_fingerprint` is that of the root under which it counts.
    """

    channel: str
    version: int
    content_id: str
    added: tuple[str, ...]
    signers: tuple[str, ...]
    threshold: int
    missing_signers: tuple[str, ...]
    root_fingerprint: str
    install_sha256: str | None

    @property
    def present(self) -> int:
        """How many signatures every role file has."""
        return len(self.signers)

    @property
    def missing(self) -> int:
        """How many more must sign before the bundle can be sealed."""
        return max(0, self.threshold - self.present)


def sign(
    bundle_dir: Path,
    trust_dir: Path,
    passphrase: bytes,
    key_names: Collection[str] | None = None,
    *,
    now: datetime | None = None,
    show: Show = unseen,
) -> Signed:
    """Sign targets and every delegated role with every targets key in `trust_dir` that opens, or with the named ones.

    Raises what `TrustDir.open_keys` and `read_draft` raise, and ExistsError for a sealed bundle that lacks one of ours.
    """
    with _alone(bundle_dir):
        now = now or datetime.now(UTC)
        trust = open_trust(trust_dir)
        sweep(bundle_dir)
        bundle = open_bundle(bundle_dir)
        found = read_draft(bundle, trust.root)
        show(to_sign(found))
        signers = trust.open_keys("targets", passphrase, key_names)

        def note(added: Collection[str], first: bool) -> None:
            trust.log(passphrase, _records(found, trust.key_names(added), first, now))

        return _sign(bundle, found, trust.root_bytes, signers, note)


def sign_as_holder(
    bundle_dir: Path,
    holder: Holder,
    names: Collection[str] | None = None,
    *,
    pin: str | None = None,
    show: Show = unseen,
) -> Signed:
    """Sign a draft, or a copy of one, with the keys of one person, under the root that lies in the draft.

    `pin`: the fingerprint of the root, from the paper; another one is refused. Without it the caller shows
    `root_fingerprint`, for the signer to compare: who made the draft chose that root.
    """
    with _alone(bundle_dir):
        sweep(bundle_dir)
        bundle = open_bundle(bundle_dir)
        root, data = root_of(bundle)
        if pin is not None and fingerprint(data) != pin:
            raise FingerprintDiffers(
                f"{bundle_dir} was built under another root than the paper names",
                f"its root is {fingerprint(data)}",
                "Do not sign it; ask who built it",
            )
        found = read_draft(bundle, root)
        show(to_sign(found))
        signers = holder.signers(root.roles["targets"].keyids, names)
        return _sign(bundle, found, data, signers, lambda *_: None)


def merge(
    bundle_dir: Path, copies: Sequence[Path], trust: TrustDir | None, passphrase: Callable[[], bytes], now: datetime
) -> Signed:
    """Join the signatures that copies of a draft carry; of a copy only its `metadata/` need be there.

    Every signature of every copy is checked first. With the trust directory of the build machine, which writes its
    custody log, the root is that one's. Raises OtherContent, SignatureUnknown, SignatureInvalid, NotFound, and
    ExistsError for a sealed bundle to which a copy would add one.
    """
    with _alone(bundle_dir):
        sweep(bundle_dir)
        bundle = open_bundle(bundle_dir)
        root, data = root_of(bundle) if trust is None else (trust.root, trust.root_bytes)
        found = read_draft(bundle, root)
        first = not any(metadata.signatures for metadata in found.fresh.values())
        added: set[str] = set()
        for role, metadata in found.fresh.items():
            name = found.file(role)
            carried = {f"{copy / name}": _role_file(copy / name) for copy in copies}
            added.update(join(metadata, carried, [root], "targets", f"{bundle_dir / name}"))
        if added:
            if trust is not None and trust.holds("snapshot") and not bundle.sealed:
                trust.log(passphrase(), _records(found, trust.key_names(added), first, now))
            _write(bundle, found, found.fresh)
        return _signed(found, root, data, added)


@contextmanager
def _alone(bundle_dir: Path) -> Iterator[None]:
    """One signer at a time: of two who read the same signatures, the second to write would lose the first's."""
    if not bundle_dir.is_dir():  # opening it says what is wrong
        yield
        return
    with locked(bundle_dir, f"The bundle {bundle_dir} is in use", "somebody else signs or merges it"):
        yield


def root_of(bundle: Bundle) -> tuple[Root, bytes]:
    """The newest root in a draft, which its own people signed, and its bytes. Trusts nobody."""
    prefix, suffix = f"{METADATA}/", ".root.json"
    numbers = [
        int(number)
        for name in bundle.files
        if name.startswith(prefix)
        and name.endswith(suffix)
        and (number := name.removeprefix(prefix).removesuffix(suffix)).isdecimal()
    ]
    if not numbers:
        raise MetadataMissing(f"{bundle.path} has no root", "nothing says who may sign it", "Copy the draft again")
    data = bundle.read(f"{prefix}{max(numbers)}{suffix}", limit=MAX_ROOT)
    return check_roots([data], bundle.path / METADATA, first=max(numbers)), data


def _sign(
    bundle: Bundle,
    found: Draft,
    root: bytes,
    signers: Iterable[Signer],
    note: Callable[[Collection[str], bool], None],
) -> Signed:
    signed_root: Root = read_metadata(root, Root, "The root").signed
    for role, metadata in found.metadata.items():
        good_signatures([signed_root], "targets", metadata, found.file(role))
    first = not any(metadata.signatures for metadata in found.fresh.values())
    new = {role: sign_with(metadata, signers) for role, metadata in found.fresh.items()}
    added = {keyid for keyids in new.values() for keyid in keyids}
    if added:
        if not bundle.sealed:
            note(added, first)
        _write(bundle, found, [role for role in found.fresh if new[role]])
    return _signed(found, signed_root, root, added)


def _write(bundle: Bundle, found: Draft, roles: Iterable[str]) -> None:
    if bundle.sealed:
        raise ExistsError(
            f"{bundle.path} is sealed", "a signature added now would break its seal", "Sign before sealing"
        )
    for role in roles:
        write_file(bundle.path / found.file(role), serialise(found.metadata[role]), mode=0o644)


def _signed(found: Draft, root: Root, data: bytes, added: Collection[str]) -> Signed:
    names = key_names(root, "The root")
    role = root.roles["targets"]
    everyone = set.intersection(*(set(metadata.signatures) for metadata in found.fresh.values()))

    def named(keyids: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(names.get(keyid, keyid) for keyid in keyids))

    return Signed(
        found.channel,
        found.version,
        found.content_id,
        named(added),
        named(everyone),
        role.threshold,
        named(set(role.keyids) - everyone),
        fingerprint(data),
        found.binds.installer,
    )


def _role_file(path: Path) -> Metadata[Targets]:
    return read_metadata(read_plain(path, MAX_TARGETS_METADATA, "Name whole copies of this draft"), Targets, f"{path}")


def _records(found: Draft, added: Collection[str], first: bool, now: datetime) -> list[dict[str, Any]]:
    """The lines of the custody log: the first signature also tells of the build."""
    build = [{"event": "bundle.build", "at": found.built, **found.identity}] if first else []
    return [*build, {"event": "bundle.sign", "at": stamp(now), **found.identity, "signers": list(added)}]
