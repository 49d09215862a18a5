"""The verbs of accounts: keys, tenants, the aliases of models, and the people who administer the site."""

import asyncio
import json
from dataclasses import asdict, replace
from typing import Final

from plugsky.access.aliases import AliasRecord
from plugsky.access.keys import IssuedKey, KeyRecord
from plugsky.access.people import PersonRecord
from plugsky.access.tenants import TenantRecord, Terms
from plugsky.admin import views
from plugsky.admin.acting import Acting, Told
from plugsky.admin.api import AliasView, KeyView, NewKey, PersonView, TenantView
from plugsky.audit import events
from plugsky.audit.events import Event, Fact
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import UNLIMITED, Rate

_LIMITS: Final = frozenset(asdict(UNLIMITED))
TERMS: Final = frozenset({"monthly_tokens", "weight"}) | _LIMITS


class AccountVerbs(Acting):
    """What an operator does with accounts."""

    async def key_create(
        self,
        tenant: str,
        name: str = "",
        models: tuple[str, ...] | None = None,
        days: int | None = None,
        endpoints: tuple[str, ...] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        concurrency: int | None = None,
    ) -> NewKey:
        await self._allow("key_create", tenant)
        await asyncio.to_thread(self._check_models, models or (), "models")
        rate = Rate(requests_per_minute, tokens_per_minute, concurrency)
        issued = await self._witnessed(
            lambda tell: self._site.keys.create(
                tenant,
                name,
                models,
                days,
                lambda key: tell(events.key_changed(events.KEY_CREATE, self._actor, key)),
                endpoints=endpoints,
                rate=rate,
            )
        )
        return views.new_key(issued)

    async def key_list(self, tenant: str | None = None) -> tuple[KeyView, ...]:
        await self._allow("key_list")
        return tuple(map(views.key_view, await asyncio.to_thread(self._site.keys.list, tenant)))

    async def key_rotate(self, key_id: str, overlap_hours: int = 24) -> NewKey:
        await self._allow("key_rotate", key_id)

        def rotate(tell: Told) -> IssuedKey:
            def witness(old: KeyRecord, new: KeyRecord) -> None:
                tell(events.key_changed(events.KEY_ROTATE, self._actor, old))
                tell(events.key_changed(events.KEY_CREATE, self._actor, new))

            return self._site.keys.rotate(key_id, overlap_hours, witness)

        return views.new_key(await self._witnessed(rotate))

    async def key_revoke(self, key_id: str) -> KeyView:
        await self._allow("key_revoke", key_id)
        revoked = await self._witnessed(
            lambda tell: self._site.keys.revoke(
                key_id, lambda key: tell(events.key_changed(events.KEY_REVOKE, self._actor, key))
            )
        )
        return views.key_view(revoked)

    async def tenant_list(self) -> tuple[TenantView, ...]:
        await self._allow("tenant_list")
        return tuple(map(views.tenant_view, await asyncio.to_thread(self._site.tenants.list)))

    async def tenant_set(self, tenant: str, terms: dict[str, int | None]) -> TenantView:
        await self._allow("tenant_set", tenant)
        unknown = sorted(set(terms) - TERMS)
        if unknown or not terms:
            raise PlugskyError(
                ErrorKind.BAD_REQUEST,
                f"a tenant has no {unknown[0]!r}" if unknown else "nothing is to be changed",
                why=f"what it has: {', '.join(sorted(TERMS))}",
                next="plugsky tenant set --help",
                param="terms",
            )

        def change(now: Terms) -> Terms:
            rate = replace(now.rate, **{name: value for name, value in terms.items() if name in _LIMITS})
            weight = terms.get("weight", now.weight)
            return Terms(terms.get("monthly_tokens", now.monthly_tokens), 1 if weight is None else weight, rate)

        record = await self._witnessed(
            lambda tell: self._site.tenants.set(tenant, change, lambda made: tell(self._tenant_event(made)))
        )
        return views.tenant_view(record)

    async def alias_list(self) -> tuple[AliasView, ...]:
        await self._allow("alias_list")
        return tuple(map(views.alias_view, await asyncio.to_thread(self._site.aliases.list)))

    async def alias_set(
        self, name: str, model: str, tenant: str = "", defaults: dict[str, float] | None = None
    ) -> AliasView:
        await self._allow("alias_set", name)
        await asyncio.to_thread(self._check_models, (model,), "model")
        if name in {model.id for model in await asyncio.to_thread(self._site.facts.models)}:
            raise PlugskyError(
                ErrorKind.CONFLICT,
                f"{name!r} is a model of this site",
                why="a request that names it would be answered by another",
                next="give the alias another name",
                param="name",
            )
        record = await self._witnessed(
            lambda tell: self._site.aliases.set(
                name, model, tenant, defaults, lambda made: tell(self._alias_event(events.ALIAS_SET, made))
            )
        )
        return views.alias_view(record)

    async def alias_remove(self, name: str, tenant: str = "") -> AliasView:
        await self._allow("alias_remove", name)
        record = await self._witnessed(
            lambda tell: self._site.aliases.remove(
                name, tenant, lambda gone: tell(self._alias_event(events.ALIAS_REMOVE, gone))
            )
        )
        return views.alias_view(record)

    async def person_list(self) -> tuple[PersonView, ...]:
        await self._allow("person_list")
        return tuple(map(views.person_view, await asyncio.to_thread(self._site.people.list)))

    async def person_set(self, account: str, role: str) -> PersonView:
        await self._allow("person_set", account)
        record = await self._witnessed(
            lambda tell: self._site.people.set(
                account, role, lambda made: tell(self._person_event(events.PERSON_SET, made))
            )
        )
        return views.person_view(record)

    async def person_remove(self, account: str) -> PersonView:
        await self._allow("person_remove", account)
        record = await self._witnessed(
            lambda tell: self._site.people.remove(
                account, lambda gone: tell(self._person_event(events.PERSON_REMOVE, gone))
            )
        )
        return views.person_view(record)

    def _person_event(self, action: str, person: PersonRecord) -> Event:
        return Event(action, self._actor, person.account, "ok", {"uid": person.uid, "role": person.role.value})

    def _tenant_event(self, tenant: TenantRecord) -> Event:
        terms = tenant.terms
        facts: dict[str, Fact] = {"monthly_tokens": terms.monthly_tokens, "weight": terms.weight, **asdict(terms.rate)}
        return Event(events.TENANT_SET, self._actor, tenant.id, "ok", facts)

    def _alias_event(self, action: str, alias: AliasRecord) -> Event:
        facts = {"tenant": alias.tenant, "model": alias.model, "defaults": json.dumps(dict(alias.defaults))}
        return Event(action, self._actor, alias.name, "ok", facts)

    def _check_models(self, wanted: tuple[str, ...], param: str) -> None:
        """Refuse a key or an alias for models that nobody has here: it would be refused everywhere, and only then."""
        there = {model.id for model in self._site.facts.models()} if wanted else set()
        for model in wanted:
            if model not in there:
                raise PlugskyError(
                    ErrorKind.MODEL_NOT_FOUND,
                    f"the model {model!r} is not on this site",
                    why=f"its models are {', '.join(sorted(there))}" if there else "no model is installed",
                    next="plugsky model list",
                    param=param,
                )
