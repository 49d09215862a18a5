"""Whom a site believes besides its root: approvers, its own key, and what the people of the root change of them."""

import json
from datetime import timedelta

import pytest

from appliance.test_installation import LATER, Site
from bundles.forge import NOW, PASSPHRASE
from plugsky.admin.provenance import custodians
from plugsky.audit.site_key import former_site_keyids, known_site_keyid, site_key
from plugsky.audit.trail import chain_names, search
from plugsky.audit.verify import verify_site
from plugsky.core.errors import ErrorKind, PlugskyError
from plugsky.fleet import enrolled, generations, installation, site_trust
from plugsky_bundles import approval, keys, rotation
from plugsky_bundles.enrolment import APPROVER, COURIER, SITE
from plugsky_bundles.errors import (
    EnrolmentLocked,
    EnrolmentRefused,
    FingerprintDiffers,
    KeyUnusable,
    MetadataExpired,
    NotApproved,
    NotFound,
    OtherContent,
    Rollback,
    ThresholdNotMet,
    UntrustedRoot,
)
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.reset import Reset
from plugsky_bundles.returns import returns_of
from plugsky_bundles.trustdir import open_trust

OMAR, PETRA = keys.generate(), keys.generate()


def card(name, signer) -> KeyCard:
    return KeyCard(name, signer.public_key)


class Approved(Site):
    """A site with one installed bundle that can enrol, ask and apply."""

    def enrol(self, newcomer: KeyCard, required: int | None = None, role=APPROVER):
        options = {"role": role, "approvals_required": required}
        return enrolled.enrol(self.paths, newcomer, newcomer.fingerprint, self.trail, "user:salma", NOW, **options)

    def approve(self, bundle, signer=OMAR, name="omar"):
        data = approval.approve(self.verify(bundle), signer, name, NOW)
        return approval.put(self.verify(bundle), data, signer.public_key.keyid, returns_of(bundle))

    def request(self, role=APPROVER, name="omar", newcomer=None, required=None, add=False) -> Reset:
        return enrolled.request_reset(
            self.paths, role=role, name=name, newcomer=newcomer, approvals_required=required, now=NOW, add=add
        )

    def apply(self, statement: Reset, now=NOW):
        return enrolled.apply_reset(self.paths, statement, self.trail, "user:salma", now)

    @property
    def roles(self) -> dict[str, str]:
        return {e.name: e.role for e in enrolled.load(self.paths).keys.values()}

    def signed(self, request: Reset) -> Reset:
        return request.signed_by(self.forge.signers("root"))

    def actions(self, action: str) -> list[str]:
        return [record.subject for record in search(self.paths.audit, "", action, "", 100)]


@pytest.fixture
def site(tmp_path) -> Approved:
    made = Approved(tmp_path)
    made.first = made.bundle()
    made.install(made.first)
    return made


def test_a_site_that_asks_for_an_approval_installs_nothing_without_one(site):
    site.enrol(card("omar", OMAR), 1)
    bundle = site.bundle(policy__x=b"x")
    before = sorted(str(path) for path in site.paths.root.rglob("*") if "audit" not in path.parts)
    with pytest.raises(NotApproved, match="0 of 1"):
        site.install(bundle)
    assert sorted(str(path) for path in site.paths.root.rglob("*") if "audit" not in path.parts) == before
    assert site.current == 1
    site.approve(bundle)
    assert site.install(bundle).number == site.current == 2
    newest = search(site.paths.audit, "", "bundle.install", "", 1)[0]
    assert newest.fields["approved_by"] == "omar"


def test_an_approval_may_come_another_way_than_the_bundle(site):
    site.enrol(card("omar", OMAR), 1)
    bundle = site.bundle(policy__x=b"x")
    elsewhere = site.approve(bundle).rename(site.paths.root.parent / "mailed.json")
    verified = site.verify(bundle)
    plan = installation.plan_for(verified, site.paths)
    installation.install(verified, plan, site.paths, site.trail, "user:salma", approvals=[approval.read(elsewhere)])
    assert site.current == 2


def test_whoever_installs_approves_nothing(site, monkeypatch):
    monkeypatch.setattr(enrolled, "installers", lambda: frozenset({"omar"}))
    site.enrol(card("omar", OMAR), 1)
    bundle = site.bundle(policy__x=b"x")
    site.approve(bundle)
    with pytest.raises(NotApproved, match="the one who installs"):
        site.install(bundle)


