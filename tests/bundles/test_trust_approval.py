"""Approvals and enrolled keys: who may say that a bundle is installed, and what does not count."""

import os
from datetime import timedelta
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles.forge import NOW, Forge
from plugsky_bundles import approval, dsse, keys, reset
from plugsky_bundles.approval import Approval
from plugsky_bundles.enrolment import APPROVER, COURIER, SITE, Enrolled, load, save
from plugsky_bundles.errors import (
    BadThreshold,
    EnrolmentLocked,
    EnrolmentRefused,
    MalformedMetadata,
    MetadataExpired,
    NotApproved,
    NotFound,
    OtherContent,
    Rollback,
    SignatureInvalid,
    SignatureUnknown,
    ThresholdNotMet,
    UnsafeName,
    VerificationError,
)
from plugsky_bundles.key_cards import KeyCard
from plugsky_bundles.media import open_bundle
from plugsky_bundles.reset import Change
from plugsky_bundles.returns import returns_of
from plugsky_bundles.state import Revocations
from plugsky_bundles.strict_json import encode, parse_object
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata

OMAR, PETRA, STRANGER, SITE_KEY = (keys.generate() for _ in range(4))


def card(name, signer=None) -> KeyCard:
    return KeyCard(name, (signer or keys.generate()).public_key)


def both(required: int = 1) -> Enrolled:
    enrolled = Enrolled().enrol(card("omar", OMAR), APPROVER, NOW)
    return enrolled.enrol(card("petra", PETRA), APPROVER, NOW, approvals_required=required)


@pytest.fixture(scope="module")
def verified(forge):
    return verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW)


@pytest.fixture(scope="module")
def other(forge, verified):
    bundle = forge.sealed(files={"policy/channel.json": b"{}"})
    return verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)


def approved(verified, signer=OMAR, name="omar") -> Approval:
    data = approval.approve(verified, signer, name, NOW)
    return Approval("here.approval.json", parse_object(data, "it", limit=1 << 20))


def check(verified, *approvals, required=1, installers=("salma",), site_keyid=None):
    return approval.check(verified, approvals, both(required), installers, site_keyid=site_keyid)


def test_an_approval_by_an_enrolled_approver_counts(verified):
    assert check(verified, approved(verified)) == ("omar",)
    assert check(verified, approved(verified), approved(verified, PETRA, "petra"), required=2) == ("omar", "petra")


def test_a_site_that_asks_for_none_needs_none(verified):
    assert approval.check(verified, [], Enrolled(), ["salma"]) == ()


def tampered(found: Approval, **changes) -> Approval:
    return Approval(found.place, {**found.envelope, **changes})


def with_payload(found: Approval, **changes) -> Approval:
    said = parse_object(dsse._unb64(found.envelope["payload"]), "it", limit=1 << 20)
    return tampered(found, payload=dsse._b64(encode(said | changes)))


class Bundles(NamedTuple):
    """The bundle to be installed, and another one of its channel."""

    this: VerifiedBundle
    other: VerifiedBundle


DOES_NOT_COUNT = {
    "none": (lambda _: (), {}, "0 of 1"),
    "one of another bundle": (lambda b: (approved(b.other),), {}, "of another bundle, demo version 2"),
    "one by a key that is not enrolled": (lambda b: (approved(b.this, STRANGER),), {}, "not enrolled"),
    "one by the user who installs": (lambda b: (approved(b.this),), {"installers": ("OMAR",)}, "the one who installs"),
    "one by a login of the same person": (lambda b: (approved(b.this),), {"installers": ("root", "omar")}, "installs"),
    "one with the site's own key": (
        lambda b: (approved(b.this),),
        {"site_keyid": OMAR.public_key.keyid},
        "the site's own key",
    ),
    "two by the same approver": (lambda b: (approved(b.this), approved(b.this)), {"required": 2}, "1 of 2"),
    "one that was changed": (lambda b: (with_payload(approved(b.this), by="petra"),), {}, "signed something else"),
    "one that says who else signed": (lambda b: (approved(b.this, STRANGER, "omar"),), {}, "not enrolled"),
    "one meant as something else": (lambda b: (tampered(approved(b.this), payloadType="x"),), {}, "its type"),
    "one without a signature": (lambda b: (tampered(approved(b.this), signatures=[]),), {}, "exactly one signature"),
}


