"""A model made inside the facility, and the approver's word for it.

Nobody signed such a model with a bundle, so an approver looks at it and signs a **statement**: a DSSE envelope of type
``application/vnd.plugsky.local-model+json`` over canonical JSON ``{"schema": "plugsky.local-model/1", "id", "sha256",
"length", "entry", "licence_sha256", "at", "by"}``. ``entry`` is the whole catalogue entry, exactly as ``model.json``
will be; ``licence_sha256`` is that of the licence text, empty where there is none. So what is imported is what was
looked at, described as it was described.

The file is read by the bounded GGUF reader and its chat templates are checked before anybody signs, and again before it
is imported. Who counts is as for bundles: an approver whose key the site enrolled and nobody revoked, not the site's
own key, and nobody who imports.
"""

import hashlib
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from securesystemslib.signer import Signer

from plugsky.models import catalogue, templates
from plugsky.models.catalogue import ModelEntry
from plugsky_bundles import dsse, gguf
from plugsky_bundles.enrolment import APPROVER, ENROL, Enrolled
from plugsky_bundles.errors import DigestMismatch, GgufError, NotApproved, UnsafeName
from plugsky_bundles.format import is_sha256
from plugsky_bundles.gguf import GgufInfo
from plugsky_bundles.strict_json import encode, is_canonical, malformed, parse_object
from plugsky_bundles.times import parse_stamp, stamp

TYPE: Final = "application/vnd.plugsky.local-model+json"
SCHEMA: Final = "plugsky.local-model/1"
MAX_STATEMENT: Final = 512 * 1024
BLOCK: Final = 1024 * 1024
_ID: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
_FIELDS: Final = frozenset({"schema", "id", "sha256", "length", "entry", "licence_sha256", "at", "by"})


@dataclass(frozen=True)
class Description:
    """What a person says of a model; the file says the rest."""

    id: str
    title: str
    mode: str
    context: int
    licence: str
    languages: tuple[str, ...]
    homepage: str


@dataclass(frozen=True)
class Statement:
    """What an approver signed: the entry, as the catalogue reads it and byte for byte; and who it was."""

    entry: ModelEntry
    entry_json: bytes
    licence_sha256: str
    by: str


def examine(file: BinaryIO, length: int, what: str) -> GgufInfo:
    """What a model says of itself, if it is one that llama.cpp may map. Raises GgufError."""
    info = gguf.read(file, length)
    for name, template in info.templates.items():
        templates.check(template, f"The chat template {name!r} of {what}")
    if info.split is not None:
        raise GgufError(
            f"{what} is part of a split model",
            f"it is part {info.split.number + 1} of {info.split.count}",
            "Join the parts with llama-gguf-split --merge and take the result",
        )
    return info


def check_id(model_id: str) -> str:
    """``model_id``, if a model may be called so: it names directories and sockets. Raises UnsafeName."""
    if _ID.fullmatch(model_id) is None:
        raise UnsafeName(
            f"The model id {model_id!r} is not allowed",
            "it is 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit",
            "Choose another id",
        )
    return model_id


def file_name(model_id: str) -> str:
    """The name under which the file of a local model lies in a generation."""
    return f"{model_id}.gguf"


def describe(path: Path, said: Description, moved: Callable[[int], None]) -> dict[str, Any]:
    """The catalogue entry of the model in ``path``, without its health. ``moved`` hears how many bytes were read.

    Raises GgufError, also when the description promises a longer context than the file.
    """
    length = path.stat().st_size
    with path.open("rb") as file:
        info = examine(file, length, path.name)
        file.seek(0)
        digest = hashlib.sha256()
        while block := file.read(BLOCK):
            digest.update(block)
            moved(file.tell())
    _check_context(said.context, info)
    return {
        "schema": catalogue.SCHEMA,
        **vars(said),
        "languages": list(said.languages),
        "file": file_name(check_id(said.id)),
        "sha256": digest.hexdigest(),
        "size": length,
        "origin": catalogue.LOCAL,
        **facts(info),
    }


