"""What a real projector sees is told to a real model: another picture gives other logits, as one piece or in parts."""

import numpy as np
import pytest

from bundles.small_llama import small_llama
from bundles.small_projector import IMAGE_TOKENS, SIDE, small_projector
from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.estimate import Holding
from plugsky.engine.llama import images as llama_images
from plugsky.engine.llama import native
from plugsky.engine.llama.images import ImagePiece, Projector
from plugsky.engine.scheduling.plan import Chunk
from plugsky.engine.vision.pictures import Picture

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not llama_images.available(), reason="libmtmd is not installed"),
]


def picture(seed, width=40, height=30):
    pixels = np.random.default_rng(seed).integers(0, 256, 3 * width * height, dtype=np.uint8)
    return Picture(width, height, pixels.tobytes())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    file = tmp_path_factory.mktemp("model") / "small.gguf"
    file.write_bytes(small_llama())
    model = native.Model(file, lambda _fraction: True)
    yield model
    model.close()


@pytest.fixture(scope="module")
def context(model):
    context = native.Context(model, Holding(256, 64, 4, 64), threads=1)
    yield context
    context.close()


@pytest.fixture
def make(model, context, tmp_path):
    made = []

    def make(data, batch=64, side=SIDE):
        (tmp_path / "eye.gguf").write_bytes(data)
        made.append(Projector(model, context, tmp_path / "eye.gguf", side=side, batch=batch, threads=1))
        return made[-1]

    yield make
    for projector in made:
        projector.close()
    for place in range(4):
        context.clear(place)


def only_piece(projector, of):
    (piece,) = [piece for piece in projector.pieces(of) if isinstance(piece, ImagePiece)]
    return piece


def after(context, projector, of, seq=0):
    """The logits behind a text, a picture and a text."""
    piece = only_piece(projector, of)
    context.decode([Chunk(1, seq, 0, (72, 73), 0)])
    piece.compute(Chunk(1, seq, 2, range(piece.count), 0))
    (row,) = context.decode([Chunk(1, seq, 2 + piece.count, (74,), 1)])
    return row.copy()


def test_a_picture_becomes_one_piece_of_the_projectors_tokens(make):
    assert only_piece(make(small_projector()), picture(1)).count == IMAGE_TOKENS


@pytest.mark.parametrize("kind", ["mlp", "gemma3"])
def test_another_picture_gives_other_logits_and_the_same_one_the_same(make, context, kind):
    projector = make(small_projector(kind=kind))
    first, again, other = (after(context, projector, picture(n), seq) for seq, n in enumerate((1, 1, 2)))
    assert np.allclose(first, again, atol=1e-4)
    assert not np.allclose(first, other, atol=1e-2)


def test_an_image_longer_than_a_batch_is_computed_in_parts(make, context):
    whole = after(context, make(small_projector()), picture(1), seq=0)
    parts = after(context, make(small_projector(), batch=4), picture(1), seq=1)
    assert np.allclose(whole, parts, atol=1e-4)


def test_an_image_at_the_end_of_a_prompt_gives_its_logits(make, context):
    piece = only_piece(make(small_projector()), picture(1))
    (row,) = piece.compute(Chunk(1, 0, 0, range(piece.count), 1))
    assert np.isfinite(row).all()


def test_an_image_that_the_cache_cannot_hold_leaves_nothing_of_itself(make, context):
    projector = make(small_projector(), batch=4)
    context.decode([Chunk(1, 1, 0, range(63), 0)])
    for start in range(63, 249, 62):
        context.decode([Chunk(1, 1, start, range(62), 0)])
    piece = only_piece(projector, picture(1))
    with pytest.raises(native.CacheFullError):
        piece.compute(Chunk(2, 0, 0, range(piece.count), 0))
    context.clear(1)
    assert np.allclose(after(context, projector, picture(1)), after(context, projector, picture(1), seq=2), atol=1e-4)


@pytest.mark.parametrize(
    ("data", "batch", "kind", "why"),
    [
        (small_projector(width=16), 64, ErrorKind.TAMPERED, "does not fit this model"),
        (b"GGUF" + bytes(100), 64, ErrorKind.TAMPERED, "does not fit this model"),
        (small_projector(kind="gemma3"), 4, ErrorKind.NOT_SUPPORTED, "must be computed at once"),
        (small_projector(side=16), 64, ErrorKind.NOT_SUPPORTED, "too few to tell them apart"),
    ],
    ids=["other-width", "damaged", "larger-than-a-batch", "too-short"],
)
def test_a_projector_that_cannot_serve_is_refused_by_name(make, data, batch, kind, why):
    with pytest.raises(EngineError) as caught:
        make(data, batch, 16 if "too few" in why else SIDE)
    assert caught.value.kind is kind
    assert why in caught.value.what


def test_a_machine_too_slow_for_images_says_so(make, monkeypatch):
    monkeypatch.setattr(llama_images, "MAX_ENCODE_S", 0.0)
    with pytest.raises(EngineError, match="this machine takes"):
        make(small_projector())


def test_a_build_without_libmtmd_says_so(make, monkeypatch):
    monkeypatch.setattr(llama_images, "available", lambda: False)
    with pytest.raises(EngineError, match="cannot read images"):
        make(small_projector())
