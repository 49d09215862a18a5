"""What the audit trail records, as values. Pure.

An event says who (``actor``) did what (``action``) to what (``subject``), how it ended (``outcome``), and a few plain
facts. Facts are text, whole numbers, booleans or nothing; text is escaped and cut at 600 characters. Prompts, answers
and secrets are never facts: where content must be provable, its digest is.

The builders here are the only makers of the events that :mod:`plugsky.audit.verify` links to each other, so that
writer and prover cannot drift apart.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final, NamedTuple, Protocol

from plugsky.core.principal import Rate
from plugsky_bundles.enrolment import Enrolled
from plugsky_bundles.errors import printable
from plugsky_bundles.strict_json import MAX_INTEGER

Fact = str | int | bool | None

OPEN: Final = "audit.open"
CLOSE: Final = "audit.close"
GAP: Final = "audit.gap"
RETRACT: Final = "audit.retract"
INSTALL: Final = "bundle.install"
ACTIVATE: Final = "generation.activate"
PRUNE: Final = "generation.prune"
MODEL_IMPORT: Final = "model.import"
MODEL_REMOVE: Final = "model.remove"
MODEL_EXPORT: Final = "model.export"
MAKE_GENERATIONS: Final = (INSTALL, MODEL_IMPORT, MODEL_REMOVE)
"""Records of these name the generation that came of it, with its bundle and the head of its custody log."""
REQUEST: Final = "request.done"
REFUSED: Final = "request.refused"
CANCEL: Final = "request.cancel"
KEY_CREATE: Final = "key.create"
KEY_REVOKE: Final = "key.revoke"
KEY_ROTATE: Final = "key.rotate"
"""The record of the key that is replaced, as it stands with that: its end, and which key replaces it."""
KEY_CHANGES: Final = frozenset({KEY_CREATE, KEY_REVOKE, KEY_ROTATE})
TENANT_SET: Final = "tenant.set"
PERSON_SET: Final = "person.set"
PERSON_REMOVE: Final = "person.remove"
LOGIN_ADD: Final = "login.add"
LOGIN_ROLE: Final = "login.role"
LOGIN_RESET: Final = "login.reset"
LOGIN_REMOVE: Final = "login.remove"
LOGIN_PASSWORD: Final = "login.password"  # noqa: S105 - the name of an action
LOGIN_BEGIN: Final = "login.begin"
LOGIN_END: Final = "login.end"
ALIAS_SET: Final = "alias.set"
ALIAS_REMOVE: Final = "alias.remove"
MAX_FACTS: Final = 64
_HEALTH: Final = {True: "ok", False: "unhealthy"}
HEAD_PREFIX: Final = "head:"
TIMES: Final = ("created_us", "settled_us", "month")
COUNTS: Final = ("prompt_tokens", "cached_tokens", "completion_tokens", "engine_us")
DETAILS: Final = ("reasoning_tokens", "image_tokens")
"""How many of the completion's tokens were reasoning, and of the prompt's images; a record says it where some were."""


class Event(NamedTuple):
    """The arguments of :meth:`AuditLog.append`, in order."""

    action: str
    actor: str
    subject: str
    outcome: str
    fields: Mapping[str, Fact]


class ClosedEntry(Protocol):
    """A closed ledger entry, as ``access.ledger`` gives it."""

    @property
    def job(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def key_id(self) -> str: ...
    @property
    def requested_model(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def reasoning_tokens(self) -> int: ...
    @property
    def image_tokens(self) -> int: ...
    @property
    def engine_us(self) -> int: ...
    @property
    def service_class(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def month(self) -> str: ...
    @property
    def created_us(self) -> int: ...
    @property
    def settled_us(self) -> int: ...


class StoredKey(Protocol):
    """An API key, as ``access.keys`` gives it. Times in microseconds since the Unix epoch."""

    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def models(self) -> tuple[str, ...] | None: ...
    @property
    def created_us(self) -> int: ...
    @property
    def expires_us(self) -> int | None: ...
    @property
    def revoked_us(self) -> int | None: ...
    @property
    def endpoints(self) -> tuple[str, ...] | None: ...
    @property
    def rate(self) -> Rate: ...
    @property
    def replaced_by(self) -> str | None: ...


def key_changed(action: str, actor: str, key: StoredKey) -> Event:
    """A key was made, replaced or revoked; ``key`` is as it stands with that."""
    return Event(action, actor, key.id, "ok", key_facts(key))


def key_facts(key: StoredKey) -> dict[str, Fact]:
    """What the record of a change says of a key. Limits that it has not are left out."""
    limits: dict[str, Fact] = {
        "endpoints": None if key.endpoints is None else ",".join(key.endpoints),
        "replaced_by": key.replaced_by,
        **asdict(key.rate),
    }
    return {name: value for name, value in limits.items() if value is not None} | {
        "tenant": key.tenant,
        "name": key.name,
        "models": None if key.models is None else ",".join(key.models),
        "created_us": key.created_us,
        "expires_us": key.expires_us,
        "revoked_us": key.revoked_us,
    }


def request_done(entry: ClosedEntry, extra: Mapping[str, Fact] | None = None) -> Event:
    """The one record of a request that was admitted: written after its ledger entry is closed, with the same counts.

    ``extra`` may add facts of the edge (endpoint, status, content digests).
    """
    fields: dict[str, Fact] = dict(extra or {})
    for name in ("tenant", "key_id", "requested_model", "model", "digest", *COUNTS, "service_class", "state", *TIMES):
        fields[name] = getattr(entry, name)
    for name in DETAILS:
        if tokens := getattr(entry, name):
            fields[name] = tokens
    return Event(REQUEST, f"key:{entry.key_id}", entry.job, entry.outcome, fields)


def request_refused(
    job: str, *, tenant: str, key_id: str, requested_model: str, outcome: str, extra: Mapping[str, Fact] | None = None
) -> Event:
    """A request that was turned away before anything was reserved for it; ``outcome`` is the failure's wire name."""
    fields: dict[str, Fact] = dict(extra or {})
    fields |= {"tenant": tenant, "key_id": key_id, "requested_model": requested_model}
    return Event(REFUSED, f"key:{key_id}", job, outcome, fields)


