"""The frame codec: whatever the bytes and however they are cut, a frame or a typed error."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.codec import pack
from meshlore.errors import DecodeError
from meshlore.mesh.frames import MAX_FRAME_BYTES, MAX_ID, Decoder, Frame, decode, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
frames = st.builds(
    Frame,
    kind=st.text(min_size=1, max_size=64),
    id=st.integers(0, MAX_ID),
    body=st.dictionaries(st.text(max_size=10), values, max_size=5),
)


def all_frames(decoder: Decoder) -> list[Frame]:
    found = []
    while (frame := decoder.next_frame()) is not None:
        found.append(frame)
    return found


@given(st.lists(frames, max_size=5), st.lists(st.integers(1, 40), min_size=1))
@settings(max_examples=60, deadline=None)
def test_frames_survive_any_cutting_of_the_stream(sent: list[Frame], cuts: list[int]) -> None:
    data = b"".join(encode(frame) for frame in sent)
    decoder, received, place = Decoder(), [], 0
    while place < len(data):
        size = cuts[len(received) % len(cuts)]
        decoder.feed(data[place : place + size])
        received += all_frames(decoder)
        place += size
    decoder.finish()
    assert received == sent


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_foreign_bytes_give_a_frame_or_a_decode_error(data: bytes) -> None:
    decoder = Decoder()
    decoder.feed(data)
    try:
        all_frames(decoder)
        decoder.finish()
    except DecodeError:
        pass


@given(frames, st.integers(0), st.integers(1, 255))
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_never_raises_anything_but_decode_error(frame: Frame, place: int, change: int) -> None:
    data = bytearray(encode(frame))
    data[place % len(data)] ^= change
    decoder = Decoder()
    decoder.feed(bytes(data))
    with contextlib.suppress(DecodeError):
        all_frames(decoder)


def test_a_length_over_the_limit_is_refused_before_its_payload_comes() -> None:
    decoder = Decoder()
    decoder.feed(struct.pack("!I", MAX_FRAME_BYTES + 1))
    with pytest.raises(DecodeError, match="at most"):
        decoder.next_frame()


def test_after_an_error_the_decoder_stays_broken() -> None:
    decoder = Decoder()
    decoder.feed(b"\xff\xff\xff\xff")
    with pytest.raises(DecodeError):
        decoder.next_frame()
    decoder.feed(encode(Frame("fine")))
    with pytest.raises(DecodeError):
        decoder.next_frame()


def test_a_stream_that_ends_inside_a_frame_is_an_error() -> None:
    decoder = Decoder()
    decoder.feed(encode(Frame("cut"))[:-1])
    assert decoder.next_frame() is None
    with pytest.raises(DecodeError, match="ended inside"):
        decoder.finish()


def test_a_frame_of_exactly_the_limit_passes_and_one_more_byte_does_not() -> None:
    overhead = len(encode(Frame("big", 1, {"data": bytes(1 << 19)}))) - 4 - (1 << 19)
    fits = Frame("big", 1, {"data": bytes(MAX_FRAME_BYTES - overhead)})
    assert len(encode(fits)) == 4 + MAX_FRAME_BYTES
    with pytest.raises(DecodeError, match="blobs"):
        encode(Frame("big", 1, {"data": bytes(MAX_FRAME_BYTES - overhead + 1)}))


@pytest.mark.parametrize(
    "fields",
    [
        {"v": 2, "kind": "x", "id": 1, "body": {}},
        {"v": 1, "kind": "", "id": 1, "body": {}},
        {"v": 1, "kind": "x" * 65, "id": 1, "body": {}},
        {"v": 1, "kind": "x", "id": -1, "body": {}},
        {"v": 1, "kind": "x", "id": True, "body": {}},
        {"v": 1, "kind": "x", "id": 1, "body": []},
        {"v": 1, "kind": "x", "id": 1},
        {"v": 1, "kind": "x", "id": 1, "body": {}, "more": 1},
    ],
)
def test_frames_of_another_form_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        decode(pack(fields))
