"""The evidence of a verified bundle: what it says in a line, and its files compared with what was signed.

Evidence is listed with length and SHA-256 in the sealed snapshot. What these files claim is the builder's word;
docs/evidence.md says how to check it. Nothing here believes more than that the bytes are the ones that were sealed. A
file beyond 16 MiB is not summed up, nor one on a volume that is not at hand.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

from plugsky_bundles.errors import RECOPY, DigestMismatch, MalformedMetadata
from plugsky_bundles.format import MIB
from plugsky_bundles.strict_json import malformed, parse_object
from plugsky_bundles.verified import VerifiedBundle

SBOM: Final = "evidence/sbom.cdx.json"
ML_BOM: Final = "evidence/ml-bom.cdx.json"
LICENCES: Final = "evidence/licences.json"
VULNERABILITIES: Final = "evidence/vulnerabilities.json"
MAX_SUMMED: Final = 16 * MIB


@dataclass(frozen=True, slots=True)
class Check:
    """One kind of package that was, or was not, looked up: when, and what was found; `why` says why it was not."""

    kind: str
    checked: bool
    at: str
    found: int = 0
    why: str = ""

    @property
    def text(self) -> str:
        if not self.checked:
            return f"{self.kind} not checked ({self.why})"
        return f"{self.kind} checked {self.at}, {self.found} found"


@dataclass(frozen=True, slots=True)
class Summary:
    """What the evidence comes to; None where a bundle has no such file."""

    files: int
    components: int | None
    models: int | None
    without_licence: int | None
    checks: tuple[Check, ...] | None

    @property
    def text(self) -> str:
        """One line for people."""
        if self.components is None:
            return f"{self.files} files, no list of software at hand"
        missing = "every licence text" if not self.without_licence else f"{self.without_licence} without licence text"
        if self.checks is None:
            known = "vulnerabilities not looked up"
        else:
            known = "; ".join(check.text for check in self.checks) or "no packages to look up"
        return f"{self.components} components, {self.models or 0} models, {missing}; vulnerabilities: {known}"


def read(verified: VerifiedBundle, path: str) -> bytes:
    """The bytes of the listed file `path`. Raises DigestMismatch when they are others, or what the media raise."""
    listed = verified.evidence[path]
    data = verified.bundle.read(path, limit=listed.length)
    if len(data) != listed.length or hashlib.sha256(data).hexdigest() != listed.sha256:
        raise DigestMismatch(f"{path} was changed", "its bytes are not those that were sealed", RECOPY)
    return data


def summarise(verified: VerifiedBundle) -> Summary:
    """What the evidence of a bundle says. Raises as `read` does, and MalformedMetadata for what is not as described."""
    found = {path: _object(verified, path) for path in (SBOM, ML_BOM, LICENCES, VULNERABILITIES)}
    sbom, ml_bom, licences, known = found.values()
    return Summary(
        len(verified.evidence),
        None if sbom is None else len(_list(sbom, "components", SBOM)),
        None if ml_bom is None else len(_list(ml_bom, "components", ML_BOM)),
        None if licences is None else len(_list(licences, "missing", LICENCES)),
        None if known is None else tuple(_check(kind, known[kind]) for kind in sorted(known) if kind != "schema"),
    )


def _object(verified: VerifiedBundle, path: str) -> dict[str, Any] | None:
    if path not in verified.evidence or path not in verified.bundle.files:
        return None
    if verified.evidence[path].length > MAX_SUMMED:
        return None
    return parse_object(read(verified, path), path, limit=MAX_SUMMED)


def _list(value: dict[str, Any], key: str, what: str) -> list[Any]:
    items = value.get(key, [])
    if not isinstance(items, list):
        raise malformed(what, f"{key} is not a list")
    return items


def _check(kind: str, record: Any) -> Check:
    try:
        checked, at, found = record["checked"], record["at"], record.get("found", [])
        why = record.get("why", "")
    except (KeyError, TypeError, AttributeError):
        raise _not_a_record(kind) from None
    if not (isinstance(checked, bool) and isinstance(at, str) and isinstance(found, list) and isinstance(why, str)):
        raise _not_a_record(kind)
    return Check(kind, checked, at, len(found), why)


def _not_a_record(kind: str) -> MalformedMetadata:
    return malformed(VULNERABILITIES, f"what it says of {kind} is not a record")