def test_who_installs_is_asked_of_the_kernel_and_not_of_the_environment(monkeypatch):
    for name in ("LOGNAME", "USER", "SUDO_USER"):
        monkeypatch.setenv(name, "somebody-else")
    assert "somebody-else" not in enrolled.installers()
    assert enrolled.installers()


def test_the_sites_own_key_approves_nothing(site):
    own = site_key(site.paths)
    site.enrol(KeyCard("omar", own.public_key), 1)
    bundle = site.bundle(policy__x=b"x")
    site.approve(bundle, own)
    with pytest.raises(NotApproved, match="the site's own key"):
        site.install(bundle)


def test_a_card_whose_fingerprint_was_not_told_is_not_enrolled(site):
    with pytest.raises(FingerprintDiffers):
        enrolled.enrol(site.paths, card("omar", OMAR), "0" * 64, site.trail, "user:salma", NOW)
    assert enrolled.load(site.paths).keys == {}
    assert site.actions("trust.enrol") == []


def test_enrolling_is_recorded_and_locks_the_keys_of_the_site(site):
    site.enrol(card("omar", OMAR), 1)
    site.enrol(card("omar", OMAR), 1)
    assert site.actions("trust.enrol") == ["omar"]
    with pytest.raises(EnrolmentLocked):
        site.enrol(card("petra", PETRA))


def test_a_lost_key_of_an_approver_is_replaced_once_by_the_people_of_the_root(site):
    site.enrol(card("omar", OMAR), 1)
    request = site.request(newcomer=card("omar", PETRA))
    with pytest.raises(ThresholdNotMet):
        site.apply(request)
    statement = site.signed(request)
    after = site.apply(statement)
    assert [(keyid, e.name) for keyid, e in after.keys.items()] == [(PETRA.public_key.keyid, "omar")]
    assert (after.approvals_required, after.serial) == (1, 1)
    assert enrolled.load(site.paths) == after
    assert site.actions("trust.reset") == ["approver"]
    with pytest.raises(Rollback, match="each is used once"):
        site.apply(statement)
    bundle = site.bundle(policy__x=b"x")
    site.approve(bundle, OMAR)
    with pytest.raises(NotApproved, match="not enrolled"):
        site.install(bundle)
    site.approve(bundle, PETRA)
    assert site.install(bundle).number == 2


def test_a_name_that_was_mistyped_adds_nobody(site):
    site.enrol(card("omar", OMAR), 1)
    with pytest.raises(NotFound, match="enrolled as approver here: omar") as refused:
        site.request(name="omer", newcomer=card("omer", PETRA))
    assert "--add" in refused.value.next
    with pytest.raises(PlugskyError, match="The card is that of hana") as differs:
        site.request(name="omar", newcomer=card("hana", PETRA))
    assert differs.value.exit_code == 2
    with pytest.raises(EnrolmentRefused, match="already"):
        site.request(name="Omar", newcomer=card("omar", PETRA), add=True)


def test_somebody_new_comes_by_a_statement_that_says_so(site):
    site.enrol(card("omar", OMAR), 1)
    request = site.request(name="hana", newcomer=card("hana", PETRA), add=True)
    assert str(request.change) == f"hana (key {PETRA.public_key.keyid[:16]}) is added as approver, and nobody goes"
    assert site.apply(site.signed(request)).of(APPROVER).keys() == {OMAR.public_key.keyid, PETRA.public_key.keyid}


def test_a_change_is_told_in_words(site):
    site.enrol(card("omar", OMAR), 1)
    old, new = OMAR.public_key.keyid[:16], PETRA.public_key.keyid[:16]
    replaced = site.request(newcomer=card("omar", PETRA)).change
    assert str(replaced) == f"as approver, omar (key {new}) in place of key {old}"
    assert str(site.request(required=0).change) == f"key {old} is removed as approver, and nobody comes"


@pytest.mark.parametrize("name", ["omar", "ben-the-driver", "ben"])
def test_what_people_signed_for_a_courier_makes_no_approver(site, name):
    site.enrol(card("ben", keys.generate()), role=COURIER)
    site.enrol(card("omar", OMAR), 1)
    statement = site.signed(site.request(COURIER, name, card(name, PETRA), add=name != "ben"))
    assert (statement.change.role, statement.change.old is None) == (COURIER, name != "ben")
    after = site.apply(statement)
    assert {keyid: e.role for keyid, e in after.of(APPROVER).items()} == {OMAR.public_key.keyid: APPROVER}
    assert after.keys[PETRA.public_key.keyid].role == COURIER
    bundle = site.bundle(policy__x=b"x")
    site.approve(bundle, PETRA, name)
    with pytest.raises(NotApproved, match="not enrolled here as an approver"):
        site.install(bundle)


