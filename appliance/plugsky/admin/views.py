"""From the values of the rooms to the values of the Admin protocol. Pure."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from plugsky.access.aliases import AliasRecord
from plugsky.access.keys import IssuedKey, KeyRecord
from plugsky.access.ledger import UsageSum
from plugsky.access.logins import IssuedLogin, LoginRecord
from plugsky.access.people import PersonRecord
from plugsky.access.tenants import TenantRecord
from plugsky.admin.api import (
    AliasView,
    AuditRecord,
    AuditVerdict,
    ChainVerdict,
    Isolation,
    KeyView,
    LoginView,
    ModelView,
    NewKey,
    NewLogin,
    PersonView,
    TenantView,
    UsageReport,
    UsageRow,
)
from plugsky.admin.ports import CatalogueModel, IsolationReading
from plugsky.audit.trail import Record
from plugsky.audit.verify import SiteVerdict
from plugsky.core.clock import rfc3339, unix_us
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.engine.life.status import EngineStatus

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ABSENT = EngineStatus("absent")


def stamp(us: int | None) -> str | None:
    """Microseconds since the Unix epoch as RFC 3339."""
    return None if us is None else rfc3339(_EPOCH + timedelta(microseconds=us))


def moment(text: str | None, param: str) -> int | None:
    """RFC 3339 as microseconds since the Unix epoch. Raises BAD_REQUEST; a time without an offset is refused."""
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise PlugskyError(
            ErrorKind.BAD_REQUEST,
            f"`{param}` is not a moment",
            why="it is RFC 3339 with an offset, for example 2026-11-22T17:20:05Z",
            next=f"give {param} in that form",
            param=param,
        )
    return unix_us(parsed.astimezone(UTC))


def model_view(model: CatalogueModel, status: EngineStatus) -> ModelView:
    """A model of the catalogue and how its engine stands; ``context`` is what the engine serves, once it is known."""
    return ModelView(
        id=model.id,
        mode=model.mode,
        size=model.size,
        context=min(model.context, status.kv_cells) if status.kv_cells else model.context,
        licence=model.licence,
        languages=tuple(model.languages),
        digest=model.sha256,
        local=model.local,
        **asdict(status),
    )


def key_view(key: KeyRecord) -> KeyView:
    """A key as it may be listed."""
    return KeyView(
        id=key.id,
        tenant=key.tenant,
        name=key.name,
        prefix=key.prefix,
        models=key.models,
        created=stamp(key.created_us) or "",
        expires=stamp(key.expires_us),
        revoked=stamp(key.revoked_us),
        last_used=stamp(key.last_used_us),
        endpoints=key.endpoints,
        **asdict(key.rate),
        replaced_by=key.replaced_by,
    )


def new_key(issued: IssuedKey) -> NewKey:
    """A key just made, with its secret."""
    key = issued.record
    return NewKey(key.id, key.tenant, key.name, issued.secret, stamp(key.expires_us))


def tenant_view(tenant: TenantRecord) -> TenantView:
    """A tenant as it may be listed."""
    return TenantView(
        id=tenant.id,
        created=stamp(tenant.created_us) or "",
        monthly_tokens=tenant.terms.monthly_tokens,
        weight=tenant.terms.weight,
        **asdict(tenant.terms.rate),
        used=tenant.used,
        reserved=tenant.reserved,
    )


def alias_view(alias: AliasRecord) -> AliasView:
    """An alias as it may be listed."""
    return AliasView(alias.name, alias.tenant, alias.model, dict(alias.defaults), stamp(alias.created_us) or "")


def person_view(person: PersonRecord) -> PersonView:
    """A person as it may be listed."""
    return PersonView(person.account, person.uid, person.role.value, stamp(person.created_us) or "")


def login_view(login: LoginRecord) -> LoginView:
    """A login as it may be listed."""
    return LoginView(login.name, login.role.value, login.source.value, login.subject, stamp(login.created_us) or "")


def new_login(issued: IssuedLogin) -> NewLogin:
    """A login with the secrets that are shown once."""
    return NewLogin(issued.record.name, issued.record.role.value, issued.password, issued.uri)


def usage_report(total: UsageSum, since_us: int | None, until_us: int | None) -> UsageReport:
    """The ledger's sums as a report."""
    rows = tuple(UsageRow(**asdict(line)) for line in total.lines)
    return UsageReport(stamp(since_us), stamp(until_us), rows, total.open_reservations)


def audit_record(record: Record) -> AuditRecord:
    """A record of the trail as it may be shown."""
    return AuditRecord(
        record.chain,
        record.seq,
        record.time,
        record.actor,
        record.action,
        record.subject,
        record.outcome,
        dict(record.fields),
        record.hash,
    )


def audit_verdict(verdict: SiteVerdict) -> AuditVerdict:
    """The verdict on the trail."""
    chains = tuple(
        ChainVerdict(f.chain, f.records, f.head, f.ok, f.problem, f.first_time, f.last_time) for f in verdict.chains
    )
    return AuditVerdict(verdict.ok, chains, verdict.links, verdict.problems)


def isolation(reading: IsolationReading) -> Isolation:
    """A reading of the site's isolation."""
    return Isolation(
        reading.proven,
        reading.engine_namespace,
        tuple(reading.listening),
        tuple(reading.outbound),
        reading.default_route,
        tuple(reading.findings),
    )
