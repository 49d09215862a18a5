"""`plugsky bundle verify` and the one-file verifier say the same of every bundle, right or wrong, by the same name."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bootstrap import plugsky_verify as verifier
from bundles.corpus import WRONG, resign_role
from bundles.delta_site import Site as DeltaSite
from bundles.forge import LIFETIME, NOW, Forge, copy_of, envelope, put_blob, sha256, signed_parts, take_over
from bundles.judges import kernel, one_file, site_with, verdict
from bundles.test_delta_verify import BAD_FIELDS, BAD_LISTS, MIXED, Bench, left_out, with_list
from bundles.test_trust_recovery import after as after_new_keys
from plugsky_bundles import errors, keys
from plugsky_bundles.format import ROLES, encode_chunk_list
from plugsky_bundles.media import open_bundle
from plugsky_bundles.state import Floor, Revocations, TrustState
from plugsky_bundles.strict_json import encode
from plugsky_bundles.trustdir import open_trust
from plugsky_bundles.verify import verify_metadata


def pin_of(bundle: Path) -> str:
    return sha256((bundle / "metadata/1.root.json").read_bytes())


@pytest.mark.parametrize("scheme", [keys.ED25519, keys.P256])
@pytest.mark.parametrize("threshold", [1, 2])
def test_right_bundles_are_right_to_both(tmp_path, scheme, threshold):
    forge = Forge(tmp_path, 3, 2, 3, threshold, scheme)
    assert verdict(forge.sealed(), forge.fingerprint) == "ok"


@pytest.mark.parametrize("name", WRONG)
def test_wrong_metadata_is_wrong_to_both(forge, bundle, name):
    WRONG[name](forge, bundle)
    assert verdict(bundle, pin_of(bundle)) != "ok"


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit of the first byte": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "a bit in the middle": lambda data: bytes(byte ^ 32 * (at == len(data) // 2) for at, byte in enumerate(data)),
    "a bit of the last byte": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a byte cut off": lambda data: data[:-1],
    "everything cut off": lambda _: b"",
    "a byte added": lambda data: data + b"\n",
    "a second copy added": lambda data: data + data,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_file_is_wrong_to_both(forge, bundle, change):
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.write_bytes(change(data))
        assert verdict(bundle, forge.fingerprint) != "ok", path
        path.write_bytes(data)
    assert verdict(bundle, forge.fingerprint) == "ok"


@pytest.mark.parametrize("name", ["1.root.json", "timestamp.json"])
@pytest.mark.parametrize("bit", [1, 32])
def test_any_changed_byte_of_what_only_signatures_protect_has_one_name(forge, bundle, name, bit):
    path = bundle / "metadata" / name
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        root = name == "1.root.json"
        assert verdict(bundle, pin_of(bundle) if root else forge.fingerprint, full=False) != "ok"


def test_a_file_more_or_less_is_wrong_to_both(forge, bundle):
    for path in sorted(path for path in bundle.rglob("*") if path.is_file()):
        path.rename(bundle.with_name("aside"))
        assert verdict(bundle, forge.fingerprint) in ("blob_missing", "metadata_missing")
        bundle.with_name("aside").rename(path)
    for name in (
        "extra",
        "metadata/2.root.json.bak",
        "metadata/2.targets.json",
        "blobs/aa/x",
        "docs/a/b",
        "install.sh",
    ):
        path = bundle / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        assert verdict(bundle, forge.fingerprint) == "unlisted_file"
        path.unlink()
        (bundle / "docs").exists() and shutil.rmtree(bundle / "docs")
        (bundle / "blobs/aa").exists() and not any((bundle / "blobs/aa").iterdir()) and (bundle / "blobs/aa").rmdir()
    put_blob(bundle, b"of another bundle")
    assert verdict(bundle, forge.fingerprint) == "unlisted_file"


KINDS: dict[str, Callable[[Path, Path], Any]] = {
    "link": lambda path, aside: path.symlink_to(aside),
    "hanging link": lambda path, _: path.symlink_to("nowhere"),
    "pipe": lambda path, _: os.mkfifo(path),
    "directory": lambda path, _: path.mkdir(),
    "deep directory": lambda path, _: (path / "/".join("abcdefghijklm")).mkdir(parents=True),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_anything_but_a_file_is_wrong_to_both(forge, right, tmp_path, kind):
    for number, name in enumerate(["metadata/timestamp.json", "evidence/custody.jsonl", "README.txt", "blobs"]):
        bundle = Path(shutil.copytree(right, tmp_path / f"{number}"))
        (bundle / name).rename(tmp_path / f"aside-{number}")
        kind(bundle / name, tmp_path / f"aside-{number}")
        assert verdict(bundle, forge.fingerprint) in ("unlisted_file", "metadata_missing", "blob_missing")


def test_what_is_no_bundle_is_none_to_both(forge, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    assert {verdict(tmp_path / name, forge.fingerprint) for name in ("nothing", "file", "empty")} == {"not_found"}
    assert verdict(forge.draft(channel="draft"), forge.fingerprint) == "not_sealed"


def test_who_signed_what_is_judged_alike(forge, bundle, tmp_path):
    stranger = keys.generate()
    signers = {
        "signature_missing": [],
        "signature_unknown": [*forge.signers("targets"), stranger],
    }
    for expected, who in signers.items():
        for role in ("targets", *ROLES):
            copy = copy_of(bundle, f"{expected}-{role}")
            resign_role(forge, copy, role, encode(envelope(signed_parts(copy)[role], who)))
            assert verdict(copy, forge.fingerprint) == expected
    several = Forge(tmp_path / "several", targets_keys=3, targets_threshold=2)
    copy = several.sealed()
    resign_role(several, copy, "models", encode(envelope(signed_parts(copy)["models"], several.signers("targets")[:1])))
    assert verdict(copy, several.fingerprint) == "threshold_not_met"
    parts = signed_parts(bundle)
    other = envelope(parts["python"], forge.signers("targets"))
    other["signed"] = parts["models"]
    resign_role(forge, bundle, "models", encode(other))
    assert verdict(bundle, forge.fingerprint) == "signature_invalid"


def test_chunks_of_another_order_are_found_by_both(forge, bundle):
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    chunks = verified.entries["models/tiny/tiny.gguf"].chunks
    blob = put_blob(bundle, encode_chunk_list((chunks[1], chunks[0], chunks[2])))
    old = verified.lists["models/tiny/tiny.gguf"].sha256
    (bundle / f"blobs/{old[:2]}/sha256-{old}").unlink()
    if not any((bundle / f"blobs/{old[:2]}").iterdir()):
        (bundle / f"blobs/{old[:2]}").rmdir()

    def point(signed):
        signed["targets"]["models/tiny/tiny.gguf"]["custom"]["chunks"] = {"length": blob.length, "sha256": blob.sha256}

    forge.alter(bundle, "models", point)
    assert verdict(bundle, forge.fingerprint, full=False) == "ok"
    assert verdict(bundle, forge.fingerprint) == "digest_mismatch"


CUSTODY: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "as it is": lambda lines: lines,
    "a record removed": lambda lines: [*lines[:2], *lines[3:]],
    "two lines swapped": lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
    "a line twice": lambda lines: [*lines[:2], *lines[1:]],
    "the last signature cut off": lambda lines: lines[:-1],
    "cut behind an older signature": lambda lines: lines[:2],
    "a record behind the last signature": lambda lines: [*lines, lines[-1]],
    "no lines": lambda _: [],
    "no first line": lambda lines: lines[1:],
    "a torn last line": lambda lines: [*lines[:-1], lines[-1][:-10]],
    "an empty line": lambda lines: [lines[0], b"\n", *lines[1:]],
    "spaces": lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
    "words": lambda lines: [b"not json\n", *lines[1:]],
    "numbers": lambda lines: [b"1\n", *lines[1:]],
    "three strings": lambda lines: [b'{"a":"","b":"","c":""}\n', *lines[1:]],
    "deep brackets": lambda lines: [b"[" * 100_000 + b"]" * 100_000 + b"\n", *lines],
    "a line of two megabytes": lambda lines: [b'"' + b"x" * (2 << 20) + b'"\n', *lines],
    "two megabytes without an end": lambda lines: [*lines, b"x" * (2 << 20)],
    "a signature of another key": lambda lines: [*lines[:-1], other_key(lines[-1])],
    "a signature of zeros": lambda lines: [*lines[:-1], edited(lines[-1], lambda s: s.update(sig="AA=="))],
    "a signature of no base64": lambda lines: [*lines[:-1], edited(lines[-1], lambda s: s.update(sig="%"))],
    "a signature with a line end": lambda lines: [*lines[:-1], edited(lines[-1], lambda s: s.update(sig="AA==\n"))],
    "a signature that is a number": lambda lines: [*lines[:-1], edited(lines[-1], lambda s: s.update(sig=1))],
    "a signature without a keyid": lambda lines: [*lines[:-1], edited(lines[-1], lambda s: s.pop("keyid"))],
    "no signatures": lambda lines: [*lines[:-1], edited(lines[-1], lambda _: None, lambda c: c.update(signatures=[]))],
    "two signatures": lambda lines: [
        *lines[:-1],
        edited(lines[-1], lambda _: None, lambda c: c.update(signatures=c["signatures"] * 2)),
    ],
    "a payload of something else": lambda lines: [
        *lines[:-1],
        edited(lines[-1], lambda _: None, lambda c: c.update(payload="e30=")),
    ],
    "another type of payload": lambda lines: [
        *lines[:-1],
        edited(lines[-1], lambda _: None, lambda c: c.update(payloadType="text/plain")),
    ],
    "a genesis of another kind": lambda lines: [lines[0].replace(b"plugsky.chain/1", b"plugsky.chain/2"), *lines[1:]],
    "a genesis of a stranger": lambda lines: [lines[0].replace(b'"keyid":"', b'"keyid":"0'), *lines[1:]],
}


def other_key(line: bytes) -> bytes:
    return edited(line, lambda signature: signature.update(keyid="0" * 64))


def edited(line: bytes, signature: Callable[[dict], Any], commit: Callable[[dict], Any] = lambda _: None) -> bytes:
    value = json.loads(line)
    signature(value["commit"]["signatures"][0])
    commit(value["commit"])
    return encode(value) + b"\n"


@pytest.mark.parametrize("change", CUSTODY.values(), ids=CUSTODY.keys())
def test_a_custody_log_is_judged_alike_even_when_it_was_sealed_so(forge, bundle, change):
    path = bundle / "evidence/custody.jsonl"
    data = b"".join(change(path.read_bytes().splitlines(keepends=True)))
    path.write_bytes(data)

    def describe(signed):
        signed["x-plugsky-evidence"]["evidence/custody.jsonl"] = {"length": len(data), "sha256": sha256(data)}

    forge.alter(bundle, "snapshot", describe)
    whole = change is CUSTODY["as it is"] or change is CUSTODY["cut behind an older signature"]
    assert verdict(bundle, forge.fingerprint) in (("ok", "chain_error") if whole else ("chain_error",))


# What a site knows


def test_time_is_judged_alike(forge, bundle, tmp_path):
    times = {
        NOW - timedelta(days=2): "ok",
        NOW - timedelta(days=2, seconds=1): "sealed_in_future",
        NOW + LIFETIME - timedelta(seconds=1): "ok",
        NOW + LIFETIME: "metadata_expired",
    }
    for now, expected in times.items():
        assert verdict(bundle, forge.fingerprint, now=now) == expected
    root = open_trust(forge.trust).root_bytes
    late = site_with(tmp_path / "late", TrustState(root, time=NOW + LIFETIME))
    assert verdict(bundle, None, late, now=NOW - timedelta(days=9000)) == "metadata_expired"
    ahead = site_with(tmp_path / "ahead", TrustState(root, time=NOW))
    assert verdict(bundle, None, ahead, now=NOW - timedelta(days=9000)) == "ok"


def test_floors_are_judged_alike(tmp_path):
    forge = Forge(tmp_path)
    old, new = forge.sealed(), forge.sealed(files={"policy/channel.json": b"{}"})
    state = verify_metadata(open_bundle(new), forge.fingerprint, now=NOW).state
    site = site_with(tmp_path / "site", state)
    assert verdict(old, None, site) == "rollback"
    assert verdict(new, None, site) == "ok"
    assert verdict(forge.sealed(channel="other"), None, site) == "ok"
    forge.alter(new, "models", lambda signed: signed.update(other=1))
    assert verdict(new, None, site) == "rollback"
    floor = state.floors["demo"]
    for role in ("targets", "snapshot", "timestamp", *ROLES):
        versions = {**floor.versions, "timestamp": 1, role: 9}
        higher = {"demo": Floor(versions, floor.bundle_id)}
        assert verdict(new, None, site_with(tmp_path / role, TrustState(state.root, higher))) == "rollback"


def test_roots_are_followed_alike(tmp_path):
    forge = Forge(tmp_path)
    first = open_trust(forge.trust).root_bytes
    second = forge.rotate()
    bundle = forge.sealed()
    third = forge.rotate()
    sites = {data: site_with(tmp_path / f"site-{n}", TrustState(data)) for n, data in enumerate((first, second, third))}
    for anchor in (sha256(first), sha256(second)):
        assert verdict(bundle, anchor) == "ok"
    for site in sites.values():
        assert verdict(bundle, None, site) == "ok"
    for anchor in (sha256(third), "0" * 64):
        assert verdict(bundle, anchor) == "untrusted_root"
    stranger = site_with(tmp_path / "other", TrustState(open_trust(Forge(tmp_path / "stranger").trust).root_bytes))
    assert verdict(bundle, None, stranger) == "untrusted_root"
    (bundle / "metadata/1.root.json").unlink()
    assert verdict(bundle, None, sites[first]) == "ok"
    assert verdict(bundle, sha256(first)) == "untrusted_root"
    newest = forge.sealed(name="newest")
    (newest / "metadata/2.root.json").unlink()
    assert verdict(newest, sha256(first)) == "untrusted_root"
    (newest / "metadata/1.root.json").unlink()
    assert verdict(newest, None, sites[first]) == "untrusted_root"
    assert verdict(newest, None, sites[second]) == "ok"


def test_a_root_by_other_keys_is_refused_alike(tmp_path):
    forge = Forge(tmp_path)
    bundle = forge.sealed()
    stranger = keys.generate()
    (bundle / "metadata/2.root.json").write_bytes(forge.rotate(partial(take_over, signer=stranger), by=[stranger]))
    assert verdict(bundle, forge.fingerprint) == "threshold_not_met"


def test_a_pin_that_contradicts_the_site_is_refused(forge, right, tmp_path):
    """As `plugsky bundle install` does; `bundle verify` goes by the pin alone."""
    site = site_with(tmp_path / "site", TrustState(open_trust(forge.trust).root_bytes))
    assert one_file(right, forge.fingerprint, site) == "ok"
    assert one_file(right, "0" * 64, site) == "untrusted_root"


def test_revocations_are_judged_alike(tmp_path):
    forge = Forge(tmp_path, targets_keys=3, targets_threshold=2)
    bundle = forge.sealed()
    verified = verify_metadata(open_bundle(bundle), forge.fingerprint, now=NOW)
    root = open_trust(forge.trust).root_bytes
    entry = verified.entries["models/tiny/tiny.gguf"]
    one, two = (signer.public_key.keyid for signer in forge.signers("targets")[:2])
    snapshot = forge.signers("snapshot")[0].public_key.keyid
    lists = {
        "nothing of it": (Revocations(digests=frozenset({"ab" * 32})), "ok"),
        "the bundle": (Revocations(bundles=frozenset({verified.bundle_id})), "revoked"),
        "a file": (Revocations(digests=frozenset({entry.sha256})), "revoked"),
        "a chunk": (Revocations(digests=frozenset({entry.chunks[1].sha256})), "revoked"),
        "one key of three": (Revocations(keys=frozenset({one})), "ok"),
        "two keys of three": (Revocations(keys=frozenset({one, two})), "revoked"),
        "the key of the snapshot": (Revocations(keys=frozenset({snapshot})), "revoked"),
    }
    for name, (revoked, expected) in lists.items():
        assert verdict(bundle, None, site_with(tmp_path / name, TrustState(root, revocations=revoked))) == expected
        if name not in ("the bundle", "nothing of it"):
            assert (
                verdict(carrying(forge, copy_of(bundle, f"with {name}"), revoked.to_json()), forge.fingerprint)
                == expected
            )


@pytest.mark.parametrize("data", [b"{}", b"[]", b'{"schema":"plugsky.revocations/1","bundles":[]}', b"x", b"[" * 99])
def test_unreadable_revocations_are_refused_alike(forge, bundle, data):
    assert verdict(carrying(forge, bundle, data), forge.fingerprint) == "malformed_metadata"


def carrying(forge: Forge, bundle: Path, data: bytes) -> Path:
    """The bundle with this list of revocations, which sealing would have refused."""
    blob = put_blob(bundle, data)
    entry = {"length": blob.length, "hashes": {"sha256": blob.sha256}}
    forge.alter(bundle, "policy", lambda signed: signed["targets"].update({"policy/revocations.json": entry}))
    return bundle


STATES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "empty": lambda m: m.clear(),
    "of another schema": lambda m: m.update(schema="plugsky.trust-state/2"),
    "without floors": lambda m: m.pop("floors"),
    "with floors as a list": lambda m: m.update(floors=[]),
    "with a floor of another shape": lambda m: m["floors"]["demo"].pop("versions"),
    "with versions as a list": lambda m: m["floors"]["demo"].update(versions=[]),
    "with a floor of minus one": lambda m: m["floors"]["demo"]["versions"].update(models=-1),
    "with a floor without an id": lambda m: m["floors"]["demo"].update(bundle_id="x"),
    "with a floor of a path": lambda m: m["floors"].update({"../x": m["floors"]["demo"]}),
    "with a root that is a number": lambda m: m.update(root=1),
    "with a root that is none": lambda m: m.update(root="{}"),
    "with a time that is none": lambda m: m.update(time="yesterday"),
    "with revocations that are none": lambda m: m.update(revocations={}),
}


@pytest.mark.parametrize("edit", STATES.values(), ids=STATES.keys())
def test_an_edited_trust_state_is_refused_alike(forge, right, tmp_path, edit):
    state = verify_metadata(open_bundle(right), forge.fingerprint, now=NOW).state
    members = json.loads(state.to_json())
    edit(members)
    site = site_with(tmp_path / "site", state)
    (site / "trust/state.json").write_bytes(encode(members))
    assert verdict(right, None, site) in ("malformed_metadata", "unsafe_name")


# Anything a holder of all keys could sign

ODD: list[Any] = [None, True, False, 0, -1, 1, 2, 1 << 31, (1 << 53) - 1, [], {}, [[]], {"a": 1}, ["models"]]
ODD += ["", "x", "../x", "con", "\u00e9\n", "a" * 64, "0" * 64, "2026-11-22T12:00:00Z"]
ODD += [{"sha256": "0" * 64}, {"length": 1, "sha256": "0" * 64}]


@st.composite
def edits(draw) -> tuple[str, list[int], str, Any]:
    """Where to go from the top of a signed part (by position), what to do there, and with what."""
    role = draw(st.sampled_from(["root", "timestamp", "snapshot", "targets", *ROLES]))
    steps = draw(st.lists(st.integers(0, 30), min_size=1, max_size=7))
    return role, steps, draw(st.sampled_from(["set", "remove", "add", "rename", "repeat"])), draw(st.sampled_from(ODD))


def apply(signed: Any, steps: list[int], what: str, value: Any) -> None:
    value = copy.deepcopy(value)
    parent = signed
    for step in steps[:-1]:
        names = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        if not names or not isinstance(parent[names[step % len(names)]], dict | list):
            break
        parent = parent[names[step % len(names)]]
    names = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
    name = names[steps[-1] % len(names)] if names else None
    if what == "add" or name is None:
        parent.update({str(value): value}) if isinstance(parent, dict) else parent.append(value)
    elif what == "set":
        parent[name] = value
    elif what == "remove":
        del parent[name]
    elif isinstance(parent, list):
        parent.append(parent[name])
    else:
        parent[str(value)] = parent[name] if what == "repeat" else parent.pop(name)


@pytest.mark.filterwarnings("ignore:.*function-scoped fixture.*")
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.lists(edits(), min_size=1, max_size=2))
def test_whatever_keys_could_sign_is_judged_alike(forge, right, tmp_path, wanted):
    bundle = tmp_path / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(right, bundle, copy_function=os.link)
    parts = signed_parts(bundle)
    changed: dict[str, Any] = {}
    for role, steps, what, value in wanted:
        changed[role] = changed.get(role, parts[role])
        apply(changed[role], steps, what, value)
    try:
        for path in (bundle / "metadata").iterdir():
            data = path.read_bytes()
            path.unlink()
            path.write_bytes(data)
        forge.resign(bundle, changed)
    except (KeyError, TypeError, AttributeError, OSError, ValueError):
        return  # nobody could write it
    verdicts = kernel(bundle, pin_of(bundle)), one_file(bundle, pin_of(bundle))
    assert (verdicts[0] == "ok") == (verdicts[1] == "ok")
    assert verdicts[0] == verdicts[1] or len(wanted) > 1, "of two faults, each judge names the one that it meets first"


def test_every_name_of_an_error_is_one_of_the_appliances():
    ours = [errors.VerificationError, errors.NotFound]
    for found in ours:
        ours += found.__subclasses__()
    assert {error("", "", "").code for error in ours if error is not errors.ChainError} >= verifier.ERRORS.keys() - {
        "chain_error",
        "usage",  # the command line's
    }


# Deltas


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("deltas"))


@pytest.fixture
def delta(bench, tmp_path) -> Path:
    return Path(shutil.copytree(bench.delta, tmp_path / bench.delta.name))


@pytest.fixture
def holder(bench, tmp_path) -> Path:
    """A site that accepted the delta's base and kept copies of it."""
    state = bench.site().anchor
    site = site_with(tmp_path / "holder", state)
    shutil.copytree(bench.copies, site / "trust/channels/demo")
    return site