@pytest.mark.parametrize(("approvals", "options", "why"), DOES_NOT_COUNT.values(), ids=DOES_NOT_COUNT.keys())
def test_what_does_not_count_is_said(verified, other, approvals, options, why):
    with pytest.raises(NotApproved, match=why) as caught:
        check(verified, *approvals(Bundles(verified, other)), **options)
    assert caught.value.exit_code == 6


def test_a_revoked_approver_does_not_count(forge, verified, other):
    revoked = Revocations(keys=frozenset({OMAR.public_key.keyid}))
    bundle = forge.sealed(channel="revoking", revocations=revoked)
    later = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    with pytest.raises(NotApproved, match="revoked"):
        check(later, approved(later))
    assert check(later, approved(later), approved(later, PETRA, "petra")) == ("petra",)


def test_a_bad_approval_hides_no_good_one(verified, other):
    assert check(verified, approved(other), approved(verified, STRANGER), approved(verified)) == ("omar",)


def test_approvals_are_found_beside_the_bundle_whatever_else_lies_there(verified):
    returns = returns_of(verified.bundle.path)
    place = approval.put(verified, approval.approve(verified, OMAR, "omar", NOW), OMAR.public_key.keyid, returns)
    assert place.name == f"demo-1-{OMAR.public_key.keyid[:8]}.approval.json"
    (returns / "a.approval.json").write_bytes(b"\xff")
    (returns / "b.approval.json").symlink_to(place)
    (returns / "c.approval.json").mkdir()
    os.mkfifo(returns / "d.approval.json")
    (returns / "e.approval.json").write_bytes(b"[" * 100_000)
    found = list(approval.beside(verified, both()))
    assert [a.place for a in found] == [str(place)]
    assert check(verified, *found) == ("omar",)
    with pytest.raises(MalformedMetadata, match="no file"):
        approval.read(returns / "d.approval.json")


def test_no_number_of_useless_approvals_hides_a_good_one(forge):
    verified = verify_metadata(open_bundle(forge.sealed(channel="crowded")), forge.fingerprint, now=NOW)
    returns = returns_of(verified.bundle.path)
    returns.mkdir(exist_ok=True)
    for number in range(70):
        (returns / f"00{number:03}.approval.json").write_text("{}")
    put = approval.put(verified, approval.approve(verified, OMAR, "omar", NOW), OMAR.public_key.keyid, returns)
    assert next(approval.beside(verified, both())).place == str(put)
    assert check(verified, *approval.beside(verified, both())) == ("omar",)
    put.rename(returns / "zz.approval.json")
    assert check(verified, *approval.beside(verified, both())) == ("omar",)
    (returns / "zz.approval.json").unlink()
    with pytest.raises(NotApproved, match="more do not count"):
        check(verified, *approval.beside(verified, both()))


def test_an_approval_is_not_written_through_a_link(forge, tmp_path):
    bundle = forge.sealed(channel="linked").rename(tmp_path / "linked")
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    (tmp_path / "elsewhere").mkdir()
    returns_of(bundle).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeName, match="is a link"):
        approval.put(verified, b"{}", OMAR.public_key.keyid, returns_of(bundle))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_two_names_that_differ_in_case_alone_are_one_person(verified):
    enrolled = Enrolled().enrol(card("omar", OMAR), APPROVER, NOW)
    with pytest.raises(EnrolmentRefused, match="Omar"):
        enrolled.enrol(card("Omar", PETRA), APPROVER, NOW)
    made_before = Enrolled({**enrolled.keys, **Enrolled().enrol(card("Omar", PETRA), APPROVER, NOW).keys}, 2)
    with pytest.raises(NotApproved, match="1 of 2"):
        approval.check(verified, [approved(verified), approved(verified, PETRA, "Omar")], made_before, ["salma"])


