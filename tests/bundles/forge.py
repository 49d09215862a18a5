"""A maker of right and wrong bundles: real keys, real metadata, tiny payloads.

`Forge` builds a whole small bundle in a fraction of a second. Wrong ones are made from it with `alter`, which rewrites
one metadata file and signs again everything that a holder of all keys would have to sign, so that a test reaches the
check it is about.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from plugsky_builder import prepare
from plugsky_builder.pack import Material
from plugsky_builder.work import carry_out
from plugsky_bundles import ceremony, enrolment, gguf, keys, receipt, revoking, sealing, signing
from plugsky_bundles.drafting import write_draft
from plugsky_bundles.errors import GgufError
from plugsky_bundles.format import ROLES, Chunk, FileEntry, blob_path, bundle_dirname
from plugsky_bundles.kept import Kept
from plugsky_bundles.media import missing
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust

PASSPHRASE = b"correct horse"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
LIFETIME = timedelta(days=90)

MODEL = b"GGUF" + bytes(range(256)) * 8
FILES: Mapping[str, bytes] = {
    "models/tiny/tiny.gguf": MODEL,
    "models/tiny/LICENSE": b"Apache-2.0\n",
    "python/plugsky-0.1.0-py3-none-any.whl": b"PK wheel",
    "playbooks/preflight.yml": b"- hosts: all\n",
    "policy/channel.json": b'{"channel":"demo"}',
}
CUT = {"models/tiny/tiny.gguf": (1000, 1000, len(MODEL) - 2000)}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def material(path: str, data: bytes) -> Material:
    """A file for the builder; a well-formed GGUF is cut like one."""
    with contextlib.suppress(GgufError):
        return dataclasses.replace(Material.of_bytes(path, data), gguf=gguf.read(io.BytesIO(data), len(data)))
    return Material.of_bytes(path, data)


def put_blob(bundle: Path, data: bytes) -> Chunk:
    chunk = Chunk(sha256(data), len(data))
    path = bundle / blob_path(chunk.sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return chunk


def put_file(bundle: Path, path: str, data: bytes, lengths: Iterable[int] = ()) -> FileEntry:
    """Write the blobs of one file, cut at `lengths` or whole, and describe it."""
    chunks, offset = [], 0
    for length in lengths:
        chunks.append(put_blob(bundle, data[offset : offset + length]))
        offset += length
    if not chunks:
        put_blob(bundle, data)
    return FileEntry(path, len(data), sha256(data), tuple(chunks))


@dataclass
class Forge:
    """A trust directory and the bundles made with it."""

    base: Path
    root_keys: int = 1
    root_threshold: int = 1
    targets_keys: int = 1
    targets_threshold: int = 1
    scheme: str = keys.ED25519

    def __post_init__(self) -> None:
        self.trust = self.base / "trust"
        self.init = ceremony.init(
            self.trust,
            PASSPHRASE,
            root_keys=self.root_keys,
            root_threshold=self.root_threshold,
            targets_keys=self.targets_keys,
            targets_threshold=self.targets_threshold,
            scheme=self.scheme,
            now=NOW,
        )
        self._signers: dict[str, list[CryptoSigner]] = {}

    @property
    def fingerprint(self) -> str:
        return self.init.fingerprint

    def signers(self, role: str) -> list[CryptoSigner]:
        """Every key that signs a role file, opened once."""
        owner = role if role in ("root", "snapshot", "timestamp") else "targets"
        if owner not in self._signers:
            self._signers[owner] = open_trust(self.trust).open_keys(owner, PASSPHRASE)
        return self._signers[owner]

    def draft(
        self,
        *,
        channel: str = "demo",
        version: int | None = None,
        files: Mapping[str, bytes] = FILES,
        revocations: Revocations | None = None,
        now: datetime = NOW,
        expires: datetime = NOW + LIFETIME,
        name: str | None = None,
        beside: Mapping[str, bytes] | None = None,
    ) -> Path:
        trust = open_trust(self.trust)
        version = version or trust.next_version(channel)
        bundle = self.base / (name or bundle_dirname(channel, version))
        bundle.mkdir()
        if revocations is not None:
            files = {**files, "policy/revocations.json": revocations.to_json()}
        entries = [put_file(bundle, path, data, CUT.get(path, ())) for path, data in files.items()]
        for path, data in {"README.txt": b"A bundle.\n", **(beside or {})}.items():
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            (bundle / path).write_bytes(data)
        write_draft(bundle, entries, channel=channel, version=version, root=trust.root_bytes, now=now, expires=expires)
        return bundle

    def sealed(self, *, now: datetime = NOW, **options: Any) -> Path:
        """A right bundle, ready to verify."""
        bundle = self.draft(now=now, **options)
        signing.sign(bundle, self.trust, PASSPHRASE, now=now)
        sealing.seal(bundle, self.trust, PASSPHRASE, now)
        return bundle

    def build(
        self,
        files: Mapping[str, bytes] = FILES,
        *,
        channel: str = "demo",
        since: bytes | None = None,
        revocations: Revocations | None = None,
        now: datetime = NOW,
        expires: datetime = NOW + LIFETIME,
    ) -> Path:
        """A draft as the builder makes it: it takes over what did not change, and may be a delta by receipt."""
        if revocations is not None:
            (self.trust / revoking.REVOKED).write_bytes(revocations.to_json())
        materials = [material(path, data) for path, data in files.items()]
        work = prepare.plan(open_trust(self.trust), channel, materials, now=now, expires=expires, since=since)
        return carry_out(work, self.base, None).path

    def sign(self, bundle: Path, now: datetime = NOW) -> None:
        signing.sign(bundle, self.trust, PASSPHRASE, now=now)

    def finish(self, bundle: Path, now: datetime = NOW) -> Path:
        """Sign and seal a draft."""
        self.sign(bundle, now)
        sealing.seal(bundle, self.trust, PASSPHRASE, now)
        return bundle

    def built(self, files: Mapping[str, bytes] = FILES, *, now: datetime = NOW, **options: Any) -> Path:
        """A sealed bundle that the builder made."""
        return self.finish(self.build(files, now=now, **options), now)

    def revocations_only(self, revocations: Revocations, *, channel: str = "demo", now: datetime = NOW) -> Path:
        """A sealed bundle that brings nothing but these revocations."""
        (self.trust / revoking.REVOKED).write_bytes(revocations.to_json())
        work = prepare.plan_revocations(open_trust(self.trust), channel, now=now, expires=now + LIFETIME)
        return self.finish(carry_out(work, self.base, None).path)

    def enrolled_site(self) -> CryptoSigner:
        """The key of a site that the trust directory knows."""
        if "site" not in self._signers:
            key = keys.generate()
            known = enrolment.EnrolledKey(enrolment.SITE, "riyadh", key.public_key, "2026-11-22T12:00:00Z")
            enrolment.save(self.trust, enrolment.Enrolled({key.public_key.keyid: known}))
            self._signers["site"] = [key]
        return self._signers["site"][0]

    def receipt(self, kept: Kept, *, site: CryptoSigner | None = None, **changes: Any) -> bytes:
        """What a site says that installed what `kept` says and nothing else."""
        site = site or self.enrolled_site()
        said = receipt.of(
            kept,
            [blob for entry in kept.entries.values() for blob in entry.blobs],
            site=site.public_key.keyid,
            at=NOW,
            root_fingerprint=sha256(open_trust(self.trust).root_bytes),
            generation=1,
            python="3.11",
            machine="x86_64",
        )
        return receipt.make(dataclasses.replace(said, **changes), site)

    def resign(self, bundle: Path, metadata: Mapping[str, dict[str, Any]]) -> None:
        """Sign these role files (signed parts by role) and bring snapshot and timestamp in line."""
        parts = signed_parts(bundle)
        parts.update(copy.deepcopy(dict(metadata)))
        if "targets" not in metadata and set(metadata) & set(ROLES):
            parts["targets"]["x-plugsky-binds"].update(bound(parts))
            metadata = {**metadata, "targets": parts["targets"]}
        for role, signed in parts.items():
            if role in ("root", "snapshot", "timestamp"):
                continue
            if role in metadata:
                self.write(bundle, role, signed)
            if "snapshot" not in metadata:
                describe(parts["snapshot"]["meta"], role, bundle, parts)
        if "root" in metadata:
            self.write(bundle, "root", parts["root"])
        self.write(bundle, "snapshot", parts["snapshot"])
        if "timestamp" not in metadata:
            describe(parts["timestamp"]["meta"], "snapshot", bundle, parts)
        self.write(bundle, "timestamp", parts["timestamp"])

    def write(self, bundle: Path, role: str, signed: dict[str, Any]) -> None:
        path = bundle / "metadata" / file_name(role, signed)
        path.write_bytes(encode(envelope(signed, self.signers(role))))

    def alter(self, bundle: Path, role: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the signed part of one role file in place and sign all again."""
        signed = signed_parts(bundle)[role]
        change(signed)
        self.resign(bundle, {role: signed})

    def rotate(
        self, change: Callable[[dict[str, Any]], None] = lambda _: None, by: Iterable[CryptoSigner] | None = None
    ) -> bytes:
        """Add the next root to the trust directory, signed by the root keys or by `by`."""
        trust = open_trust(self.trust)
        signed = json.loads(trust.root_bytes)["signed"]
        signed["version"] += 1
        change(signed)
        data = encode(envelope(signed, self.signers("root") if by is None else by))
        (self.trust / "metadata" / f"{signed['version']}.root.json").write_bytes(data)
        self._signers.clear()
        return data