def test_a_statement_is_not_applied_after_its_time_nor_with_the_clock_set_back(site):
    site.enrol(card("omar", OMAR), 1)
    early = enrolled.request_reset(
        site.paths, role=APPROVER, name="omar", newcomer=None, approvals_required=0, now=NOW - timedelta(days=31)
    )
    for now in (NOW, NOW - timedelta(days=30)):
        with pytest.raises(MetadataExpired):
            site.apply(site.signed(early), now)
    assert site.roles == {"omar": APPROVER}


def test_a_list_of_keys_that_is_gone_or_older_is_tampering_and_not_nobody(site):
    path = site.paths.trust / "enrolled.json"
    site.enrol(card("petra", PETRA))
    older = path.read_bytes()
    site.enrol(card("omar", OMAR), 1)
    newest = path.read_bytes()
    request = site.signed(site.request(required=0, name="petra"))
    bundle = site.bundle(policy__x=b"x")
    forged = enrolled.enrolment.Enrolled(enrolled.load(site.paths).keys, 0, 5).to_json()
    for there in (None, older, forged):
        path.unlink() if there is None else path.write_bytes(there)
        for use in (lambda: site.install(bundle), lambda: site.apply(request), lambda: site.enrol(card("x", OMAR))):
            with pytest.raises(PlugskyError, match="not the newest") as caught:
                use()
            assert caught.value.kind is ErrorKind.TAMPERED
    assert site.current == 1
    path.write_bytes(newest)
    site.apply(request)
    used = path.read_bytes()
    path.write_bytes(newest)
    with pytest.raises(PlugskyError, match="not the newest"):
        site.apply(request)
    path.write_bytes(used)
    assert site.install(bundle).number == 2


@pytest.mark.parametrize("step", ["recording", "naming"])
def test_enrolling_that_was_cut_off_lost_neither_the_old_list_nor_the_new(site, monkeypatch, step):
    site.enrol(card("omar", OMAR))
    with monkeypatch.context() as cut:
        if step == "recording":
            cut.setattr(site, "trail", _cut)
        else:
            cut.setattr(type(site.paths.trust), "replace", _cut_naming(type(site.paths.trust).replace))
        with pytest.raises(KeyboardInterrupt):
            site.enrol(card("petra", PETRA))
    there = {"omar": APPROVER} | ({"petra": APPROVER} if step == "naming" else {})
    assert site.roles == there
    with monkeypatch.context() as cut:
        cut.setattr(site, "trail", _cut)
        with pytest.raises(KeyboardInterrupt):
            site.enrol(card("salma", keys.generate()))
    assert site.roles == there
    site.enrol(card("carla", keys.generate()), 1)
    assert site.roles == {**there, "carla": APPROVER}


def _cut(*_):
    raise KeyboardInterrupt


def _cut_naming(replace):
    return lambda path, to: _cut() if path.name == "enrolled.next.json" else replace(path, to)


def test_a_statement_also_ends_the_asking_for_approvals(site):
    site.enrol(card("omar", OMAR), 1)
    after = site.apply(site.signed(site.request(required=0)))
    assert (after.keys, after.approvals_required) == ({}, 0)
    with pytest.raises(NotFound, match="here: nobody"):
        site.request()


def test_a_statement_for_one_site_is_worth_nothing_at_another(site, tmp_path):
    site.enrol(card("omar", OMAR), 1)
    other = Approved(tmp_path / "other")
    other.forge = site.forge
    other.install(site.first)
    other.enrol(card("omar", OMAR), 1)
    with pytest.raises(OtherContent, match="another site"):
        other.apply(site.signed(site.request(newcomer=card("omar", PETRA))))


def verdict(site):
    generation = generations.load(site.paths, 1)
    return verify_site(
        site.paths.audit,
        known_site_keyid(site.paths),
        custodians(site.paths),
        [(generation, generation.path / "evidence/custody.jsonl")],
        NoBooks(),
        [],
        0,
        former=former_site_keyids(site.paths),
    )