def test_an_enrolled_list_is_read_back_as_it_was_written(tmp_path):
    enrolled = both().replaced(None, card("riyadh", SITE_KEY), SITE, NOW, approvals_required=None)
    save(tmp_path, enrolled)
    assert load(tmp_path) == enrolled
    assert set(enrolled.site_keys()) == {SITE_KEY.public_key.keyid}
    assert (tmp_path / "enrolled.json").stat().st_mode & 0o777 == 0o600
    assert load(tmp_path / "elsewhere") == Enrolled()


@given(st.binary(max_size=400))
def test_a_list_that_cannot_be_read_is_never_nobody(data):
    with pytest.raises(VerificationError):
        Enrolled.from_json(data)


def test_a_site_that_asks_for_approvals_changes_its_keys_by_statement_only():
    locked = both()
    for change in (
        lambda: locked.enrol(card("eve"), APPROVER, NOW),
        lambda: locked.enrol(card("omar", OMAR), APPROVER, NOW, approvals_required=0),
        lambda: locked.enrol(card("mine", SITE_KEY), SITE, NOW),
    ):
        with pytest.raises(EnrolmentLocked, match="statement"):
            change()
    assert locked.enrol(card("omar", OMAR), APPROVER, NOW) == locked, "what is so already may be said again"


def test_a_key_stands_for_one_person_in_one_role():
    enrolled = Enrolled().enrol(card("omar", OMAR), APPROVER, NOW)
    with pytest.raises(EnrolmentRefused, match="approver omar"):
        enrolled.enrol(card("petra", OMAR), APPROVER, NOW)
    with pytest.raises(EnrolmentRefused):
        enrolled.enrol(card("omar", OMAR), SITE, NOW)
    with pytest.raises(EnrolmentRefused, match="omar"):
        enrolled.enrol(card("omar", PETRA), APPROVER, NOW)


def test_no_more_approvals_are_required_than_people_can_give():
    with pytest.raises(BadThreshold):
        Enrolled().enrol(card("omar", OMAR), APPROVER, NOW, approvals_required=2)
    with pytest.raises(BadThreshold):
        both(2).replaced(OMAR.public_key.keyid, None, APPROVER, NOW, approvals_required=None)
    with pytest.raises(NotFound):
        both().replaced("0" * 64, None, APPROVER, NOW, approvals_required=None)