def test_a_delta_is_right_for_the_site_it_was_made_for_and_for_nobody_else(bench, delta, holder, tmp_path):
    assert verdict(delta, None, holder) == "ok"
    assert verdict(delta, bench.forge.fingerprint) == "base_missing"
    assert verdict(delta, None, site_with(tmp_path / "without copies", bench.site().anchor)) == "base_missing"
    for path in (holder / "trust/channels/demo").iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert verdict(delta, None, holder) == "base_missing"
    for path in (holder / "trust/channels/demo").iterdir():
        path.unlink()
        path.symlink_to(bench.copies / path.name)
    assert verdict(delta, None, holder) == "base_missing"


@pytest.mark.parametrize("damage", [damage for damage, _ in MIXED.values()], ids=MIXED.keys())
def test_a_delta_with_parts_of_another_bundle_is_judged_alike(bench, delta, holder, damage):
    damage(bench, delta)
    assert verdict(delta, None, holder) not in ("ok", "base_missing")


@pytest.mark.parametrize("change", BAD_LISTS.values(), ids=BAD_LISTS.keys())
def test_a_delta_whose_list_lies_is_judged_alike(bench, delta, holder, change):
    with_list(change)(bench, delta)
    assert verdict(delta, None, holder) == "malformed_metadata"