class NoBooks:
    """The ledger of a site that nobody used."""

    def closed(self):
        return []

    def sums(self):
        return []


@pytest.mark.parametrize("loss", ["lost", "damaged", "stolen"])
def test_a_lost_key_of_the_site_is_replaced_and_its_trail_stays_whole(site, loss):
    old = site_key(site.paths)
    path = site.paths.trust / "site-key.pem"
    if loss == "lost":
        path.unlink()
        with pytest.raises(PlugskyError, match="is gone"):
            site_key(site.paths)
    elif loss == "damaged":
        path.write_bytes(b"x")
    statement = site.signed(site.request(SITE, "riyadh"))
    assert statement.change.old == statement.change.site == old.public_key.keyid
    after = site.apply(statement)
    new = site_key(site.paths)
    assert new.public_key.keyid == statement.change.new.keyid != old.public_key.keyid
    assert former_site_keyids(site.paths) == {old.public_key.keyid} == set(after.site_keys())
    assert not (site.paths.trust / "site-key.new.pem").exists()
    assert site.actions("trust.reset") == ["site"]
    names = chain_names(site.paths.audit)
    assert any("~2." in name for name in names)
    assert any("~2." not in name for name in names)
    assert verdict(site).ok, verdict(site).problems
    assert site.install(site.bundle(policy__x=b"x")).number == 2
    assert enrolled.card(site.paths, "riyadh").keyid == new.public_key.keyid
    with pytest.raises(Rollback):
        site.apply(statement)


def test_replacing_the_sites_key_is_finished_after_a_cut(site, monkeypatch):
    statement = site.signed(site.request(SITE, "riyadh"))
    with monkeypatch.context() as cut:
        cut.setattr(enrolled.enrolment, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.apply(statement)
    site.apply(statement)
    assert site.actions("trust.reset") == ["site"]
    assert verdict(site).ok


def test_replacing_the_sites_key_is_finished_after_a_cut_before_its_record(site):
    site.enrol(card("omar", OMAR), 1)
    statement = site.signed(site.request(SITE, "riyadh", required=0))
    trail, site.trail = site.trail, _cut
    with pytest.raises(KeyboardInterrupt):
        site.apply(statement)
    site.trail = trail
    with pytest.raises(PlugskyError, match="not the newest"):
        enrolled.load(site.paths)
    after = site.apply(statement, NOW + timedelta(days=60))
    assert (after.serial, after.approvals_required) == (1, 0)
    assert enrolled.load(site.paths) == after
    assert site.actions("trust.reset") == ["site"]
    with pytest.raises(Rollback):
        site.apply(statement)


def test_the_sites_new_key_is_the_one_that_was_asked_for(site):
    statement = site.signed(site.request(SITE, "riyadh"))
    keys.save(site.paths.trust / "site-key.new.pem", keys.generate(), None)
    with pytest.raises(KeyUnusable, match="another new key"):
        site.apply(statement)


def test_a_new_site_has_no_root_whose_people_could_be_asked(tmp_path):
    with pytest.raises(UntrustedRoot):
        Approved(tmp_path).request(SITE, "riyadh")


def test_a_damaged_chain_is_still_a_witness_that_the_site_had_a_key(site):
    for chain in site.paths.audit.glob("*/chain.jsonl"):
        chain.write_bytes(b"{}\n" + chain.read_bytes())
    (site.paths.trust / "site-key.pem").unlink()
    for use in (lambda: site_key(site.paths), lambda: site.request(SITE, "riyadh")):
        with pytest.raises(PlugskyError, match="is gone"):
            use()


def test_kept_generations_are_proved_by_the_root_of_their_time(site):
    old = site_trust.load(site.paths).root
    rotation.rotate(site.forge.trust, PASSPHRASE, rotation.RootChanges(renew=["snapshot"]), LATER)
    site.forge._signers.clear()
    site.install(site.bundle(policy__x=b"x"))
    assert site_trust.load(site.paths).root == open_trust(site.forge.trust).root_bytes != old
    snapshot = {keyid for root in (old, site_trust.load(site.paths).root) for keyid in _custodians(root)}
    assert custodians(site.paths) == snapshot
    assert len(snapshot) == 2
    assert verdict(site).ok or all("generation 2" in problem for problem in verdict(site).problems)


def _custodians(root: bytes) -> list[str]:
    return json.loads(root)["signed"]["roles"]["snapshot"]["keyids"]