def facts(info: GgufInfo) -> dict[str, Any]:
    """What of an entry the file itself says."""
    return {"architecture": info.architecture, "quantisation": info.quantisation, "parameters": info.parameters}


def approve(entry: dict[str, Any], licence: bytes | None, signer: Signer, name: str, now: datetime) -> bytes:
    """The statement of the holder of ``signer``, as it is written to a file."""
    said = {
        "schema": SCHEMA,
        "id": entry["id"],
        "sha256": entry["sha256"],
        "length": entry["size"],
        "entry": entry,
        "licence_sha256": "" if licence is None else hashlib.sha256(licence).hexdigest(),
        "at": stamp(now),
        "by": name,
    }
    return encode(dsse.sign(signer, TYPE, encode(said)))


def approved(
    data: bytes, enrolled: Enrolled, revoked: Collection[str], importers: Collection[str], site_keyid: str
) -> Statement:
    """The statement in ``data``, if it counts. Raises NotApproved with the reason, or another VerificationError."""
    envelope = parse_object(data, "The approval", limit=2 * MAX_STATEMENT)
    keyid = dsse.keyid_of(envelope, TYPE)
    person = enrolled.of(APPROVER).get(keyid)
    if keyid == site_keyid:
        raise _no("it is signed with the site's own key, which the importer has")
    if person is None:
        raise _no(f"its key {keyid[:16]} is not enrolled here as an approver's", ENROL)
    if keyid in revoked:
        raise _no(f"the key of {person.name} has been revoked")
    statement = _read(dsse.verify(envelope, person.key, TYPE), person.name)
    if person.name.casefold() in {name.casefold() for name in importers}:
        raise _no(f"{person.name} is the one who imports, and nobody approves their own work")
    return statement


def check_copy(file: BinaryIO, statement: Statement) -> None:
    """Refuse a copied file that is not what was approved, beyond its digest: form, templates, and what it says.

    The digest is the copier's to compare. Raises GgufError or DigestMismatch.
    """
    entry = statement.entry
    info = examine(file, entry.size, entry.id)
    _check_context(entry.context, info)
    said = {name: getattr(entry, name) for name in facts(info)}
    if said != facts(info):
        raise DigestMismatch(
            f"The model {entry.id} is not as it was described",
            f"approved was {said}, the file says {facts(info)}",
            "Have it approved again, with this Plugsky",
        )


def _read(payload: bytes, name: str) -> Statement:
    what = "The approval of a model"
    said = parse_object(payload, what, limit=MAX_STATEMENT)
    if set(said) != _FIELDS or said["schema"] != SCHEMA or not is_canonical(payload, said):
        raise malformed(what, f"it is not a {SCHEMA}")
    parse_stamp(said["at"], what)
    content, licence = encode(said["entry"]), said["licence_sha256"]
    entry = catalogue.parse(content, Path(str(said["id"])) / catalogue.ENTRY)
    check_id(entry.id)
    same = (entry.id, entry.sha256, entry.size) == (said["id"], said["sha256"], said["length"])
    same = same and is_sha256(entry.sha256) and entry.path.name == file_name(entry.id)
    if not same or not entry.local or entry.parts or not (licence == "" or is_sha256(licence)):
        raise malformed(what, "its entry is of another model, or of none that was made here")
    return Statement(entry, content, licence, name)


def _check_context(context: int, info: GgufInfo) -> None:
    if info.context_length is not None and context > info.context_length:
        raise GgufError(
            "The context is too long",
            f"{context} tokens were said, the model was trained for {info.context_length}",
            "Say at most that many with --context",
        )


def _no(why: str, then: str = "Have an approver run `plugsky model approve`") -> NotApproved:
    return NotApproved("The approval of this model does not count", why, then)