@pytest.mark.parametrize("changes", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_delta_that_misnames_its_base_is_judged_alike(bench, delta, holder, changes):
    left_out(bench, delta, **changes)
    assert verdict(delta, None, holder) == "malformed_metadata"


def test_a_changed_byte_of_a_delta_is_judged_alike(bench, delta, holder):
    for path in sorted(path for path in delta.rglob("*") if path.is_file()):
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert verdict(delta, None, holder) != "ok", path
        path.write_bytes(data)


def test_a_bundle_of_nothing_but_revocations_is_judged_alike(tmp_path):
    forge = Forge(tmp_path)
    full = forge.built()
    site = DeltaSite(forge, tmp_path / "holder/trust/channels/demo")
    state = site.accept(full).state
    (tmp_path / "holder/trust/state.json").write_bytes(state.to_json())
    bundle = forge.revocations_only(Revocations(digests=frozenset({"ab" * 32})))
    assert verdict(bundle, None, tmp_path / "holder") == "ok"
    assert verdict(bundle, forge.fingerprint) == "base_missing"


@pytest.mark.parametrize("roles", [("snapshot", "timestamp", "targets"), ("timestamp",), ("targets",)], ids=str)
def test_floors_that_a_new_root_makes_void_are_judged_alike(tmp_path, roles):
    forge = Forge(tmp_path)
    last = forge.sealed(version=7)
    state = verify_metadata(open_bundle(last), forge.fingerprint, now=NOW).state
    (forge.trust / "channels/demo.json").unlink()
    bundle = after_new_keys(forge, *roles)
    expected = "ok" if len(roles) == 3 else "rollback"
    assert verdict(bundle, None, site_with(tmp_path / "site", state), full=False) == expected
