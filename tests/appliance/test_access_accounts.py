"""Keys that replace keys, tenants' terms, and aliases: what is kept, and what is refused by name."""

import dataclasses

import pytest

from appliance.fresh_site import fresh_paths
from appliance.hand_clock import HandClock
from plugsky.access import aliases
from plugsky.access.aliases import Aliases
from plugsky.access.keys import Keys
from plugsky.access.tenants import Tenants, Terms
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.core.principal import UNLIMITED, Rate
from plugsky.state import open_database


class Site:
    def __init__(self, root, where):
        paths, self.clock = fresh_paths(root), HandClock()
        self.database = open_database(where)
        self.keys = Keys.open(self.database, paths, self.clock)
        self.tenants = Tenants(self.database, self.clock)
        self.aliases = Aliases(self.database, self.clock)

    def opens(self, issued):
        try:
            return self.keys.authenticate([(b"authorization", f"Bearer {issued.secret}".encode())])
        except PlugskyError:
            return None


@pytest.fixture
def site(tmp_path, where):
    site = Site(tmp_path, where)
    yield site
    site.database.close()


def refused(act, *arguments, **named):
    with pytest.raises(PlugskyError) as refusal:
        act(*arguments, **named)
    return refusal.value


def test_a_replaced_key_works_for_its_overlap_and_its_successor_has_its_scope_and_limits(site):
    old = site.keys.create("lab", "reports", ("m",), 30, endpoints=("chat",), rate=Rate(concurrency=2))
    site.clock.pass_(days=10)
    new = site.keys.rotate(old.record.id, overlap_hours=24)
    for name in ("tenant", "name", "models", "endpoints", "rate"):
        assert getattr(new.record, name) == getattr(old.record, name)
    assert site.opens(old) == dataclasses.replace(site.opens(new), key_id=old.record.id)
    site.clock.pass_(hours=24)
    assert site.opens(old) is None
    site.clock.pass_(days=28)
    assert site.opens(new)
    site.clock.pass_(days=2)
    assert site.opens(new) is None, "it lives as long as the other had been given"


def test_an_overlap_never_prolongs_a_key(site):
    old = site.keys.create("lab", days=1)
    site.keys.rotate(old.record.id, overlap_hours=2000)
    site.clock.pass_(days=1)
    assert site.opens(old) is None


@pytest.mark.parametrize("how", ["revoked", "expired", "replaced"])
def test_a_key_that_has_ended_is_not_replaced(site, how):
    key = site.keys.create("lab", days=1)
    if how == "revoked":
        site.keys.revoke(key.record.id)
    elif how == "expired":
        site.clock.pass_(days=2)
    else:
        site.keys.rotate(key.record.id)
    error = refused(site.keys.rotate, key.record.id)
    assert error.kind is ErrorKind.CONFLICT
    assert ("replaced by" in error.why) == (how == "replaced")


def test_a_witness_that_refuses_leaves_the_old_key_as_it_was_and_makes_no_new_one(site):
    key = site.keys.create("lab")

    def refuse(_old, _new):
        raise PlugskyError(ErrorKind.OVERLOADED, "the audit trail cannot be written")

    refused(site.keys.rotate, key.record.id, witness=refuse)
    assert site.keys.list() == (key.record,)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"endpoints": ()}, "endpoints"),
        ({"endpoints": ("Chat; DROP TABLE",)}, "endpoints"),
        ({"rate": Rate(requests_per_minute=0)}, "requests_per_minute"),
        ({"rate": Rate(tokens_per_minute=-5)}, "tokens_per_minute"),
        ({"rate": Rate(concurrency=10**10)}, "concurrency"),
    ],
)
def test_a_limit_or_scope_that_cannot_be_is_refused_by_name(site, options, param):
    assert refused(site.keys.create, "lab", **options).param == param
    assert site.keys.list() == ()


def test_a_tenant_is_made_with_terms_and_each_change_leaves_the_others(site):
    site.tenants.set("lab", lambda terms: dataclasses.replace(terms, monthly_tokens=5000))
    made = site.tenants.set("lab", lambda terms: dataclasses.replace(terms, weight=3, rate=Rate(concurrency=2)))
    assert made.terms == Terms(5000, 3, Rate(concurrency=2))
    assert [tenant.id for tenant in site.tenants.list()] == ["lab"]
    key = site.keys.create("lab")
    principal = site.opens(key)
    assert (principal.weight, principal.tenant_rate, principal.rate) == (3, Rate(concurrency=2), UNLIMITED)


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        (Terms(0, 1, UNLIMITED), "monthly_tokens"),
        (Terms(None, 101, UNLIMITED), "weight"),
        (Terms(None, 0, UNLIMITED), "weight"),
        (Terms(None, 1, Rate(requests_per_minute=0)), "requests_per_minute"),
    ],
)
def test_terms_out_of_range_are_refused_and_nothing_is_made(site, terms, param):
    assert refused(site.tenants.set, "lab", lambda _: terms).param == param
    assert site.tenants.list() == ()


def test_an_alias_is_set_moved_and_removed(site):
    site.aliases.set("gpt-4o", "m1", defaults={"temperature": 0.3})
    site.aliases.set("gpt-4o", "m2")
    site.aliases.set("gpt-4o", "m3", "lab")
    assert [(a.name, a.tenant, a.model, dict(a.defaults)) for a in site.aliases.list()] == [
        ("gpt-4o", "", "m2", {}),
        ("gpt-4o", "lab", "m3", {}),
    ]
    site.aliases.remove("gpt-4o")
    assert [a.tenant for a in site.aliases.list()] == ["lab"]
    assert refused(site.aliases.remove, "gpt-4o").kind is ErrorKind.NOT_FOUND


@pytest.mark.parametrize(
    ("arguments", "param"),
    [
        (("", "m"), "name"),
        (("a b", "m"), "name"),
        (("x" * 129, "m"), "name"),
        (("x", "no model/id"), "model"),
        (("x", "m", "Not A Tenant"), "tenant"),
        (("x", "m", "", {"temprature": 1}), "defaults"),
        (("x", "m", "", {"temperature": 2.1}), "defaults"),
        (("x", "m", "", {"temperature": float("nan")}), "defaults"),
        (("x", "m", "", {"top_k": 1.5}), "defaults"),
        (("x", "m", "", {"max_tokens": 0}), "defaults"),
    ],
)
def test_an_alias_that_cannot_be_is_refused_by_name(site, arguments, param):
    assert refused(site.aliases.set, *arguments).param == param
    assert site.aliases.list() == ()


def test_a_site_has_a_bounded_number_of_aliases(site, monkeypatch):
    monkeypatch.setattr(aliases, "MAX_ALIASES", 2)
    site.aliases.set("a", "m")
    site.aliases.set("b", "m")
    assert "at most" in refused(site.aliases.set, "c", "m").why
    site.aliases.set("b", "m2")
