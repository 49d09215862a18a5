"""A ceremony of people on machines of their own: cards, a root that waits, copies that are signed and joined."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bundles.forge import NOW, PASSPHRASE, Forge, envelope, sha256
from plugsky_bundles import ceremony, keys, sealing, signing, waiting
from plugsky_bundles.chain import verify_chain
from plugsky_bundles.errors import (
    AmbiguousKeys,
    BadKey,
    BadThreshold,
    Busy,
    ExistsError,
    FingerprintDiffers,
    KeyUnusable,
    MalformedMetadata,
    MetadataMissing,
    NotFound,
    OtherContent,
    PassphraseError,
    RootWaiting,
    SignatureInvalid,
    SignatureUnknown,
    ThresholdNotMet,
    UnsafeName,
    UntrustedRoot,
)
from plugsky_bundles.key_cards import Holder, KeyCard, check_fingerprint, make_key, read_card
from plugsky_bundles.locks import locked
from plugsky_bundles.media import open_bundle
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata

PEOPLE = ("amal", "boris", "chen")


class Ceremony:
    """Root 2 of 3 and targets 2 of 3, by the same three people; each keeps a directory of their own."""

    def __init__(self, base: Path):
        self.base = base
        self.cards = {name: make_key(name, base / name, name.encode()) for name in PEOPLE}
        cards = tuple(self.cards.values())
        self.made = ceremony.init(
            base / "trust",
            PASSPHRASE,
            root_keys=0,
            root_threshold=2,
            targets_keys=0,
            targets_threshold=2,
            root_cards=cards,
            targets_cards=cards,
            now=NOW,
        )
        self.trust = self.made.path

    def holder(self, name: str) -> Holder:
        return Holder(self.base / name, lambda: name.encode())

    def copy(self, name: str) -> Path:
        return Path(shutil.copytree(self.trust / "waiting", self.base / f"copy-{name}"))

    def signed_copy(self, name: str) -> Path:
        copy = self.copy(name)
        found = waiting.find(copy)
        assert waiting.sign(found, self.holder(name).signers(found.keyids)) == (name,)
        return copy

    def finish(self, *names: str):
        waiting.merge(waiting.find(self.trust), [self.signed_copy(name) for name in names])
        return waiting.finish(self.trust, PASSPHRASE, NOW)

    def draft(self) -> Path:
        forge = Forge.__new__(Forge)
        forge.base, forge.trust, forge._signers = self.base, self.trust, {}
        return forge.draft()


@pytest.fixture
def people(tmp_path) -> Ceremony:
    return Ceremony(tmp_path)


def test_a_root_whose_people_are_elsewhere_waits_and_has_no_fingerprint(people):
    assert people.made.fingerprint is None
    assert people.made.missing == PEOPLE
    assert sorted(path.name for path in (people.trust / "keys").iterdir()) == ["snapshot.pem", "timestamp.pem"]
    assert not (people.trust / "metadata/1.root.json").exists()
    assert not (people.trust / "custody.jsonl").exists()


def test_nothing_can_be_built_or_sealed_with_a_root_that_waits(people, tmp_path):
    bundle = Forge(tmp_path / "other").draft()
    for use in (
        lambda: open_trust(people.trust),
        lambda: sealing.seal(bundle, people.trust, PASSPHRASE, NOW),
        lambda: signing.sign(bundle, people.trust, PASSPHRASE),
        lambda: waiting.finish(people.trust, PASSPHRASE, NOW),
    ):
        with pytest.raises(RootWaiting) as caught:
            use()
        assert "plugsky trust sign" in caught.value.next


def test_a_root_below_its_threshold_is_not_used_wherever_it_lies(people):
    copy = people.signed_copy("amal")
    shutil.copy(copy / "1.root.json", people.trust / "metadata/1.root.json")
    with pytest.raises(ThresholdNotMet):
        open_trust(people.trust)


def test_copies_signed_on_different_machines_are_joined_and_the_root_is_finished(people):
    trust = people.finish("amal", "chen")
    assert sorted(trust.names[k] for k in json.loads(trust.root_bytes)["signed"]["roles"]["root"]["keyids"]) == list(
        PEOPLE
    )
    signers = [trust.names[s["keyid"]] for s in json.loads(trust.root_bytes)["signatures"]]
    assert sorted(signers) == ["amal", "chen"]
    assert not (people.trust / "waiting").exists()
    events = []
    verify_chain(people.trust / "custody.jsonl", on_record=lambda line: events.append(line.body))
    assert [(e["event"], e["root_fingerprint"], e["signers"]) for e in events] == [
        ("trust.init", sha256(trust.root_bytes), ["amal", "chen"])
    ]


def test_one_copy_may_go_from_signer_to_signer(people):
    copy = people.signed_copy("amal")
    found = waiting.find(copy)
    waiting.sign(found, people.holder("boris").signers(found.keyids))
    waiting.merge(waiting.find(people.trust), [copy])
    assert waiting.finish(people.trust, PASSPHRASE, NOW).root.version == 1


def test_a_finished_root_takes_no_further_signature(people):
    late = people.signed_copy("boris")
    trust = people.finish("amal", "chen")
    before = (people.trust / "metadata/1.root.json").read_bytes()
    with pytest.raises(ExistsError, match="finished"):
        waiting.refuse_more(people.trust, [late])
    waiting.refuse_more(people.trust, [people.base / "copy-amal"])
    with pytest.raises(NotFound):
        waiting.find(people.trust)
    assert not waiting.is_waiting(people.trust)
    assert (people.trust / "metadata/1.root.json").read_bytes() == before == trust.root_bytes


def test_a_complete_copy_takes_no_further_signature_and_cannot_be_finished_elsewhere(people):
    copy = people.signed_copy("amal")
    found = waiting.find(copy)
    waiting.sign(found, people.holder("boris").signers(found.keyids))
    before = (copy / "1.root.json").read_bytes()
    with pytest.raises(ExistsError, match="all the signatures"):
        waiting.sign(waiting.find(copy), people.holder("chen").signers(found.keyids))
    assert waiting.sign(waiting.find(copy), people.holder("amal").signers(found.keyids)) == ()
    with pytest.raises(NotFound, match="key"):
        waiting.finish(copy, PASSPHRASE, NOW)
    assert (copy / "1.root.json").read_bytes() == before


def test_a_root_is_not_finished_without_the_key_of_the_build_machine(people):
    waiting.merge(waiting.find(people.trust), [people.signed_copy("amal"), people.signed_copy("chen")])
    with pytest.raises(PassphraseError):
        waiting.finish(people.trust, b"wrong", NOW)
    assert waiting.is_waiting(people.trust)


def rewrite(path: Path, change) -> None:
    whole = json.loads(path.read_bytes())
    change(whole)
    path.write_bytes(encode(whole))


def stranger_signs(whole):
    stranger = keys.generate()
    whole["signatures"] = envelope(whole["signed"], [stranger])["signatures"]


BAD_COPIES = {
    "by a stranger": (stranger_signs, SignatureUnknown),
    "that does not fit": (lambda whole: whole["signatures"][0].update(sig="00" * 64), SignatureInvalid),
    "under other content": (lambda whole: whole["signed"]["roles"]["root"].update(threshold=1), SignatureInvalid),
    "twice": (lambda whole: whole["signatures"].append(whole["signatures"][0]), MalformedMetadata),
}


@pytest.mark.parametrize(("change", "error"), BAD_COPIES.values(), ids=BAD_COPIES.keys())
def test_a_copy_with_a_bad_signature_is_refused_by_name_and_nothing_is_taken(people, change, error):
    bad = people.signed_copy("amal")
    rewrite(bad / "1.root.json", change)
    before = (people.trust / "waiting/1.root.json").read_bytes()
    with pytest.raises(error, match="copy-amal") as caught:
        waiting.merge(waiting.find(people.trust), [people.signed_copy("chen"), bad])
    assert caught.value.exit_code == 5
    assert (people.trust / "waiting/1.root.json").read_bytes() == before


def test_a_copy_of_another_root_is_refused(people, tmp_path):
    other = Ceremony(tmp_path / "other")
    with pytest.raises(OtherContent, match="copy-amal"):
        waiting.merge(waiting.find(people.trust), [other.signed_copy("amal")])


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_copy_that_is_no_plain_file_is_not_waited_for(people, kind):
    copy = people.signed_copy("amal")
    file = copy / "1.root.json"
    aside = file.rename(copy / "aside")
    if kind == "link":
        file.symlink_to(aside)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    with pytest.raises(MalformedMetadata, match="no file"):
        waiting.merge(waiting.find(people.trust), [copy])


def test_a_copy_that_is_not_there_is_not_found(people, tmp_path):
    with pytest.raises(NotFound):
        waiting.merge(waiting.find(people.trust), [tmp_path / "nothing"])


def test_a_holder_signs_only_what_their_key_may_sign(people, tmp_path):
    make_key("eve", tmp_path / "eve", b"eve")
    eve = Holder(tmp_path / "eve", lambda: b"eve")
    with pytest.raises(KeyUnusable, match="may sign this"):
        eve.signers(waiting.find(people.trust).keyids)
    with pytest.raises(NotFound, match="boris"):
        people.holder("amal").signers(waiting.find(people.trust).keyids, ["boris"])
    with pytest.raises(PassphraseError):
        Holder(people.base / "amal", lambda: b"wrong").signers(waiting.find(people.trust).keyids)


def test_drafts_are_signed_on_copies_and_joined(people):
    pin = sha256(people.finish("amal", "boris").root_bytes)
    draft = people.draft()
    copies = [Path(shutil.copytree(draft, people.base / f"for-{name}")) for name in ("boris", "chen")]
    for copy, name in zip(copies, ("boris", "chen"), strict=True):
        signed = signing.sign_as_holder(copy, people.holder(name), pin=pin)
        assert (signed.added, signed.root_fingerprint, signed.missing) == ((name,), pin, 1)
    shutil.rmtree(copies[0] / "blobs")
    joined = signing.merge(draft, copies, open_trust(people.trust), lambda: PASSPHRASE, NOW)
    assert (joined.signers, joined.missing) == (("boris", "chen"), 0)
    sealing.seal(draft, people.trust, PASSPHRASE, NOW)
    verified = verify_metadata(open_bundle(draft), pin, now=NOW)
    assert [signer.name for signer in verified.signers["policy"]] == ["boris", "chen"]
    events = []
    verify_chain(people.trust / "custody.jsonl", on_record=lambda line: events.append(line.body["event"]))
    assert events == ["trust.init", "bundle.build", "bundle.sign", "bundle.seal", "bundle.sealed"]


def test_a_draft_below_its_threshold_is_not_sealed(people):
    people.finish("amal", "boris")
    draft = people.draft()
    signing.sign_as_holder(draft, people.holder("chen"))
    with pytest.raises(ThresholdNotMet):
        sealing.seal(draft, people.trust, PASSPHRASE, NOW)


def test_a_draft_under_another_root_than_the_paper_names_is_not_signed(people):
    people.finish("amal", "boris")
    with pytest.raises(FingerprintDiffers):
        signing.sign_as_holder(people.draft(), people.holder("chen"), pin="0" * 64)


def test_copies_of_another_draft_are_refused(people, tmp_path):
    people.finish("amal", "boris")
    draft = people.draft()
    other = people.base / "other"
    shutil.copytree(draft, other)
    for role in ("models", "policy"):
        rewrite(other / f"metadata/1.{role}.json", lambda whole: whole["signed"].update(expires="2031-01-01T00:00:00Z"))
    with pytest.raises(OtherContent, match="other"):
        signing.merge(draft, [other], None, lambda: PASSPHRASE, NOW)
    with pytest.raises(NotFound, match="nothing"):
        signing.merge(draft, [tmp_path / "nothing"], None, lambda: PASSPHRASE, NOW)


def test_a_sealed_bundle_takes_nothing_from_a_copy(people):
    people.finish("amal", "boris")
    draft = people.draft()
    late = Path(shutil.copytree(draft, people.base / "late"))
    for name in ("amal", "boris"):
        signing.sign_as_holder(draft, people.holder(name))
    sealing.seal(draft, people.trust, PASSPHRASE, NOW)
    signing.sign_as_holder(late, people.holder("chen"))
    with pytest.raises(ExistsError, match="seal"):
        signing.merge(draft, [late], None, lambda: PASSPHRASE, NOW)
    assert verify_metadata(open_bundle(draft), sha256(open_trust(people.trust).root_bytes), now=NOW)


def test_keys_made_here_and_cards_are_bound_together(tmp_path):
    amal = make_key("amal", tmp_path / "amal", b"amal")
    made = ceremony.init(tmp_path / "trust", PASSPHRASE, root_cards=[amal], root_keys=2, root_threshold=2, now=NOW)
    assert made.fingerprint is not None, "two of three are here"
    assert sorted(open_trust(made.path).names.values()) == [
        "amal",
        "root-1",
        "root-2",
        "snapshot",
        "targets-1",
        "timestamp",
    ]


def test_one_person_is_one_voice(tmp_path):
    amal = make_key("amal", tmp_path / "amal", b"amal")
    for twice in ([amal, amal], [amal, KeyCard("amal-2", amal.key)]):
        with pytest.raises(AmbiguousKeys, match="twice"):
            ceremony.init(tmp_path / "trust", PASSPHRASE, root_cards=twice, root_keys=0, root_threshold=2, now=NOW)
    with pytest.raises(AmbiguousKeys, match="called something else"):
        ceremony.init(
            tmp_path / "trust", PASSPHRASE, root_cards=[amal], targets_cards=[KeyCard("x", amal.key)], now=NOW
        )
    namesake = make_key("amal", tmp_path / "namesake", b"amal")
    with pytest.raises(AmbiguousKeys, match="two keys"):
        ceremony.init(tmp_path / "trust", PASSPHRASE, root_cards=[amal, namesake], root_keys=0, now=NOW)
    with pytest.raises(BadThreshold):
        ceremony.init(tmp_path / "trust", PASSPHRASE, root_cards=[amal], root_keys=0, root_threshold=2, now=NOW)
    assert not (tmp_path / "trust").exists()


def test_a_card_is_one_exact_file_whose_hash_is_told_apart_from_it(tmp_path):
    card = make_key("amal", tmp_path, b"amal")
    path = tmp_path / "amal.card.json"
    assert sha256(path.read_bytes()) == card.fingerprint
    assert read_card(path) == card
    check_fingerprint(card, card.fingerprint)
    renamed = KeyCard("boris", card.key)
    with pytest.raises(FingerprintDiffers):
        check_fingerprint(renamed, card.fingerprint)
    path.write_bytes(path.read_bytes() + b"\n")
    with pytest.raises(MalformedMetadata, match="canonical"):
        read_card(path)


BAD_CARDS = {
    "a key under another id": lambda card: card["key"].update(keyid="0" * 64),
    "a scheme that is not allowed": lambda card: card["key"].update(scheme="rsassa-pss-sha256"),
    "a field more": lambda card: card.update(role="root"),
    "another schema": lambda card: card.update(schema="plugsky.key-card/2"),
    "a name that is a path": lambda card: card.update(name="../amal"),
    "no name": lambda card: card.update(name=""),
}


@pytest.mark.parametrize("change", BAD_CARDS.values(), ids=BAD_CARDS.keys())
def test_a_wrong_card_is_refused(tmp_path, change):
    make_key("amal", tmp_path, b"amal")
    rewrite(tmp_path / "amal.card.json", change)
    with pytest.raises((MalformedMetadata, BadKey, UnsafeName)):
        read_card(tmp_path / "amal.card.json")


def test_no_key_is_made_over_one_that_is_there(tmp_path):
    make_key("amal", tmp_path, b"amal")
    before = (tmp_path / "amal.pem").read_bytes()
    with pytest.raises(ExistsError):
        make_key("amal", tmp_path, b"amal")
    (tmp_path / "amal.card.json").unlink()
    with pytest.raises(ExistsError):
        make_key("amal", tmp_path, b"amal")
    assert (tmp_path / "amal.pem").read_bytes() == before
    assert (tmp_path / "amal.pem").stat().st_mode & 0o777 == 0o600


def test_a_waiting_root_that_follows_another_one_is_not_signed(tmp_path):
    forge = Forge(tmp_path)
    other = Forge(tmp_path / "other")
    (forge.trust / "waiting").mkdir()
    shutil.copy(other.trust / "metadata/1.root.json", forge.trust / "waiting/1.root.json")
    second = json.loads((forge.trust / "metadata/1.root.json").read_bytes())["signed"] | {"version": 2}
    (forge.trust / "waiting/2.root.json").write_bytes(encode(envelope(second, [])))
    with pytest.raises(UntrustedRoot):
        waiting.find(forge.trust)


def test_a_draft_without_a_root_says_so(people, tmp_path):
    people.finish("amal", "boris")
    draft = people.draft()
    (draft / "metadata/1.root.json").unlink()
    with pytest.raises(MetadataMissing):
        signing.sign_as_holder(draft, people.holder("amal"))


@pytest.mark.parametrize("act", ["sign", "sign_as_holder", "merge"])
def test_nobody_signs_a_draft_while_somebody_else_does(people, act):
    """The second to write would lose the signature of the first."""
    people.finish("amal", "boris")
    draft = people.draft()
    acts = {
        "sign": lambda: signing.sign(draft, people.trust, PASSPHRASE),
        "sign_as_holder": lambda: signing.sign_as_holder(draft, people.holder("chen")),
        "merge": lambda: signing.merge(draft, [draft], None, lambda: PASSPHRASE, NOW),
    }
    with locked(draft, "a", "b"), pytest.raises(Busy, match="somebody else signs or merges it"):
        acts[act]()