def bundle_install(
    actor: str,
    *,
    bundle_id: str,
    content_id: str,
    channel: str,
    version: int,
    generation: int,
    root_fingerprint: str,
    custody_head: str,
    health: str = "",
    healthy: bool = True,
    approved_by: Iterable[str] = (),
    local: Iterable[str] = (),
) -> Event:
    """A generation was installed. ``custody_head`` is the head that the custody log beside it has.

    ``health`` sums its check up; where it was not ``healthy``, the generation did not become the current one.
    ``approved_by`` are the approvers whose signatures let it in, ``local`` the ids of the facility's own models in it.
    """
    return Event(
        INSTALL,
        actor,
        f"{channel}-{version}",
        _HEALTH[healthy],
        {
            "bundle_id": bundle_id,
            "content_id": content_id,
            "channel": channel,
            "version": version,
            "generation": generation,
            "root_fingerprint": root_fingerprint,
            "custody_head": custody_head,
            "health": health,
            "approved_by": ",".join(approved_by),
            "local": ",".join(local),
        },
    )


def generation_activate(
    actor: str, *, generation: int, bundle_id: str, channel: str, version: int, health: str, healthy: bool
) -> Event:
    """A kept generation was made the current one; or was to be, and was not ``healthy``."""
    return Event(
        ACTIVATE,
        actor,
        f"generation-{generation}",
        _HEALTH[healthy],
        {"generation": generation, "bundle_id": bundle_id, "channel": channel, "version": version, "health": health},
    )


def local_model(
    action: str,
    actor: str,
    *,
    model: str,
    sha256: str,
    approved_by: str,
    generation: int,
    bundle_id: str,
    content_id: str,
    custody_head: str,
    health: str,
    healthy: bool,
) -> Event:
    """A model made in the facility came or went (``action``), and with it a generation."""
    return Event(
        action,
        actor,
        model,
        _HEALTH[healthy],
        {
            "sha256": sha256,
            "approved_by": approved_by,
            "generation": generation,
            "bundle_id": bundle_id,
            "content_id": content_id,
            "custody_head": custody_head,
            "health": health,
        },
    )


def model_export(actor: str, *, model: str, sha256: str, generation: int) -> Event:
    """A model of the site is about to be written to files outside of it."""
    return Event(MODEL_EXPORT, actor, model, "ok", {"sha256": sha256, "generation": generation})


def generation_prune(actor: str, *, generations: Iterable[int], files: int, freed_bytes: int) -> Event:
    """Generations are about to be removed, with ``files`` of the store that nothing else needs."""
    names = ",".join(str(number) for number in generations)
    return Event(PRUNE, actor, "site", "ok", {"generations": names, "files": files, "freed_bytes": freed_bytes})


def enrolment(action: str, actor: str, subject: str, enrolled: Enrolled, keyid: str) -> Event:
    """Keys that the site believes changed; ``enrolled`` is the list as it stands with that, ``keyid`` the new key."""
    digest = hashlib.sha256(enrolled.to_json()).hexdigest()
    counts: dict[str, Fact] = {"approvals_required": enrolled.approvals_required, "serial": enrolled.serial}
    return Event(action, actor, subject, "ok", {"keyid": keyid, "enrolled_sha256": digest, **counts})


def record_of(event: Event, time: str) -> dict[str, Any]:
    """The event as a chain's record. Raises ValueError or TypeError for facts that have no exact form."""
    if len(event.fields) > MAX_FACTS:
        raise ValueError(f"an audit record has at most {MAX_FACTS} facts")
    return {
        "time": time,
        "action": printable(event.action),
        "actor": printable(event.actor),
        "subject": printable(event.subject),
        "outcome": printable(event.outcome),
        "fields": {printable(name): _exact(value) for name, value in event.fields.items()},
    }


def _exact(value: Fact) -> Fact:
    if isinstance(value, str):
        return printable(value)
    if value is None or isinstance(value, bool):
        return value
    if not isinstance(value, int):
        raise TypeError(f"an audit fact is text, a whole number, a boolean or None, not {type(value).__name__}")
    if abs(value) > MAX_INTEGER:
        raise ValueError("an audit fact is a number beyond 2^53 - 1")
    return value
