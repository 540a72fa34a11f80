"""Blobs: byte strings named by their SHA-256, pulled over a stream of their own, on the trio side.

    -> fetch {name, limit, offset}    <- size {size} | error
    <- chunk {data} ...               -> credit {received} ...

A transfer that was cut goes on at ``offset``; ``size`` and ``received`` count the whole blob.

The sender has at most `CREDIT_BYTES` on the way that the receiver has not confirmed: Yamux breaks a
stream whose reader leaves its window full for 5 s, and nobody has to hold more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream

from ..errors import DecodeError, PeerTimeout, Refused
from .dispatch import ERROR, body_of, error_frame
from .frames import CHUNK_BYTES, Frame
from .partials import Partial, check_name
from .streams import FrameStream

CREDIT_BYTES = 1 << 20
STALL_S = 10.0
NAME_BYTES = 32
FETCH, SIZE, CHUNK, CREDIT = "fetch", "size", "chunk", "credit"
ReadBlob = Callable[[str], Awaitable[bytes | None]]


async def receive_blob(
    frames: FrameStream, name: str, size_limit_bytes: int, count: Callable[[int], None], partial: Partial
) -> bytes:
    """Pull one blob, or what ``partial`` lacks of it; ``count`` is told of every piece.

    Raises:
        Refused: the peer does not have it ("no-such-blob"), or it is over the limit ("too-large").
        DecodeError: the bytes are not those of the name.
        PeerGone, PeerTimeout: it broke or stalled, or what was here of it before was wrong; try again.
    """
    begun = len(partial.data)
    await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(name), "limit": size_limit_bytes, "offset": begun}))
    first = await _receive(frames)
    size = _int_of(first, SIZE, "size")
    if not 0 <= size <= size_limit_bytes:
        raise DecodeError(f"a blob of {size} bytes where at most {size_limit_bytes} are allowed")
    received, digest = begun, hashlib.sha256(partial.data)
    pieces = [bytes(partial.data)]

    def keep(piece: bytes, is_last: bool) -> None:
        digest.update(piece)
        if not is_last:
            partial.append(piece)

    while received < size:
        chunk = await _receive(frames)
        piece = chunk.body.get("data")
        if chunk.kind != CHUNK or type(piece) is not bytes or not 0 < len(piece) <= size - received:
            raise DecodeError(f"the peer sent {chunk.kind[:32]!r} where a piece of a blob is due")
        pieces.append(piece)
        received += len(piece)
        count(len(piece))
        await frames.send(Frame(CREDIT, 1, {"received": received}))
        await trio.to_thread.run_sync(keep, piece, received == size)
    await trio.to_thread.run_sync(partial.discard)
    check_name(name, digest.hexdigest(), begun)
    return b"".join(pieces)


async def send_blob(stream: INetStream, read: ReadBlob, size_limit_bytes: int, count: Callable[[int], None]) -> None:
    """Serve one fetch. Raises what ends it early; the caller closes the stream."""
    frames = FrameStream(stream)
    request = await _receive(frames)
    name, limit, sent = (request.body.get(field) for field in ("name", "limit", "offset"))
    if request.kind != FETCH or type(name) is not bytes or len(name) != NAME_BYTES:
        raise DecodeError("the peer sent something else where a fetch is due")
    if type(limit) is not int or type(sent) is not int or sent < 0:
        raise DecodeError("the peer sent something else where a fetch is due")
    data = await read(name.hex())
    if data is None:
        refusal = Refused(f"the peer does not have {name.hex()[:12]}…", "ask another", code="no-such-blob")
        return await frames.send(error_frame(1, refusal))
    if len(data) > min(limit, size_limit_bytes):
        refusal = Refused(f"the blob of {len(data)} bytes is larger than asked for", code="too-large")
        return await frames.send(error_frame(1, refusal))
    await frames.send(Frame(SIZE, 1, {"size": len(data)}))
    confirmed = sent
    while confirmed < len(data):
        while sent < len(data) and sent - confirmed < CREDIT_BYTES:
            piece = data[sent : sent + CHUNK_BYTES]
            await frames.send(Frame(CHUNK, 1, {"data": piece}))
            sent += len(piece)
            count(len(piece))
        received = _int_of(await _receive(frames), CREDIT, "received")
        if not confirmed < received <= sent:
            raise DecodeError("the peer confirmed bytes that were not sent")
        confirmed = received
    return None


async def _receive(frames: FrameStream) -> Frame:
    with trio.move_on_after(STALL_S):
        return await frames.receive()
    raise PeerTimeout(f"the transfer stalled for {STALL_S:.0f} s", "try again, or ask another")


def _int_of(frame: Frame, kind: str, field: str) -> int:
    if frame.kind == ERROR:
        body_of(frame)
    value = frame.body.get(field)
    if frame.kind != kind or type(value) is not int:
        raise DecodeError(f"the peer sent {frame.kind[:32]!r} where {kind!r} is due")
    return value
