"""Pictures are decoded apart from the engine, within bounds, and what is no picture costs its own request only."""

import struct
import zlib

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.engine.errors import EngineError
from plugsky.engine.vision import pictures, pixels
from plugsky.engine.vision.pictures import Picture, Pictures


def png(width, height, rows=None):
    """The bytes of a PNG; ``rows`` are its bytes a row, without the filter's."""

    def block(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"".join(b"\0" + row for row in rows) if rows is not None else b""
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(pixels)) + block(b"IEND", b"")


def refusal(decoder, data):
    with pytest.raises(EngineError) as caught:
        decoder.decode(data)
    return caught.value


@pytest.fixture(scope="module")
def decoder():
    if not pixels.library_file().exists():
        pytest.skip("libmtmd is not installed")
    decoder = Pictures()
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    ("width", "height", "why"),
    [(0, 4, "no pixels"), (1, 200, "100 times"), (20000, 300, "16384 a side"), (8000, 8000, "16777216 pixels")],
)
def test_a_picture_of_an_odd_or_huge_size_is_refused_by_its_head(width, height, why):
    assert why in pixels.refusal(width, height).problem


def test_a_file_beyond_the_bound_is_never_handed_to_the_decoder():
    error = refusal(Pictures("no.such.module"), bytes(pictures.MAX_BYTES + 1))
    assert (error.kind, error.param) == (ErrorKind.TOO_LARGE, "images")


def test_a_decoder_that_dies_fails_the_request_by_name():
    assert "ended the decoder's process" in refusal(Pictures("no.such.module"), b"x").what


@pytest.mark.integration
def test_a_png_becomes_its_pixels(decoder):
    rows = [bytes([255, 0, 0, 0, 255, 0]), bytes([0, 0, 255, 9, 9, 9])]
    assert decoder.decode(png(2, 2, rows)) == Picture(2, 2, b"".join(rows))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("data", "kind", "why"),
    [
        (b"", ErrorKind.BAD_REQUEST, "empty"),
        (b"RIFF\0\0\0\0WEBPVP8 ", ErrorKind.BAD_REQUEST, "neither a PNG nor a JPEG"),
        (b"\x89PNG\r\n\x1a\nnothing", ErrorKind.BAD_REQUEST, "head cannot be read"),
        (b"\xff\xd8\xff" + bytes(100), ErrorKind.BAD_REQUEST, "head cannot be read"),
        (png(64, 64), ErrorKind.BAD_REQUEST, "damaged"),
        (png(8000, 8000), ErrorKind.TOO_LARGE, "8000 x 8000"),
        (png(1, 5000), ErrorKind.BAD_REQUEST, "100 times"),
    ],
    ids=["empty", "webp", "no-png", "no-jpeg", "cut", "bomb", "thread"],
)
def test_what_is_no_picture_or_a_bomb_is_refused_and_the_next_is_decoded(decoder, data, kind, why):
    error = refusal(decoder, data)
    assert error.kind is kind
    assert why in error.what
    assert decoder.decode(png(1, 1, [b"abc"])).rgb == b"abc"


@pytest.mark.integration
def test_a_picture_that_kills_the_child_costs_that_request_only(decoder):
    decoder.decode(png(1, 1, [b"abc"]))
    decoder._child._process.kill()
    decoder._child._process.wait()
    assert decoder.decode(png(1, 1, [b"xyz"])).rgb == b"xyz"
