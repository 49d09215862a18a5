"""Images are kept for whom they were prepared for, within a bound, and stand in a prompt where the chat has them."""

import gc

import pytest

from plugsky.core.errors import ErrorKind
from plugsky.core.request import ImagePart, Message
from plugsky.engine.errors import EngineError
from plugsky.engine.headers.sight import sight
from plugsky.engine.prompting.conversation import turns
from plugsky.engine.prompting.images import Images
from plugsky.engine.prompting.stand_ins import StandIns
from plugsky.engine.scheduling import virtual
from plugsky.engine.tokens.markers import Part
from plugsky.engine.vision.pictures import Picture


class PlainPictures:
    """Takes any bytes for a picture, and counts them."""

    def __init__(self):
        self.decoded = []

    def decode(self, data):
        self.decoded.append(data)
        return Picture(1, 1, data)

    def close(self):
        pass


class PlainPiece:
    def __init__(self, count):
        self.count = count


class PlainEye:
    """Makes of each picture a begin token, one piece per byte, and an end token."""

    image_bytes = 100

    def pieces(self, picture):
        return [(101,), *(PlainPiece(count) for count in picture.rgb), (102,)]


@pytest.fixture
def images():
    return Images(PlainEye(), PlainPictures(), most=300)


def refused(call, *arguments):
    with pytest.raises(EngineError) as caught:
        call(*arguments)
    return caught.value


def test_an_image_is_a_run_of_virtual_tokens_among_the_models_own(images):
    tokens = images.tokens("acme", bytes([8, 9]))
    assert (tokens[0], tokens[-1]) == (101, 102)
    assert [(at, len(run)) for at, run in virtual.images(tokens)] == [(1, 8), (9, 9)]
    assert [piece.count for piece in images.pieces("acme", tokens).values()] == [8, 9]


def test_the_same_file_is_decoded_once(images):
    assert images.tokens("acme", bytes([8])) == images.tokens("acme", bytes([8]))
    assert images._pictures.decoded == [bytes([8])]


def test_another_tenants_image_is_neither_found_nor_alike(images):
    mine, theirs = images.tokens("acme", bytes([8])), images.tokens("zeta", bytes([8]))
    assert not set(mine[1:-1]) & set(theirs[1:-1])
    assert refused(images.pieces, "acme", theirs).kind is ErrorKind.CONFLICT


def test_what_was_never_prepared_has_to_be_prepared_again(images):
    error = refused(images.pieces, "acme", (1, *virtual.run(b"guess", 8)))
    assert (error.kind, error.next) == (ErrorKind.CONFLICT, "prepare the prompt again")


def test_half_an_image_is_refused(images):
    tokens = images.tokens("acme", bytes([16]))
    assert refused(images.pieces, "acme", tokens[:9]).kind is ErrorKind.CONFLICT
    assert refused(images.pieces, "acme", tokens[3:]).kind is ErrorKind.BAD_REQUEST


def test_an_image_too_small_to_be_told_from_others_is_refused(images):
    assert refused(images.tokens, "acme", bytes([virtual.SHORTEST - 1])).kind is ErrorKind.BAD_REQUEST


def test_the_image_used_longest_ago_is_forgotten_when_there_are_too_many(images):
    first, second, third = (images.tokens("acme", bytes([count])) for count in (8, 9, 10))
    images.pieces("acme", first)
    images.tokens("acme", bytes([11]))
    gc.collect()
    assert images.pieces("acme", first)
    assert images.pieces("acme", third)
    assert refused(images.pieces, "acme", second).kind is ErrorKind.CONFLICT


def test_with_all_memory_in_the_hands_of_requests_the_next_image_is_refused_by_name(images):
    held = images.pieces("acme", images.tokens("acme", bytes([8, 9, 10])))
    assert refused(images.tokens, "acme", bytes([11])).kind is ErrorKind.OVERLOADED
    del held
    gc.collect()
    assert images.tokens("acme", bytes([11]))


def test_each_image_stands_where_its_message_has_it():
    stand_ins = StandIns(2)
    message = Message("user", ("left", ImagePart(1), "middle", ImagePart(0), "right"))
    (turn,) = turns((message,), stand_ins.text)
    assert stand_ins.cut([Part(f"<user>{turn['content']}<end>")]) == [
        Part("<user>left\n"),
        1,
        Part("\nmiddle\n"),
        0,
        Part("\nright<end>"),
    ]


def test_a_forged_marker_stays_where_it_was_beside_an_image():
    stand_ins = StandIns(1)
    text = f"a<x>{stand_ins.text(0)}b<x>c"
    parts = stand_ins.cut([Part(text, (1, text.rindex("<")))])
    assert parts == [Part("a<x>", (1,)), 0, Part("b<x>c", (1,))]


@pytest.mark.parametrize("text", ["none", "{0}{0}{1}", "{0}"], ids=["dropped", "twice", "one-of-two"])
def test_a_template_that_drops_or_repeats_an_image_is_named(text):
    stand_ins = StandIns(2)
    rendered = text.format(stand_ins.text(0), stand_ins.text(1))
    assert refused(stand_ins.cut, [Part(rendered)]).param == "images"


def test_a_message_with_an_image_that_the_request_does_not_bring_is_refused():
    error = refused(turns, (Message("user", (ImagePart(0),)),))
    assert (error.kind, error.param) == (ErrorKind.BAD_REQUEST, "messages")


def test_a_projector_of_sound_only_is_no_projector_of_images(tmp_path):
    class Header:
        architecture = "clip"
        metadata = {"clip.has_audio_encoder": True}  # noqa: RUF012 - a stand-in for a read header

    assert refused(sight, Header()).kind is ErrorKind.NOT_SUPPORTED
