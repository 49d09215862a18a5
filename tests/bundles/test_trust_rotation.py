"""The next root: who must sign it, what it changes, and that sites and an unmodified python-tuf client follow it."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from bundles.forge import NOW, PASSPHRASE, Forge, sha256
from plugsky_bundles import ceremony, keys, rotation, sealing, signing, waiting
from plugsky_bundles.chain import verify_chain
from plugsky_bundles.errors import (
    AmbiguousKeys,
    BadThreshold,
    ExistsError,
    NotFound,
    Revoked,
    RootWaiting,
    ThresholdNotMet,
    VerificationError,
)
from plugsky_bundles.format import MAX_VERSION
from plugsky_bundles.full_read import verify_payload
from plugsky_bundles.key_cards import Holder, make_key
from plugsky_bundles.media import open_bundle
from plugsky_bundles.revoking import revoke
from plugsky_bundles.rotation import RootChanges
from plugsky_bundles.state import Revocations
from plugsky_bundles.trustdir import TrustDir, open_trust
from plugsky_bundles.verify import verify_metadata


@pytest.fixture
def forge(tmp_path) -> Forge:
    return Forge(tmp_path)


def rotate(forge: Forge, **changes):
    made = rotation.rotate(forge.trust, PASSPHRASE, RootChanges(**changes), NOW)
    forge._signers.clear()
    return made


def holder(base: Path, name: str) -> Holder:
    return Holder(base / name, lambda: name.encode())


def card(base: Path, name: str):
    return make_key(name, base / name, name.encode())


def test_a_root_whose_people_are_here_is_finished_at_once_and_in_the_custody_log(forge):
    before = open_trust(forge.trust)
    after = rotate(forge, lifetime=timedelta(days=30))
    assert isinstance(after, TrustDir)
    assert (after.root.version, after.root.expires) == (2, NOW + timedelta(days=30))
    assert after.root.roles["root"].keyids == before.root.roles["root"].keyids
    events = []
    verify_chain(forge.trust / "custody.jsonl", on_record=lambda line: events.append(line.body))
    assert [event["event"] for event in events] == ["trust.init", "trust.rotate"]
    assert events[1]["root_fingerprint"] == sha256(after.root_bytes)


def test_a_site_follows_from_the_first_root(forge):
    state = verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW).state
    rotate(forge)
    rotate(forge)
    followed = verify_metadata(open_bundle(forge.sealed()), state, now=NOW)
    assert followed.root_fingerprint == sha256(open_trust(forge.trust).root_bytes)


def test_a_key_is_replaced_with_the_signatures_of_both_thresholds(forge, tmp_path):
    hana = card(tmp_path, "hana")
    made = rotate(forge, add={"root": [hana]}, remove=["root-1"])
    assert isinstance(made, waiting.WaitingRoot)
    assert (made.signers, made.missing) == (("root-1",), ("hana",))
    assert [(t.version, t.signed, t.threshold) for t in made.tallies] == [(1, 1, 1), (2, 0, 1)]
    with pytest.raises(RootWaiting, match="waits"):
        waiting.finish(forge.trust, PASSPHRASE, NOW)
    assert open_trust(forge.trust).root.version == 1, "the old root stays in force meanwhile"
    copy = Path(shutil.copytree(forge.trust / "waiting", tmp_path / "copy"))
    found = waiting.find(copy)
    waiting.sign(found, holder(tmp_path, "hana").signers(found.keyids))
    waiting.merge(waiting.find(forge.trust), [copy])
    trust = waiting.finish(forge.trust, PASSPHRASE, NOW)
    assert trust.key_names(trust.root.roles["root"].keyids) == ("hana",)


def test_the_new_threshold_alone_is_not_enough(tmp_path):
    cards = [card(tmp_path, name) for name in ("amal", "boris", "chen")]
    ceremony.init(
        tmp_path / "trust", PASSPHRASE, root_cards=cards, root_keys=0, root_threshold=2, now=NOW, targets_keys=1
    )
    first = waiting.find(tmp_path / "trust")
    waiting.sign(first, [signer for name in ("amal", "boris") for signer in holder(tmp_path, name).signers(None)])
    waiting.finish(tmp_path / "trust", PASSPHRASE, NOW)
    made = rotation.rotate(tmp_path / "trust", PASSPHRASE, RootChanges(thresholds={"root": 1}, remove=["boris"]), NOW)
    assert isinstance(made, waiting.WaitingRoot)
    waiting.sign(made, holder(tmp_path, "amal").signers(made.keyids))
    assert [(t.signed, t.threshold) for t in waiting.find(tmp_path / "trust").tallies] == [(1, 2), (1, 1)]
    with pytest.raises(RootWaiting):
        waiting.finish(tmp_path / "trust", PASSPHRASE, NOW)
    waiting.sign(waiting.find(tmp_path / "trust"), holder(tmp_path, "boris").signers(made.keyids))
    assert waiting.finish(tmp_path / "trust", PASSPHRASE, NOW).root.roles["root"].threshold == 1


def test_a_root_that_skips_the_old_threshold_opens_no_trust_directory(forge):
    forge.rotate(by=[keys.generate()])
    with pytest.raises(VerificationError):
        open_trust(forge.trust)


def test_drafts_of_before_are_built_again_and_not_sealed(forge, tmp_path):
    draft = forge.draft()
    signing.sign(draft, forge.trust, PASSPHRASE)
    rotate(forge, add={"targets": [card(tmp_path, "dana")]})
    with pytest.raises((VerificationError, ThresholdNotMet)):
        sealing.seal(draft, forge.trust, PASSPHRASE, NOW)


CANNOT = {
    "nobody of that name": (lambda _: {"remove": ["nobody"]}, NotFound),
    "the last root key": (lambda _: {"remove": ["root-1"]}, BadThreshold),
    "a threshold above the number of keys": (lambda _: {"thresholds": {"targets": 2}}, BadThreshold),
    "a threshold of zero": (lambda _: {"thresholds": {"root": 0}}, BadThreshold),
    "a key of the machine": (lambda _: {"remove": ["snapshot"]}, NotFound),
    "a key that is there already": (lambda base: {"add": {"root": [card(base, "x")] * 2}}, AmbiguousKeys),
}


@pytest.mark.parametrize(("changes", "error"), CANNOT.values(), ids=CANNOT.keys())
def test_what_cannot_be_is_refused_and_leaves_nothing(forge, tmp_path, changes, error):
    before = sorted(forge.trust.rglob("*"))
    with pytest.raises(error):
        rotate(forge, **changes(tmp_path))
    assert sorted(forge.trust.rglob("*")) == before


def test_a_revoked_key_does_not_come_back(forge, tmp_path):
    eve = card(tmp_path, "eve")
    revoke(forge.trust, Revocations(keys=frozenset({eve.keyid})), lambda: PASSPHRASE, NOW)
    with pytest.raises(Revoked, match="eve"):
        rotate(forge, add={"root": [eve]})


def test_two_roots_of_one_number_cannot_both_wait_and_one_can_be_dropped(forge, tmp_path):
    hana = card(tmp_path, "hana")
    rotate(forge, add={"root": [hana]}, remove=["root-1"], renew=["timestamp"])
    with pytest.raises(ExistsError, match="--cancel"):
        rotate(forge)
    assert (forge.trust / "keys/timestamp-2.pem").exists()
    assert rotation.cancel(forge.trust) == 2
    assert not (forge.trust / "keys/timestamp-2.pem").exists()
    assert isinstance(rotate(forge), TrustDir)


@pytest.mark.parametrize("renew", [("snapshot",), ("timestamp",), ("snapshot", "timestamp")], ids=" and ".join)
def test_new_keys_of_the_build_machine_seal_the_next_bundle_and_continue_the_custody_log(forge, renew):
    old = open_trust(forge.trust)
    state = verify_metadata(open_bundle(forge.sealed()), forge.fingerprint, now=NOW).state
    trust = rotate(forge, renew=renew)
    assert isinstance(trust, TrustDir)
    bundle = forge.sealed()
    verified = verify_metadata(open_bundle(bundle), state, now=NOW)
    verify_payload(verified)
    for role in renew:
        assert set(trust.root.roles[role].keyids).isdisjoint(old.root.roles[role].keyids)
    events = []
    verify_chain(
        forge.trust / "custody.jsonl",
        trust.root.roles["snapshot"].keyids,
        on_record=lambda line: events.append(line.body),
    )
    assert events[0]["event"] == "trust.init"
    if "snapshot" in renew:
        (kept,) = forge.trust.glob("custody.*.jsonl")
        report = verify_chain(kept, old.root.roles["snapshot"].keyids)
        assert events[0]["continues"] == {"keyid": report.keyid, "seq": report.head.seq, "head": report.head.hash}
        assert events[1]["root_fingerprint"] == sha256(trust.root_bytes)


def test_a_rotation_by_command_recovers_a_channel_that_was_driven_up(forge, tmp_path):
    state = verify_metadata(
        open_bundle(forge.sealed(version=MAX_VERSION, name="last")), forge.fingerprint, now=NOW
    ).state
    (forge.trust / "channels/demo.json").unlink()
    shutil.rmtree(forge.trust / "channels", ignore_errors=True)
    made = rotate(
        forge, add={"targets": [card(tmp_path, "dana")]}, remove=["targets-1"], renew=["snapshot", "timestamp"]
    )
    assert isinstance(made, TrustDir)
    bundle = forge.draft(version=1)
    signing.sign_as_holder(bundle, holder(tmp_path, "dana"))
    sealing.seal(bundle, forge.trust, PASSPHRASE, NOW)
    assert verify_metadata(open_bundle(bundle), state, now=NOW).state.floors["demo"].versions["models"] == 1


class Directory(FetcherInterface):
    """Serves file: URLs, so that the client needs no network."""

    def _fetch(self, url):
        path = Path(unquote(urlparse(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"{path} is not there", 404)
        yield path.read_bytes()


def test_an_unmodified_python_tuf_client_follows_a_ceremony_and_a_rotation(tmp_path):
    now = datetime.now(UTC)
    cards = [card(tmp_path, name) for name in ("amal", "boris", "chen")]
    trust_dir = tmp_path / "trust"
    ceremony.init(
        trust_dir,
        PASSPHRASE,
        root_cards=cards,
        root_keys=0,
        root_threshold=2,
        targets_cards=cards[:2],
        targets_keys=0,
        targets_threshold=2,
        now=now,
    )
    found = waiting.find(trust_dir)
    waiting.sign(found, [s for name in ("amal", "chen") for s in holder(tmp_path, name).signers(None)])
    first = waiting.finish(trust_dir, PASSPHRASE, now).root_bytes
    made = rotation.rotate(
        trust_dir,
        PASSPHRASE,
        RootChanges(
            add={"root": [card(tmp_path, "hana")]},
            remove=["boris"],
            renew=["timestamp", "snapshot"],
            thresholds={"targets": 1},
        ),
        now,
    )
    assert isinstance(made, waiting.WaitingRoot)
    waiting.sign(made, [s for name in ("amal", "chen") for s in holder(tmp_path, name).signers(made.keyids)])
    waiting.finish(trust_dir, PASSPHRASE, now)
    forge = Forge.__new__(Forge)
    forge.base, forge.trust, forge._signers = tmp_path, trust_dir, {}
    bundle = forge.draft(now=now, expires=now + timedelta(days=1))
    signing.sign_as_holder(bundle, holder(tmp_path, "amal"))
    sealing.seal(bundle, trust_dir, PASSPHRASE, now)
    (tmp_path / "cache").mkdir()
    client = Updater(str(tmp_path / "cache"), f"file://{bundle}/metadata/", fetcher=Directory(), bootstrap=first)
    client.refresh()
    assert client.get_targetinfo("policy/channel.json") is not None
    assert verify_metadata(open_bundle(bundle), sha256(first), now=now).state.root != first
