"""The wire format: what is encoded comes back, however it is cut, and what is no frame is refused."""

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugsky.core import frames

TO_ENGINE = (
    frames.ClientHello(),
    frames.Prepare(rid=1, tenant="acme", messages=(frames.Message("user", "Grüße, 世界 👋"),), max_tokens=5),
    frames.Prepare(rid=2, tenant="acme", tokens=(1, 2, 3)),
    frames.Submit(
        rid=3,
        job="01",
        tenant="acme",
        tokens=(4, 5),
        params=frames.Params(temperature=0.5, stop=("\n", "END"), logit_bias={7: -100.0}),
        max_tokens=9,
        resume_tokens=(6,),
        deadline_us=1_000_000,
    ),
    frames.Cancel(rid=3),
    frames.Threads(n=2),
    frames.Stats(rid=4),
    frames.AckFinal(jobs=("01", "02")),
    frames.Pin(rid=5, name="house rules", tokens=(1, 2)),
    frames.Unpin(rid=6, name="house rules"),
    frames.Drain(),
)
FROM_ENGINE = (
    frames.Loading(fraction=0.5),
    frames.EngineHello(proto=1, instance="i", build="b", digest="d", n_ctx=8192, caps=("netns",)),
    frames.Refused(need=2, have=1),
    frames.Prepared(rid=1, tokens=(1, 2), room=10),
    frames.Accepted(rid=3, cached=2),
    frames.Step(
        n=1,
        t_us=9,
        items=(
            frames.StepItem(
                rid=3, ids=(1,), text="a", final=frames.Finish(reason="stop", usage=frames.Usage(2, 1, engine_us=9))
            ),
        ),
    ),
    frames.StatsReply(4, 1, 2, 3, 4, 5.5, 6, 7, 8, 9, parked=3, waiting_by_class=(1, 0, 1), pinned={"house rules": 2}),
    frames.Pinned(rid=5, cells=2),
    frames.Failed(rid=3, kind="context_exceeded", what="too long", n_prompt=9, n_ctx=8),
    frames.Retiring(),
)


def wire(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(st.lists(st.sampled_from(TO_ENGINE), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_frames_survive_any_cutting_of_the_stream(sent, cuts):
    stream = b"".join(map(frames.encode, sent))
    buffer, received, at, turn = frames.to_engine_buffer(), [], 0, 0
    while at < len(stream):
        size = cuts[turn % len(cuts)]
        received += buffer.feed(stream[at : at + size])
        at, turn = at + size, turn + 1
    assert received == sent


def test_every_frame_of_an_engine_comes_back_as_it_was():
    assert tuple(frames.from_engine_buffer().feed(b"".join(map(frames.encode, FROM_ENGINE)))) == FROM_ENGINE


def test_a_field_that_a_newer_peer_added_is_ignored():
    body = msgspec.msgpack.encode({"t": "cancel", "rid": 7, "because": "later"})
    assert list(frames.to_engine_buffer().feed(wire(body))) == [frames.Cancel(rid=7)]


REFUSED = {
    "not MessagePack": wire(b"\xc1"),
    "an unknown frame": wire(msgspec.msgpack.encode({"t": "reboot"})),
    "a frame of the other side": wire(msgspec.msgpack.encode({"t": "prepared", "rid": 1, "tokens": [], "room": 1})),
    "a missing field": wire(msgspec.msgpack.encode({"t": "cancel"})),
    "a wrong type": wire(msgspec.msgpack.encode({"t": "cancel", "rid": "one"})),
    "text that is no UTF-8": wire(b"\x83\xa1t\xa7prepare\xa3rid\x01\xa6tenant\xa2\xff\xfe"),
    "half a surrogate pair": wire(b"\x83\xa1t\xa7prepare\xa3rid\x01\xa6tenant\xa3\xed\xa0\x80"),
    "a nesting bomb": wire(b"\x91" * 100_000),
    "bytes after the frame": wire(frames.encode(frames.Drain())[4:] + b"\x00"),
    "nothing": wire(b""),
    "a length over the limit": struct.pack(">I", frames.MAX_FRAME + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(frames.FrameError):
        list(frames.to_engine_buffer().feed(data))


def test_frames_before_a_malformed_one_are_delivered():
    buffer, received = frames.to_engine_buffer(), []
    with pytest.raises(frames.FrameError):
        received.extend(iter(buffer.feed(frames.encode(frames.Drain()) + wire(b"\xc1"))))
    assert received in ([frames.Drain()], [])


@given(st.binary(max_size=200))
def test_random_bytes_give_frames_or_a_frame_error_and_nothing_else(data):
    try:
        for frame in frames.to_engine_buffer().feed(data):
            assert isinstance(frame, frames.ToEngine)
    except frames.FrameError:
        pass


def test_a_frame_over_16_mib_is_not_sent():
    with pytest.raises(frames.FrameError, match="16777216"):
        frames.encode(frames.Prepare(rid=1, tenant="acme", text="x" * frames.MAX_FRAME))
