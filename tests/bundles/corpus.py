"""Wrong bundles by English name: what trusted keys may not say. Tables for everything that judges a bundle.

Each change takes a `Forge` and a copy of a right bundle of its, and makes that wrong in one way; everything that a
holder of all keys would sign is signed again, so that a verifier reaches the check that the change is about.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from securesystemslib.signer import SSlibKey

from bundles.forge import Forge, add_key, envelope, olpc, sha256, signed_parts
from plugsky_bundles import keys
from plugsky_bundles.errors import (
    BadKey,
    DigestMismatch,
    MalformedChunkList,
    MalformedMetadata,
    MetadataExpired,
    MetadataMissing,
    MixAndMatch,
    UnsafeName,
)
from plugsky_bundles.strict_json import encode


def resign_role(forge: Forge, bundle: Path, role: str, data: bytes) -> None:
    """Put these raw bytes in place of a role file and seal around them."""
    parts = signed_parts(bundle)
    path = bundle / "metadata" / f"{parts[role]['version']}.{role}.json"
    path.write_bytes(data)
    forge.resign(bundle, {})


def with_signatures(change):
    def alter(forge, bundle):
        whole = envelope(signed_parts(bundle)["models"], forge.signers("targets"))
        whole["signatures"] = change(whole["signatures"])
        resign_role(forge, bundle, "models", encode(whole))

    return alter


BAD_SIGNATURE_LISTS = {
    "the same one twice": lambda s: s * 2,
    "ten thousand": lambda _: [{"keyid": f"{n:064x}", "sig": "00"} for n in range(10_000)],
    "in capitals": lambda s: [{**s[0], "sig": s[0]["sig"].upper()}],
    "with a space": lambda s: [{**s[0], "sig": " " + s[0]["sig"]}],
    "with a field more": lambda s: [{**s[0], "method": "none"}],
    "with a keyid that is a path": lambda s: [{**s[0], "keyid": "../x"}],
    "as an object": lambda _: {},
    "as text": lambda _: ["x"],
    "not sorted": lambda _: [{"keyid": "f" * 64, "sig": "00"}, {"keyid": "0" * 64, "sig": "00"}],
}


def set_threshold(role, value):
    def change(root):
        root["roles"][role]["threshold"] = value

    return change


def rename_key(root):
    (keyid,) = root["roles"]["targets"]["keyids"]
    root["keys"]["0" * 64] = root["keys"].pop(keyid)
    root["roles"]["targets"]["keyids"] = ["0" * 64]
    root["x-plugsky-names"].pop(keyid)


def double_key(root):
    (keyid,) = root["roles"]["targets"]["keyids"]
    key = root["keys"][keyid]
    again = {**key, "keyval": {"public": key["keyval"]["public"].upper()}}
    root["keys"]["1" * 64] = again
    root["roles"]["targets"]["keyids"].append("1" * 64)
    root["roles"]["targets"]["threshold"] = 2


def loose_key(root):
    key = keys.generate().public_key
    root["keys"][key.keyid] = key.to_dict()


def many_keys(root):
    for _ in range(65):
        add_key(root, "targets", keys.generate())


def other_scheme(root):
    key = SSlibKey.from_crypto(generate_private_key(SECP384R1()).public_key())
    root["keys"][key.keyid] = key.to_dict()
    root["roles"]["targets"]["keyids"].append(key.keyid)


def mixed_scheme(root):
    for key in root["keys"].values():
        key["scheme"] = "rsassa-pss-sha256"


def raw_key(public: int):
    """One more key for targets, whatever its bytes are."""

    def change(root):
        key = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public.to_bytes(32, "little").hex()}}
        keyid = sha256(olpc(key))
        root["keys"][keyid] = key
        root["roles"]["targets"]["keyids"].append(keyid)

    return change


BAD_ROOTS = {
    "a key that fits signatures of anyone": (raw_key(1), BadKey),
    "a key of order eight": (raw_key(0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7), BadKey),
    "a key of small order with its sign set": (raw_key(1 | 1 << 255), BadKey),
    "a key with a coordinate beyond the prime": (raw_key(2**255 - 19 + 3), BadKey),
    "a key not named by its hash": (rename_key, BadKey),
    "one key under two names": (double_key, BadKey),
    "a key that no role uses": (loose_key, BadKey),
    "a role key that is not listed": (lambda r: r["roles"]["targets"]["keyids"].append("2" * 64), BadKey),
    "a scheme that is not allowed": (other_scheme, BadKey),
    "a scheme that does not fit its key": (mixed_scheme, BadKey),
    "more keys than anyone needs": (many_keys, BadKey),
    "a threshold of zero": (set_threshold("targets", 0), MalformedMetadata),
    "a negative threshold": (set_threshold("targets", -1), MalformedMetadata),
    "a threshold above the number of keys": (set_threshold("targets", 2), MalformedMetadata),
    "a threshold that is a truth value": (set_threshold("targets", True), MalformedMetadata),
    "a threshold that is text": (set_threshold("targets", "1"), MalformedMetadata),
    "the same key twice in a role": (
        lambda r: r["roles"]["targets"].update(keyids=r["roles"]["targets"]["keyids"] * 2),
        MalformedMetadata,
    ),
    "the keys of a role as an object": (
        lambda r: r["roles"]["targets"].update(keyids=dict.fromkeys(r["roles"]["targets"]["keyids"])),
        MalformedMetadata,
    ),
    "the keys of a role as text": (lambda r: r["roles"]["targets"].update(keyids="x"), MalformedMetadata),
    "no keys for a role": (lambda r: r["roles"]["snapshot"].update(keyids=[]), BadKey),
    "a role missing": (lambda r: r["roles"].pop("timestamp"), MalformedMetadata),
    "a role too many": (lambda r: r["roles"].update(x=r["roles"]["targets"]), MalformedMetadata),
    "no consistent snapshots": (lambda r: r.update(consistent_snapshot=False), MalformedMetadata),
    "a name that is a path": (
        lambda r: r.update({"x-plugsky-names": {r["roles"]["root"]["keyids"][0]: "../x"}}),
        MalformedMetadata,
    ),
    "a name for a stranger": (lambda r: r.update({"x-plugsky-names": {"0" * 64: "x"}}), MalformedMetadata),
    "a version that is not its file's": (lambda r: r.update(version=2), MalformedMetadata),
    "an expired root": (lambda r: r.update(expires="2026-11-22T11:59:59Z"), MetadataExpired),
}


def set_field(name, value):
    return lambda signed: signed.update({name: value})


def set_bound(name, value):
    return lambda signed: signed["x-plugsky-binds"].update({name: value})


def drop_role(signed):
    signed["meta"].pop("policy.json")


def extra_role(signed):
    signed["meta"]["other.json"] = signed["meta"]["policy.json"]


ALTERED = {
    "a timestamp without its time": ("timestamp", lambda s: s.pop("x-plugsky-time"), MalformedMetadata),
    "a timestamp with half a time": ("timestamp", set_field("x-plugsky-time", "2026-1-1T0:0:0Z"), MalformedMetadata),
    "a timestamp without a channel": ("timestamp", lambda s: s.pop("x-plugsky-channel"), UnsafeName),
    "a channel that is a path": ("timestamp", set_field("x-plugsky-channel", "../x"), UnsafeName),
    "a timestamp that does not hash the snapshot": (
        "timestamp",
        lambda s: s["meta"]["snapshot.json"].pop("hashes"),
        MalformedMetadata,
    ),
    "a timestamp with a second hash": (
        "timestamp",
        lambda s: s["meta"]["snapshot.json"]["hashes"].update(sha512="00" * 64),
        MalformedMetadata,
    ),
    "a timestamp that lists a longer snapshot": (
        "timestamp",
        lambda s: s["meta"]["snapshot.json"].update(length=s["meta"]["snapshot.json"]["length"] + 1),
        DigestMismatch,
    ),
    "a timestamp that names another snapshot": (
        "timestamp",
        lambda s: s["meta"]["snapshot.json"].update(version=2),
        MetadataMissing,
    ),
    "a timestamp that lists another file": (
        "timestamp",
        lambda s: s["meta"].update({"other.json": {"version": 1}}),
        MalformedMetadata,
    ),
    "a snapshot entry that says nothing": (
        "snapshot",
        lambda s: s["meta"]["policy.json"].update(length=None),
        MalformedMetadata,
    ),
    "a delegation with a rule that says nothing": (
        "targets",
        lambda s: s["delegations"]["roles"][0].update(path_hash_prefixes=None),
        MalformedMetadata,
    ),
    "a snapshot that drops a role": ("snapshot", drop_role, MalformedMetadata),
    "a snapshot with a role too many": ("snapshot", extra_role, MalformedMetadata),
    "a snapshot of another channel": ("snapshot", set_field("x-plugsky-channel", "other"), MixAndMatch),
    "a snapshot without evidence": ("snapshot", lambda s: s.pop("x-plugsky-evidence"), MalformedMetadata),
    "evidence outside its places": (
        "snapshot",
        lambda s: s["x-plugsky-evidence"].update({"../x": {"length": 1, "sha256": "00" * 32}}),
        UnsafeName,
    ),
    "evidence with a field more": (
        "snapshot",
        lambda s: s["x-plugsky-evidence"]["README.txt"].update(mode=7),
        MalformedMetadata,
    ),
    "targets of another channel": ("targets", set_field("x-plugsky-channel", "other"), MixAndMatch),
    "a role of another channel": ("models", set_field("x-plugsky-channel", "other"), MixAndMatch),
    "targets of another format": ("targets", set_field("x-plugsky-format", 2), MalformedMetadata),
    "targets that bind nothing": ("targets", lambda s: s.pop("x-plugsky-binds"), MalformedMetadata),
    "targets that bind a field more": ("targets", lambda s: s["x-plugsky-binds"].update(x=1), MalformedMetadata),
    "targets that bind one role less": (
        "targets",
        lambda s: s["x-plugsky-binds"]["roles"].pop("policy"),
        MalformedMetadata,
    ),
    "targets that bind a role without its version": (
        "targets",
        lambda s: s["x-plugsky-binds"]["roles"]["policy"].pop("version"),
        MalformedMetadata,
    ),
    "targets that bind no content": ("targets", set_bound("content_id", None), MalformedMetadata),
    "targets that bind files as a list": ("targets", set_bound("files", []), MalformedMetadata),
    "targets that bind a path outside": (
        "targets",
        lambda s: s["x-plugsky-binds"]["files"].update({"../x": {"length": 1, "sha256": "00" * 32}}),
        UnsafeName,
    ),
    "targets that bind the custody log": (
        "targets",
        lambda s: s["x-plugsky-binds"]["files"].update({"evidence/custody.jsonl": {"length": 1, "sha256": "00" * 32}}),
        MalformedMetadata,
    ),
    "targets that bind a file that is not listed": (
        "targets",
        lambda s: s["x-plugsky-binds"]["files"].update({"docs/x": {"length": 1, "sha256": "00" * 32}}),
        MixAndMatch,
    ),
    "targets that bind other bytes of a file": (
        "targets",
        lambda s: s["x-plugsky-binds"]["files"]["README.txt"].update(sha256="00" * 32),
        MixAndMatch,
    ),
    "targets that bind another content": ("targets", set_bound("content_id", "00" * 32), MixAndMatch),
    "targets that bind another role file": (
        "targets",
        lambda s: s["x-plugsky-binds"]["roles"]["policy"].update(sha256="00" * 32),
        MixAndMatch,
    ),
    "targets that bind another version of a role": (
        "targets",
        lambda s: s["x-plugsky-binds"]["roles"]["policy"].update(version=2),
        MixAndMatch,
    ),
    "a snapshot without a file that people bound": (
        "snapshot",
        lambda s: s["x-plugsky-evidence"].pop("README.txt"),
        MixAndMatch,
    ),
    "a snapshot with a file that people did not bind": (
        "snapshot",
        lambda s: s["x-plugsky-evidence"].update({"docs/x": {"length": 1, "sha256": "00" * 32}}),
        MixAndMatch,
    ),
    "targets that list files": (
        "targets",
        lambda s: s["targets"].update({"models/x/y": {"length": 1, "hashes": {"sha256": "00" * 32}}}),
        MalformedMetadata,
    ),
    "targets that delegate to one role less": (
        "targets",
        lambda s: s["delegations"]["roles"].pop(),
        MalformedMetadata,
    ),
    "a delegation with a lower threshold": (
        "targets",
        lambda s: s["delegations"]["roles"][0].update(threshold=0),
        MalformedMetadata,
    ),
    "a delegation with wider paths": (
        "targets",
        lambda s: s["delegations"]["roles"][0].update(paths=["*/*"]),
        MalformedMetadata,
    ),
    "a delegation that does not end the search": (
        "targets",
        lambda s: s["delegations"]["roles"][0].update(terminating=False),
        MalformedMetadata,
    ),
    "a delegation to a path": (
        "targets",
        lambda s: s["delegations"]["roles"][0].update(name="../models"),
        MalformedMetadata,
    ),
    "a role that delegates further": (
        "models",
        lambda s: s.update(delegations={"keys": {}, "roles": []}),
        MalformedMetadata,
    ),
    "a file under another role's prefix": (
        "models",
        lambda s: s["targets"].update({"python/x": s["targets"]["models/tiny/LICENSE"]}),
        MalformedMetadata,
    ),
    "a file listed by two roles": (
        "python",
        lambda s: s["targets"].update({"models/tiny/LICENSE": {"length": 1, "hashes": {"sha256": "00" * 32}}}),
        UnsafeName,
    ),
    "two files that differ by case": (
        "models",
        lambda s: (
            s["targets"].update({"models/tiny/licence": s["targets"]["models/tiny/LICENSE"]})
            or s["targets"].update({"models/tiny/LICENCE": s["targets"]["models/tiny/LICENSE"]})
        ),
        UnsafeName,
    ),
    "a file with a name that leads out": (
        "models",
        lambda s: s["targets"].update({"models/../../x": s["targets"]["models/tiny/LICENSE"]}),
        UnsafeName,
    ),
    "a file with another hash than SHA-256": (
        "models",
        lambda s: s["targets"]["models/tiny/LICENSE"].update(hashes={"md5": "00" * 16}),
        MalformedMetadata,
    ),
    "a digest in capitals": (
        "models",
        lambda s: s["targets"]["models/tiny/LICENSE"]["hashes"].update(sha256="AA" * 32),
        MalformedMetadata,
    ),
    "a negative length": (
        "models",
        lambda s: s["targets"]["models/tiny/LICENSE"].update(length=-1),
        MalformedMetadata,
    ),
    "a length that is not the blob's": (
        "models",
        lambda s: s["targets"]["models/tiny/LICENSE"].update(length=12),
        DigestMismatch,
    ),
    "custom data that is a list": (
        "models",
        lambda s: s["targets"]["models/tiny/LICENSE"].update(custom=[]),
        MalformedMetadata,
    ),
    "a chunk list without a length": (
        "models",
        lambda s: s["targets"]["models/tiny/tiny.gguf"]["custom"]["chunks"].pop("length"),
        MalformedMetadata,
    ),
    "a chunk list of four thousand million bytes": (
        "models",
        lambda s: s["targets"]["models/tiny/tiny.gguf"]["custom"]["chunks"].update(length=1 << 32),
        MalformedMetadata,
    ),
    "a chunk list that is no chunk list": (
        "models",
        lambda s: s["targets"]["models/tiny/tiny.gguf"].update(
            custom={"chunks": {"length": 11, "sha256": s["targets"]["models/tiny/LICENSE"]["hashes"]["sha256"]}}
        ),
        MalformedChunkList,
    ),
    "a file longer than its chunks": (
        "models",
        lambda s: s["targets"]["models/tiny/tiny.gguf"].update(length=9999),
        MalformedChunkList,
    ),
    "a version of zero": ("timestamp", set_field("version", 0), MalformedMetadata),
    "a version that is a truth value": ("timestamp", set_field("version", True), MalformedMetadata),
    "a version beyond what we count": ("timestamp", set_field("version", 1 << 31), MalformedMetadata),
    "another type in its place": ("timestamp", set_field("_type", "snapshot"), MalformedMetadata),
    "a specification of another age": ("timestamp", set_field("spec_version", "2.0.0"), MalformedMetadata),
    "a date without a zone": ("timestamp", set_field("expires", "2031-01-01T00:00:00"), MalformedMetadata),
    "an expired timestamp": ("timestamp", set_field("expires", "2026-11-22T12:00:00Z"), MetadataExpired),
    "an expired snapshot": ("snapshot", set_field("expires", "2026-11-22T12:00:00Z"), MetadataExpired),
    "expired targets": ("targets", set_field("expires", "2026-11-22T12:00:00Z"), MetadataExpired),
    "an expired role": ("debs", set_field("expires", "2026-11-22T12:00:00Z"), MetadataExpired),
}


def with_root(change: Callable[[dict], object]) -> Callable[[Forge, Path], None]:
    """A bundle whose root is changed and signed again."""

    def alter(forge: Forge, bundle: Path) -> None:
        signed = signed_parts(bundle)["root"]
        change(signed)
        (bundle / "metadata/1.root.json").write_bytes(encode(envelope(signed, forge.signers("root"))))

    return alter


def with_role(role: str, change: Callable[[dict], object]) -> Callable[[Forge, Path], None]:
    """A bundle with one role file changed and signed again."""
    return lambda forge, bundle: forge.alter(bundle, role, change)


def with_unsigned_entry(_: Forge, bundle: Path) -> None:
    """Something beside what was signed, where a TUF client would not look."""
    path = bundle / "metadata/timestamp.json"
    whole = json.loads(path.read_bytes())
    whole["signed"]["meta"]["other.json"] = {"version": 1}
    path.write_bytes(encode(whole))


WRONG: Mapping[str, Callable[[Forge, Path], None]] = {
    "a timestamp with an entry that was not signed": with_unsigned_entry,
    **{f"signatures {name}": with_signatures(change) for name, change in BAD_SIGNATURE_LISTS.items()},
    **{name: with_root(change) for name, (change, _) in BAD_ROOTS.items()},
    **{name: with_role(role, change) for name, (role, change, _) in ALTERED.items()},
}
