"""Whatever trusted keys sign, and whatever bytes lie in its place: a verdict by name, never an accident."""

import contextlib
import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from bundles.forge import NOW, InMemory, describe_bytes, envelope, file_name, signed_parts
from plugsky_bundles.entries import Absence, chunk_lists, collect_entries
from plugsky_bundles.errors import VerificationError
from plugsky_bundles.format import ROLES
from plugsky_bundles.media import open_bundle
from plugsky_bundles.metadata import read_metadata
from plugsky_bundles.state import Revocations, TrustState
from plugsky_bundles.strict_json import MAX_INTEGER, encode
from plugsky_bundles.walk import fingerprint, walk

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.sampled_from(["", "../x", "models/a", "0" * 64, "2031-01-01T00:00:00Z", "ed25519", "targets", "sha256"])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def bundle(forge):
    return open_bundle(forge.sealed())


def somewhere(data, value):
    """A container inside `value` and a key in it, drawn at random."""
    while True:
        keys = sorted(value) if isinstance(value, dict) else list(range(len(value)))
        key = data.draw(st.sampled_from(keys))
        inner = value[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            return value, key
        value = inner


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_whatever_trusted_keys_sign_gets_a_verdict(forge, bundle, data):
    parts = copy.deepcopy(signed_parts(bundle.path))
    role = data.draw(st.sampled_from(["root", "timestamp", "snapshot", "targets", "models", "policy"]))
    container, key = somewhere(data, parts[role])
    if data.draw(st.booleans()):
        container[key] = data.draw(values)
    else:
        del container[key]
    metadata = InMemory()
    for name in ("root", "targets", *ROLES, "snapshot", "timestamp"):
        original = signed_parts(bundle.path)[name]
        if name == "snapshot" and role not in ("snapshot", "timestamp", "root"):
            describe_bytes(parts["snapshot"]["meta"], role, metadata[file_name(role, signed_parts(bundle.path)[role])])
        if name == "timestamp" and role not in ("timestamp", "root"):
            describe_bytes(parts["timestamp"]["meta"], "snapshot", metadata[file_name("snapshot", original)])
        metadata[file_name(name, original)] = encode(envelope(parts[name], forge.signers(name)))
    with contextlib.suppress(VerificationError):
        found = walk(metadata, fingerprint(metadata["1.root.json"]), NOW)
        collect_entries(found.roles, chunk_lists(bundle, Absence()))


@given(st.binary(max_size=100), st.sampled_from([Root, Timestamp, Snapshot, Targets]))
def test_any_bytes_as_metadata_are_refused_by_name(data, kind):
    with pytest.raises(VerificationError):
        read_metadata(data, kind, "metadata/x.json")


@given(values)
def test_any_json_as_a_site_file_is_refused_by_name(value):
    try:
        data = encode(value)
    except (TypeError, ValueError):
        return
    for read in (TrustState.from_json, Revocations.from_json):
        with pytest.raises(VerificationError):
            read(data)
