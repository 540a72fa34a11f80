"""Blobs over two Yamux connections in one process: what arrives, and how a peer is left that does not keep to it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from meshlore.errors import DecodeError, PeerGone, PeerTimeout
from meshlore.mesh import upstream
from meshlore.mesh.blobs import (
    CONFIRMED_BYTES,
    CREDIT,
    CREDIT_BYTES,
    FETCH,
    SIZE,
    STALL_S,
    receive_blob,
    send_blob,
)
from meshlore.mesh.frames import Frame
from meshlore.mesh.partials import PIECE_BYTES, Partial
from meshlore.mesh.streams import FrameStream
from meshlore.mesh.transport import TransportLimits

DATA = os.urandom(2 * CREDIT_BYTES + PIECE_BYTES + 1)
NAME = hashlib.sha256(DATA).hexdigest()
LIMIT = 8 << 20
End = Callable[[NetStream], Awaitable[None]]


class _Session:
    """One end of a secured connection, in memory."""

    def __init__(self, stream: trio.abc.Stream, is_initiator: bool) -> None:
        self._stream = stream
        self.is_initiator = is_initiator

    async def read(self, most: int) -> bytes:
        return bytes(await self._stream.receive_some(most))

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        await self._stream.aclose()


def _talk(ask: End, answer: End, clock: trio.abc.Clock | None = None) -> None:
    """Let both talk over one stream, each with its end of it, until ``ask`` is done."""

    async def main() -> None:
        upstream.patch_yamux()
        ends = trio.testing.memory_stream_pair()
        ours, theirs = (
            upstream.MeshYamux(
                _Session(end, is_initiator), ID.from_pubkey(create_new_key_pair().public_key), is_initiator=is_initiator
            )
            for end, is_initiator in zip(ends, (True, False), strict=True)
        )

        async def serve() -> None:
            await answer(NetStream(await theirs.accept_stream(), None, None))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.start)
            nursery.start_soon(theirs.start)
            nursery.start_soon(serve)
            stream = NetStream(await ours.open_stream(), None, None)
            await upstream.widen(stream, 2 * CREDIT_BYTES)
            await ask(stream)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=clock)


async def _has_data(name: str) -> bytes | None:
    return DATA if name == NAME else None


async def _serve(stream: NetStream) -> None:
    await send_blob(stream, _has_data, LIMIT, lambda _size: None)


async def _fetch(stream: NetStream, partial: Partial, limit: int = LIMIT) -> tuple[bytes, int]:
    """The blob, and how many bytes of it came over the stream."""
    counted: list[int] = []
    return await receive_blob(FrameStream(stream), NAME, limit, counted.append, partial), sum(counted)


@pytest.mark.parametrize("begun", [0, 1, PIECE_BYTES, CREDIT_BYTES + 7, len(DATA) - 1, len(DATA)])
def test_a_blob_arrives_whole_and_only_what_was_not_there_travels(begun: int) -> None:
    async def ask(stream: NetStream) -> None:
        partial = Partial(bytearray(DATA[:begun]))
        assert await _fetch(stream, partial) == (DATA, len(DATA) - begun)
        assert not partial.data

    _talk(ask, _serve)


def test_a_sender_that_hangs_up_leaves_whole_pieces_to_go_on_with() -> None:
    async def hang_up(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.receive()
        await frames.send(Frame(SIZE, 1, {"size": len(DATA)}))
        await frames.write(DATA[: 2 * PIECE_BYTES + 5])
        await frames.close()

    async def ask(stream: NetStream) -> None:
        partial = Partial()
        with pytest.raises(PeerGone):
            await _fetch(stream, partial)
        assert partial.data == DATA[: 2 * PIECE_BYTES]

    _talk(ask, hang_up)


@pytest.mark.parametrize("size", [LIMIT + 1, -1, "many", None])
def test_a_size_that_was_not_asked_for_is_refused_before_anything_is_read(size: object) -> None:
    async def claim(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.receive()
        await frames.send(Frame(SIZE, 1, {"size": size}))
        await trio.sleep_forever()

    async def ask(stream: NetStream) -> None:
        with pytest.raises(DecodeError):
            await _fetch(stream, Partial())

    _talk(ask, claim)


def test_bytes_that_are_not_those_of_the_name_are_refused_and_not_kept() -> None:
    async def forge(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.receive()
        await frames.send(Frame(SIZE, 1, {"size": PIECE_BYTES + 3}))
        await frames.write(bytes(PIECE_BYTES + 3))
        await trio.sleep_forever()

    async def ask(stream: NetStream) -> None:
        partial = Partial()
        with pytest.raises(DecodeError, match="named after"):
            await _fetch(stream, partial)
        assert not partial.data

    _talk(ask, forge)


def test_a_sender_that_stalls_is_left() -> None:
    async def stall(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.receive()
        await frames.send(Frame(SIZE, 1, {"size": len(DATA)}))
        await frames.write(DATA[:7])
        await trio.sleep_forever()

    async def ask(stream: NetStream) -> None:
        with pytest.raises(PeerTimeout):
            await _fetch(stream, Partial())

    _talk(ask, stall, trio.testing.MockClock(autojump_threshold=0.05))


def test_a_receiver_that_confirms_nothing_is_sent_no_more_than_its_credit_and_is_left() -> None:
    sent: list[int] = []
    ended = trio.Event()

    async def answer(stream: NetStream) -> None:
        with pytest.raises(PeerTimeout):
            await send_blob(stream, _has_data, LIMIT, sent.append)
        ended.set()

    async def take_without_a_word(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(NAME), "limit": LIMIT, "offset": 0}))
        await frames.receive()
        await frames.receive_bytes(CREDIT_BYTES)
        await ended.wait()

    _talk(take_without_a_word, answer, trio.testing.MockClock(autojump_threshold=0.05))
    assert sum(sent) == CREDIT_BYTES


def test_a_receiver_on_a_slow_link_has_the_time_that_each_piece_may_take() -> None:
    sent: list[int] = []

    async def answer(stream: NetStream) -> None:
        await send_blob(stream, _has_data, LIMIT, sent.append)

    async def take_slowly(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(NAME), "limit": LIMIT, "offset": 0}))
        await frames.receive()
        received = 0
        while received < len(DATA):
            piece = await frames.receive_bytes(min(PIECE_BYTES, len(DATA) - received))
            await trio.sleep(STALL_S - 1)
            received += len(piece)
            if received % CONFIRMED_BYTES == 0 or received == len(DATA):
                await frames.send(Frame(CREDIT, 1, {"received": received}))

    _talk(take_slowly, answer, trio.testing.MockClock(autojump_threshold=0.05))
    assert sum(sent) == len(DATA)


def test_all_that_one_member_may_have_on_the_way_fits_into_what_a_connection_may_leave_unread() -> None:
    assert TransportLimits().blobs_per_peer * (CREDIT_BYTES + PIECE_BYTES) < upstream.MAX_UNREAD_BYTES


@pytest.mark.parametrize(
    ("received", "why"), [(len(DATA), "not sent"), (0, "not sent"), (1, "less than is confirmed at a time")]
)
def test_a_receiver_that_confirms_what_was_not_sent_or_byte_by_byte_is_refused(received: int, why: str) -> None:
    ended = trio.Event()

    async def answer(stream: NetStream) -> None:
        with pytest.raises(DecodeError, match=why):
            await _serve(stream)
        ended.set()

    async def confirm(stream: NetStream) -> None:
        frames = FrameStream(stream)
        await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(NAME), "limit": LIMIT, "offset": 0}))
        await frames.send(Frame(CREDIT, 1, {"received": received}))
        await ended.wait()

    _talk(confirm, answer)
