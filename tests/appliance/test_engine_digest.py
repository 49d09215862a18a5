"""A model file is served only if it is, byte for byte, the one that was installed."""

import hashlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.engine_host import digest_of, running_engine, spec_of
from bundles.small_llama import small_llama
from plugsky.core.errors import ErrorKind
from plugsky.engine.clients.client import EngineClient
from plugsky.engine.errors import EngineError
from plugsky.engine.loading import loading, model_file

DATA = bytes(range(256)) * 256
DIGEST = hashlib.sha256(DATA).hexdigest()


def keep_going(_fraction):
    return True


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Four reads of nothing in particular."""
    monkeypatch.setattr(model_file, "CHUNK", len(DATA) // 4)
    file = tmp_path / "model.gguf"
    file.write_bytes(DATA)
    return file


def test_the_installed_file_is_let_through_and_its_reading_is_reported(file):
    fractions = []
    model_file.check_digest(file, DIGEST, lambda fraction: fractions.append(fraction) or True)
    assert fractions == [0.25, 0.5, 0.75, 1.0]


CHANGES = {
    "its first byte": flipped(DATA, 0),
    "a byte in the middle": flipped(DATA, len(DATA) // 2),
    "its last byte": flipped(DATA, len(DATA) - 1),
    "a byte more": DATA + b"\0",
    "a byte less": DATA[:-1],
    "nothing left": b"",
}


@pytest.mark.parametrize("data", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_file_is_refused_with_both_digests_and_the_repair(file, data):
    file.write_bytes(data)
    with pytest.raises(EngineError, match=r"model\.gguf is not the one that was installed") as refusal:
        model_file.check_digest(file, DIGEST, keep_going)
    assert refusal.value.kind is ErrorKind.TAMPERED
    assert DIGEST in refusal.value.why
    assert hashlib.sha256(data).hexdigest() in refusal.value.why
    assert "plugsky bundle install" in refusal.value.next


ODD = {"none": "", "no hex": "z" * 64, "no ASCII": "é" * 64, "the beginning of the right one": DIGEST[:63]}


@pytest.mark.parametrize("digest", ODD.values(), ids=ODD.keys())
def test_a_digest_that_is_none_matches_nothing(file, digest):
    with pytest.raises(EngineError) as refusal:
        model_file.check_digest(file, digest, keep_going)
    assert refusal.value.kind is ErrorKind.TAMPERED


def test_an_engine_told_to_stop_does_not_read_to_the_end(file):
    seen = []
    with pytest.raises(EngineError) as stopped:
        model_file.check_digest(file, DIGEST, lambda fraction: seen.append(fraction))
    assert stopped.value.kind is ErrorKind.CANCELLED
    assert seen == [0.25]


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(EngineError, match="cannot be read") as refusal:
        model_file.check_digest(tmp_path, DIGEST, keep_going)
    assert refusal.value.kind is ErrorKind.INTERNAL


@pytest.fixture
def changed(chat_model, tmp_path):
    """The chat model with one bit of its weights changed: same size, sound header. With the spec of the right one."""
    file = tmp_path / "model.gguf"
    shutil.copyfile(chat_model, file)
    with file.open("r+b") as stream:
        stream.seek(-1000, 2)
        (byte,) = stream.read(1)
        stream.seek(-1000, 2)
        stream.write(bytes([byte ^ 1]))
    return replace(spec_of(file, n_ctx=256), digest=digest_of(chat_model))


@pytest.mark.integration
def test_a_changed_model_that_llama_cpp_can_load_is_given_to_nobody(changed):
    with pytest.raises(EngineError, match="not the one that was installed") as refusal:
        loading.load(changed, keep_going)
    assert refusal.value.kind is ErrorKind.TAMPERED


@pytest.mark.integration
def test_of_a_changed_model_that_llama_cpp_cannot_load_the_digest_is_told(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(small_llama().replace(b"gpt2", b"gptX"))
    spec = spec_of(file, n_ctx=256)
    with pytest.raises(EngineError, match="not the one that was installed"):
        loading.load(replace(spec, digest=DIGEST), keep_going)
    with pytest.raises(EngineError, match=r"llama\.cpp cannot load"):
        loading.load(spec, keep_going)


@pytest.mark.integration
async def test_every_peer_of_an_engine_with_a_changed_model_is_told(changed):
    with tempfile.TemporaryDirectory(prefix="pse-") as folder:
        path = Path(folder) / "e.sock"
        async with running_engine(changed, path):
            for _ in range(2):
                with pytest.raises(EngineError, match=r"model\.gguf is not the one") as refusal:
                    await EngineClient(path).connect(60)
                assert refusal.value.kind is ErrorKind.TAMPERED


@pytest.mark.integration
def test_loading_reports_one_rising_fraction_over_hashing_and_mapping(chat_model):
    fractions = []
    loaded = loading.load(spec_of(chat_model, n_ctx=256), lambda fraction: fractions.append(fraction) or True)
    loaded.close()
    assert fractions == sorted(fractions)
    assert fractions[0] < fractions[-1] == 1.0
