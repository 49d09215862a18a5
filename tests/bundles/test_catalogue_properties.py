"""Whatever byte changes in a right bundle or a right model: a named refusal, or the very same verdict as before."""

import dataclasses
import io
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp

from bundles.forge import NOW, Forge, InMemory
from bundles.gguf_forge import F16_TENSOR, F32_TENSOR, Q4_0_TENSOR
from bundles.gguf_forge import Forge as GgufForge
from plugsky_bundles import cut, errors, gguf
from plugsky_bundles.errors import GgufError, MalformedMetadata, VerificationError
from plugsky_bundles.metadata import read_metadata, serialise
from plugsky_bundles.state import TrustState
from plugsky_bundles.walk import walk

KINDS = {"root": Root, "timestamp": Timestamp, "snapshot": Snapshot}
REFUSALS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, VerificationError)]
CODES = {kind("", "", "").code for kind in REFUSALS if kind not in (VerificationError, errors.ChainError)}
shared = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def forge(tmp_path_factory) -> Forge:
    return Forge(tmp_path_factory.mktemp("properties"), targets_keys=2, targets_threshold=2)


@pytest.fixture(scope="module")
def bundle(forge) -> Path:
    return forge.sealed()


@pytest.fixture(scope="module")
def files(bundle) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((bundle / "metadata").iterdir())}


def verdict(files, anchor):
    """What the walk found: everything that a decision rests on."""
    found = walk(InMemory(files), anchor, NOW)
    return found.bundle_id, found.channel, found.versions, found.signers, found.evidence, found.files


def named(said) -> str:
    """A refusal by its own name."""
    return said if isinstance(said, str) and said in CODES else "no name"


def kind_of(name: str):
    return KINDS.get(name.removesuffix(".json").split(".")[-1], Targets)


changes = st.sampled_from(["replace", "delete", "insert", "double", "swap"])


def changed(data, original: bytes) -> bytes:
    """One edit of a byte or two, drawn at random."""
    at = data.draw(st.integers(0, len(original) - 2))
    byte = bytes([data.draw(st.integers(0, 255))])
    match data.draw(changes):
        case "replace":
            return original[:at] + byte + original[at + 1 :]
        case "delete":
            return original[:at] + original[at + 1 :]
        case "insert":
            return original[:at] + byte + original[at:]
        case "double":
            return original[: at + 1] + original[at:]
        case _:
            return original[:at] + original[at + 1 : at + 2] + original[at : at + 1] + original[at + 2 :]


@shared
@given(data=st.data())
def test_a_changed_byte_of_any_metadata_file_is_refused_or_says_the_same(forge, files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    other = {**files, name: changed(data, files[name])}
    for anchor in (forge.fingerprint, TrustState(files["1.root.json"])):
        right = verdict(files, anchor)
        try:
            said = verdict(other, anchor)
        except VerificationError as error:
            said = error.code
        assert said == (right if other == files else named(said)), "no two writings of one bundle are accepted"


@shared
@given(data=st.data())
def test_a_metadata_file_is_read_as_the_one_writing_of_what_it_says(files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    assert serialise(read_metadata(files[name], kind_of(name), name)) == files[name]
    other = changed(data, files[name])
    try:
        again = read_metadata(other, kind_of(name), name)
    except VerificationError as error:
        said = error.code
    else:
        said = serialise(again)
    assert said == other or said in CODES


@shared
@given(data=st.data())
def test_a_metadata_file_under_another_kind_is_refused(files, data):
    name = data.draw(st.sampled_from(sorted(files)))
    others = [kind for kind in (Root, Timestamp, Snapshot, Targets) if kind is not kind_of(name)]
    with pytest.raises(MalformedMetadata):
        read_metadata(files[name], data.draw(st.sampled_from(others)), name)


@shared
@given(data=st.data())
def test_metadata_files_that_change_places_are_refused(forge, files, data):
    one, two = data.draw(st.lists(st.sampled_from(sorted(files)), min_size=2, max_size=2, unique=True))
    with pytest.raises(VerificationError):
        verdict({**files, one: files[two], two: files[one]}, forge.fingerprint)


# Models

BLOCKS = {F32_TENSOR: (1, 4), F16_TENSOR: (1, 2), Q4_0_TENSOR: (32, 18)}
tensor_names = st.text(string.ascii_lowercase + "._0123456789", min_size=1, max_size=63)


@st.composite
def models(draw):
    """A right model of any shape, and its tensors as (name, dimensions, kind, length)."""
    tensors = []
    for name in draw(st.lists(tensor_names, max_size=6, unique=True)):
        kind = draw(st.sampled_from(sorted(BLOCKS)))
        block, size = BLOCKS[kind]
        rows = draw(st.lists(st.integers(1, 4), max_size=3))
        first = block * draw(st.integers(1, 4))
        count = first
        for row in rows:
            count *= row
        tensors.append((name, (first, *rows), kind, count // block * size))
    alignment = draw(st.sampled_from([8, 32, 64, 4096]))
    forge = GgufForge(tensors=tensors, alignment=alignment, padded_end=draw(st.booleans()))
    return forge.with_key("general.alignment", 4, alignment), tensors


@shared
@given(models())
def test_tensors_are_read_as_they_were_written(model):
    forge, tensors = model
    data = forge.build()
    info = gguf.read(io.BytesIO(data), len(data))
    assert [(t.name, t.dimensions, t.length) for t in info.tensors] == [(n, d, length) for n, d, _, length in tensors]
    for number, tensor in enumerate(info.tensors):
        assert set(data[tensor.offset : tensor.offset + tensor.length]) == {number + 1}
    pieces = [data[offset : offset + length] for offset, length in cut.chunks_of(info)]
    assert b"".join(pieces) == data
    assert all(pieces)


SMALL = GgufForge().build()
RIGHT = gguf.read(io.BytesIO(SMALL), len(SMALL))


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_a_changed_byte_of_a_model_is_refused_or_changes_what_it_says_and_nothing_else(data):
    """A header byte may say something else, as a name does; where tensors lie always follows from what is said."""
    other = changed(data, SMALL)
    try:
        info = gguf.read(io.BytesIO(other), len(other))
    except GgufError:
        return
    assert info.size == len(other)
    end = info.data_offset
    for tensor in info.tensors:
        assert tensor.offset == end + -(end - info.data_offset) % info.alignment
        end = tensor.offset + tensor.length
    assert end <= info.size <= end + info.alignment
    if other[: len(GgufForge().header())] == SMALL[: len(GgufForge().header())]:
        assert dataclasses.replace(info, size=RIGHT.size) == RIGHT
