"""A channel whose versions were driven up as far as they go is recovered by a new root, and by nothing less."""

import pytest

from bundles.forge import NOW, Forge
from plugsky_bundles import keys
from plugsky_bundles.errors import Rollback
from plugsky_bundles.format import MAX_VERSION
from plugsky_bundles.media import open_bundle
from plugsky_bundles.recovery import remaining, voided
from plugsky_bundles.state import TrustState
from plugsky_bundles.verified import VerifiedBundle
from plugsky_bundles.verify import verify_metadata


def verify(bundle, anchor) -> VerifiedBundle:
    return verify_metadata(open_bundle(bundle), anchor, now=NOW)


def replace_keys(forge: Forge, *roles: str) -> bytes:
    """A new root in which new keys stand in the place of all keys of these roles."""

    def change(signed):
        for role in roles:
            for keyid in signed["roles"][role]["keyids"]:
                del signed["keys"][keyid]
                name = signed["x-plugsky-names"].pop(keyid)
                signer = keys.generate()
                keys.save(forge.trust / f"keys/{name}.pem", signer, b"correct horse")
                signed["keys"][signer.public_key.keyid] = signer.public_key.to_dict()
                signed["x-plugsky-names"][signer.public_key.keyid] = name
                signed["roles"][role]["keyids"] = [signer.public_key.keyid]

    return forge.rotate(change)


@pytest.fixture
def forge(tmp_path):
    return Forge(tmp_path)


@pytest.fixture
def driven_up(forge) -> TrustState:
    """A site that accepted version 2^31 - 1 of `demo`, and version 5 of another channel."""
    last = forge.sealed(version=MAX_VERSION, name="last")
    state = verify(forge.sealed(channel="other", version=5), verify(last, forge.fingerprint).state).state
    assert {f.versions["timestamp"] for f in state.floors.values()} == {MAX_VERSION, 5}
    (forge.trust / "channels/demo.json").unlink()
    return state


def after(forge: Forge, *roles: str, channel: str = "demo"):
    replace_keys(forge, *roles)
    if "snapshot" in roles:
        (forge.trust / "custody.jsonl").unlink()
    return forge.sealed(channel=channel, version=1, name="recovered")


def test_nothing_is_newer_than_the_largest_version(forge, driven_up):
    with pytest.raises(Rollback):
        verify(forge.sealed(version=1), driven_up)


def test_new_keys_of_the_machine_and_of_people_let_a_channel_begin_anew(forge, driven_up):
    recovered = verify(after(forge, "snapshot", "timestamp", "targets"), driven_up)
    assert recovered.state.floors["demo"].versions["timestamp"] == 1
    assert "other" not in recovered.state.floors


def test_floors_that_were_forgotten_count_again_from_what_is_accepted_next(forge, driven_up):
    state = verify(after(forge, "snapshot", "timestamp", "targets"), driven_up).state
    second = verify(forge.sealed(version=2), state).state
    with pytest.raises(Rollback):
        verify(forge.base / "recovered", second)


@pytest.mark.parametrize("roles", [("timestamp",), ("snapshot",), ("timestamp", "snapshot")], ids=str)
def test_a_new_build_machine_alone_never_lets_releases_go_back(forge, driven_up, roles):
    with pytest.raises(Rollback, match="targets"):
        verify(after(forge, *roles), driven_up)


def test_new_keys_of_people_alone_leave_the_floor_of_the_machine(forge, driven_up):
    with pytest.raises(Rollback, match="timestamp"):
        verify(after(forge, "targets"), driven_up)


def test_a_new_build_machine_goes_on_where_the_old_one_stood(forge, driven_up):
    state = verify(after(forge, "timestamp", channel="third"), driven_up).state
    assert set(state.floors) == {"demo", "other", "third"}
    assert "timestamp" not in state.floors["demo"].versions
    assert state.floors["demo"].versions["models"] == MAX_VERSION


def test_a_key_that_is_added_makes_nothing_void(forge):
    old = (forge.trust / "metadata/1.root.json").read_bytes()
    added = keys.generate()

    def add(signed):
        signed["keys"][added.public_key.keyid] = added.public_key.to_dict()
        signed["roles"]["timestamp"]["keyids"].append(added.public_key.keyid)

    assert voided(old, forge.rotate(add)) == frozenset()


@pytest.mark.parametrize(
    ("void", "left"),
    [
        (frozenset(), {"timestamp": 3, "snapshot": 3, "targets": 2, "models": 1}),
        (frozenset({"timestamp", "snapshot"}), {"targets": 2, "models": 1}),
        (frozenset({"timestamp", "snapshot", "targets"}), {}),
    ],
    ids=["nothing", "the machine's", "all"],
)
def test_what_remains_of_a_floor(void, left):
    assert remaining({"timestamp": 3, "snapshot": 3, "targets": 2, "models": 1}, void) == left