def bound(parts: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """What targets binds of these roles, as far as they can be bound at all."""
    lines = []
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        for role in ROLES:
            for path, target in parts[role]["targets"].items():
                lines.append(f"{path} {target['length']} {target['hashes']['sha256']}\n")
    roles = {role: {"version": parts[role].get("version"), "sha256": sha256(olpc(parts[role]))} for role in ROLES}
    return {"roles": roles, "content_id": sha256("".join(sorted(lines)).encode())}


def add_key(signed_root: dict[str, Any], role: str, signer: CryptoSigner) -> None:
    """Let one more key sign for a role of a root."""
    signed_root["keys"][signer.public_key.keyid] = signer.public_key.to_dict()
    signed_root["roles"][role]["keyids"].append(signer.public_key.keyid)


def take_over(signed_root: dict[str, Any], signer: CryptoSigner) -> None:
    """Let one key hold the root's own role, and none of those that held it."""
    for keyid in signed_root["roles"]["root"]["keyids"]:
        signed_root["keys"].pop(keyid)
        signed_root["x-plugsky-names"].pop(keyid)
    signed_root["roles"]["root"]["keyids"] = []
    add_key(signed_root, "root", signer)


class InMemory(dict[str, bytes]):
    """The files of `metadata/` without a disk: the walk needs none."""

    @property
    def names(self) -> Iterable[str]:
        return list(self)

    def read(self, name: str, limit: int) -> bytes:
        if name not in self:
            raise missing(f"metadata/{name}")
        return self[name][: limit + 1]


def copy_of(bundle: Path, name: str = "copy") -> Path:
    return Path(shutil.copytree(bundle, bundle.parent / name, symlinks=True))


def file_name(role: str, signed: Mapping[str, Any]) -> str:
    return "timestamp.json" if role == "timestamp" else f"{signed['version']}.{role}.json"


def signed_parts(bundle: Path) -> dict[str, dict[str, Any]]:
    """The signed part of each metadata file by role (the newest root)."""
    parts = {}
    for path in sorted((bundle / "metadata").iterdir()):
        role = path.name.removesuffix(".json").split(".")[-1]
        parts[role] = json.loads(path.read_bytes())["signed"]
    return {role: parts[role] for role in ("root", "targets", *ROLES, "snapshot", "timestamp") if role in parts}


def envelope(signed: dict[str, Any], signers: Iterable[CryptoSigner]) -> dict[str, Any]:
    """TUF metadata around any signed part, also one that python-tuf would refuse to make."""
    payload = olpc(signed)
    signatures = [{"keyid": s.public_key.keyid, "sig": s.sign(payload).signature} for s in signers]
    return {"signatures": sorted(signatures, key=lambda s: s["keyid"]), "signed": signed}


def olpc(value: Any) -> bytes:
    """OLPC canonical JSON, which TUF signs."""
    text = encode_canonical(value)
    assert isinstance(text, str)
    return text.encode("utf-8")


def describe(meta: dict[str, Any], role: str, bundle: Path, parts: Mapping[str, dict[str, Any]]) -> None:
    describe_bytes(meta, role, (bundle / "metadata" / file_name(role, parts[role])).read_bytes())


def describe_bytes(meta: dict[str, Any], role: str, data: bytes) -> None:
    """List a role file by version, length and hash, as the one above it does."""
    version = json.loads(data)["signed"].get("version", 1)
    meta[f"{role}.json"] = {"version": version, "length": len(data), "hashes": {"sha256": sha256(data)}}