def test_a_key_is_replaced_in_its_own_role_only():
    ben = card("ben")
    enrolled = Enrolled().enrol(ben, COURIER, NOW).enrol(card("omar", OMAR), APPROVER, NOW, approvals_required=1)
    with pytest.raises(NotFound, match="as courier"):
        enrolled.replaced(OMAR.public_key.keyid, card("eve"), COURIER, NOW, approvals_required=None)
    with pytest.raises(NotFound, match="as approver"):
        enrolled.replaced(ben.keyid, card("eve"), APPROVER, NOW, approvals_required=None)
    after = enrolled.replaced(ben.keyid, card("carla"), COURIER, NOW, approvals_required=None)
    assert [(e.role, e.name) for e in after.keys.values()] == [(APPROVER, "omar"), (COURIER, "carla")]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A root of three, two of whom must sign, with their keys."""
    forge = Forge(tmp_path_factory.mktemp("people"), root_keys=3, root_threshold=2)
    return open_trust(forge.trust).root, forge.signers("root")


def asked(root, *, serial=1, new="petra-2") -> reset.Reset:
    change = Change(SITE_KEY.public_key.keyid, serial, APPROVER, PETRA.public_key.keyid, new and card(new, STRANGER), 1)
    return reset.request(change, root, NOW)


def test_a_statement_is_signed_on_copies_joined_and_counted_by_the_root(people):
    root, (first, second, third) = people
    request = reset.from_json(asked(root).to_json(), "it")
    assert (request.missing, request.change) == (2, asked(root).change)
    copies = {name: request.signed_by([signer]) for name, signer in (("first", first), ("third", third))}
    joined = reset.from_json(reset.merge(request, copies).to_json(), "it")
    assert joined.missing == 0
    change = reset.check(joined, root)
    reset.check_serial(change, SITE_KEY.public_key.keyid, both())
    after = both().replaced(change.old, change.new, change.role, NOW, approvals_required=change.approvals_required)
    assert sorted(e.name for e in after.keys.values()) == ["omar", "petra-2"]
    assert (after.serial, after.approvals_required) == (1, 1)
    with pytest.raises(Rollback, match="each is used once"):
        reset.check_serial(change, SITE_KEY.public_key.keyid, after)
    assert reset.merge(joined, {"second": request.signed_by([second])}).missing == 0


def test_a_statement_for_another_site_is_refused(people):
    root, signers = people
    with pytest.raises(OtherContent, match="another site"):
        reset.check_serial(asked(root).signed_by(signers).change, "0" * 64, both())


def test_a_statement_is_good_for_thirty_days(people):
    root, _ = people
    statement = reset.from_json(asked(root).to_json(), "it")
    assert statement.expires == NOW + timedelta(days=30)
    reset.check_date(statement, NOW + timedelta(days=29))
    with pytest.raises(MetadataExpired, match="too old"):
        reset.check_date(statement, NOW + timedelta(days=30))


@pytest.mark.parametrize(("old", "new"), [("1" * 64, "site"), (SITE_KEY.public_key.keyid, None)], ids=["a key", "none"])
def test_a_statement_about_a_sites_key_replaces_that_very_key(people, old, new):
    change = Change(SITE_KEY.public_key.keyid, 1, SITE, old, new and card(new), 0)
    with pytest.raises(MalformedMetadata, match="its own key goes"):
        reset.from_json(reset.request(change, people[0], NOW).to_json(), "it")


def test_a_statement_below_the_threshold_of_the_root_is_refused(people):
    root, (first, *_) = people
    with pytest.raises(ThresholdNotMet):
        reset.check(asked(root).signed_by([first]), root)


def test_the_signature_of_a_revoked_holder_does_not_count_for_a_statement(people):
    root, (first, second, _) = people
    with pytest.raises(ThresholdNotMet):
        reset.check(asked(root).signed_by([first, second]), root, revoked=[second.public_key.keyid])


def test_the_people_that_a_statement_names_itself_do_not_count(people, tmp_path):
    root, _ = people
    pretender = Forge(tmp_path, root_keys=2, root_threshold=2)
    forged = asked(open_trust(pretender.trust).root).signed_by(pretender.signers("root"))
    assert forged.missing == 0
    with pytest.raises(SignatureUnknown):
        reset.check(forged, root)


def test_copies_of_another_request_and_signatures_of_strangers_are_refused(people):
    root, (first, *_) = people
    with pytest.raises(OtherContent, match="that one"):
        reset.merge(asked(root), {"that one": asked(root, serial=2).signed_by([first])})
    with pytest.raises(SignatureUnknown):
        reset.from_json(asked(root).signed_by([STRANGER]).to_json(), "it")
    signed = asked(root).signed_by([first])
    envelope = signed.joint.to_dict()
    envelope["signatures"][0]["sig"] = dsse._b64(bytes(64))
    with pytest.raises(SignatureInvalid):
        reset.from_json(encode(envelope), "it")
    with pytest.raises(MalformedMetadata, match="each once"):
        reset.from_json(encode({**envelope, "signatures": envelope["signatures"] * 2}), "it")


@given(st.binary(max_size=300))
def test_what_is_no_statement_is_refused(data):
    with pytest.raises(VerificationError):
        reset.from_json(data, "it")
