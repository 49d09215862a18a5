"""What people sign with targets, so that nothing of their release can be exchanged: the field `x-plugsky-binds`.

Snapshot and timestamp are signed by the build machine alone. So targets, which its k people sign anew each time, fixes

* `content_id`: every file of the release by path, length and SHA-256;
* `roles`: of each role its version and the SHA-256 of its signed part as it is signed (OLPC canonical JSON). Signatures
  are apart: they come later, and a role that was taken over has those of an earlier release;
* `files`: length and SHA-256 of each file beside metadata and blobs that lies in the draft. A delta's draft has no
  evidence of the roles that it leaves out, so what is bound is what lies on the media.

The snapshot lists exactly these files and those roles. Sealing adds one file only, the custody log, which the build
machine goes on writing until then: it alone is never bound.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tuf.api.metadata import Metadata, Targets

from plugsky_bundles.errors import BlobMissing, DigestMismatch, MixAndMatch, UnlistedFile
from plugsky_bundles.format import BLOBS, CUSTODY, METADATA, ROLES, FileEntry, check_version, content_id, is_sha256
from plugsky_bundles.media import Bundle
from plugsky_bundles.metadata import Listed, evidence_of
from plugsky_bundles.strict_json import malformed

BINDS: Final = "x-plugsky-binds"
INSTALLER: Final = "install.sh"

_BLOCK: Final = 1 << 20
_REBUILD: Final = "Put it back as it was, or build it again"
_REFUSE: Final = "Do not use it; ask who built it how it came to be"


@dataclass(frozen=True, slots=True)
class BoundRole:
    """A role file by its version and the SHA-256 of its signed part."""

    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Binds:
    """The field as a value; `roles` by role, `files` by path."""

    content_id: str
    roles: Mapping[str, BoundRole]
    files: Mapping[str, Listed] = field(repr=False)

    @property
    def installer(self) -> str | None:
        """What `sha256sum install.sh` says, where the bundle has one: it belongs on the paper."""
        return self.files[INSTALLER].sha256 if INSTALLER in self.files else None

    def to_dict(self) -> dict[str, Any]:
        """The field as it is written; `binds_of` gives an equal value back."""
        return {
            "content_id": self.content_id,
            "roles": {name: {"version": role.version, "sha256": role.sha256} for name, role in self.roles.items()},
            "files": {path: {"length": file.length, "sha256": file.sha256} for path, file in self.files.items()},
        }

    def check_role(self, role: str, metadata: Metadata[Targets], what: str) -> None:
        """Refuse a role file of another release. Raises MixAndMatch."""
        bound = self.roles.get(role)
        if bound is None or _bound_role(metadata) != bound:
            raise MixAndMatch(
                f"{what} is from another release",
                f"{role} {metadata.signed.version} as it is here is not the one that people signed targets with",
                _REFUSE,
            )

    def check_content(self, entries: Iterable[FileEntry]) -> None:
        """Refuse files that are not those of the release. Raises MixAndMatch."""
        found = content_id(entries)
        if found != self.content_id:
            raise MixAndMatch(
                "The files are not those that were signed together",
                f"their content id is {found}, and targets binds {self.content_id}",
                _REFUSE,
            )

    def check_listed(self, evidence: Mapping[str, Listed]) -> None:
        """Refuse a snapshot that lists other files beside metadata and blobs than these. Raises MixAndMatch."""
        for path in sorted((self.files.keys() | evidence.keys()) - {CUSTODY}):
            if self.files.get(path) != evidence.get(path):
                raise MixAndMatch(
                    f"{path} is not what the signers of this release bound",
                    _difference(self.files.get(path), evidence.get(path)),
                    _REFUSE,
                )

    def check_files(self, bundle: Bundle) -> None:
        """Read the files of a draft, and refuse what differs.

        Raises BlobMissing, DigestMismatch or UnlistedFile by name.
        """
        for path, bound in self.files.items():
            if path not in bundle.files:
                raise BlobMissing(f"{path} is not there", "the draft was written with it", _REBUILD)
            if bundle.files[path] != bound.length or _listed(bundle, path) != bound:
                raise DigestMismatch(
                    f"{path} was changed since the draft was written", "its signers bind other bytes", _REBUILD
                )
        for path in sorted(set(beside(bundle)) - self.files.keys()):
            raise UnlistedFile(
                f"{path} was added since the draft was written", "its signers do not bind it", "Remove it"
            )


NOTHING: Final = Binds("", {}, {})
"""What is bound before targets was read: no content, no role, no file."""


def bind(entries: Iterable[FileEntry], roles: Mapping[str, Metadata[Targets]], bundle: Bundle) -> Binds:
    """What targets of this draft is to bind; `roles` by role name, `bundle` as far as it is written."""
    files = {path: _listed(bundle, path) for path in sorted(beside(bundle))}
    binds = Binds(content_id(entries), {role: _bound_role(roles[role]) for role in ROLES}, files)
    evidence_of(binds.to_dict()["files"], f"{bundle.path}")
    return binds


def binds_of(members: Any, what: str) -> Binds:
    """Read the field. Raises MalformedMetadata, or UnsafeName for a path that no such file can have."""
    if not isinstance(members, dict) or set(members) != {"content_id", "roles", "files"}:
        raise malformed(what, "it does not bind exactly content_id, roles and files")
    roles = members["roles"]
    if not is_sha256(members["content_id"]) or not isinstance(roles, dict) or set(roles) != set(ROLES):
        raise malformed(what, "it does not bind a content id and each role")
    for role in roles.values():
        if not isinstance(role, dict) or set(role) != {"version", "sha256"} or not is_sha256(role["sha256"]):
            raise malformed(what, "it does not bind each role by version and sha256")
        check_version(role["version"])
    files = evidence_of(members["files"], what)
    if CUSTODY in files:
        raise malformed(what, f"it binds {CUSTODY}, which is written until the bundle is sealed")
    return Binds(members["content_id"], {name: BoundRole(**role) for name, role in roles.items()}, files)


def beside(bundle: Bundle) -> list[str]:
    """The files of a draft that people bind: all beside metadata and blobs, but the custody log."""
    apart = (f"{METADATA}/", f"{BLOBS}/")
    return [path for path in bundle.files if not path.startswith(apart) and path != CUSTODY]


def _bound_role(metadata: Metadata[Targets]) -> BoundRole:
    return BoundRole(metadata.signed.version, hashlib.sha256(metadata.signed_bytes).hexdigest())


def _listed(bundle: Bundle, path: str) -> Listed:
    digest, length = hashlib.sha256(), 0
    with bundle.open(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            length += len(block)
    return Listed(length, digest.hexdigest())


def _difference(bound: Listed | None, listed: Listed | None) -> str:
    if bound is None:
        return "targets, which people sign, does not bind it; only the build machine's snapshot lists it"
    if listed is None:
        return "the snapshot does not list it"
    return f"the snapshot lists {listed.sha256}, and targets binds {bound.sha256}"
