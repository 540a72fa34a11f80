"""Blobs: byte strings named by their SHA-256, pulled over a stream of their own, on the trio side.

    -> fetch {name, limit}        <- size {size} | error
    <- chunk {data} ...           -> credit {received} ...

The sender has at most `CREDIT_BYTES` on the way that the receiver has not confirmed: Yamux breaks a
stream whose reader leaves its window full for 5 s, and nobody has to hold more than that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import INetStream

from ..errors import DecodeError, PeerTimeout, Refused
from .calls import FrameStream
from .dispatch import ERROR, body_of, error_frame
from .frames import CHUNK_BYTES, Frame

CREDIT_BYTES = 1 << 20
STALL_S = 10.0
NAME_BYTES = 32
FETCH, SIZE, CHUNK, CREDIT = "fetch", "size", "chunk", "credit"
ReadBlob = Callable[[str], Awaitable[bytes | None]]


async def receive_blob(frames: FrameStream, name: str, size_limit_bytes: int, count: Callable[[int], None]) -> bytes:
    """Pull one blob; ``count`` is told of every piece.

    Raises:
        Refused: the peer does not have it ("no-such-blob"), or it is over the limit ("too-large").
        DecodeError: the bytes are not those of the name. PeerGone, PeerTimeout: it broke or stalled.
    """
    await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(name), "limit": size_limit_bytes}))
    first = await _receive(frames)
    size = _int_of(first, SIZE, "size")
    if not 0 <= size <= size_limit_bytes:
        raise DecodeError(f"a blob of {size} bytes where at most {size_limit_bytes} are allowed")
    pieces, received, digest = [], 0, hashlib.sha256()
    while received < size:
        chunk = await _receive(frames)
        piece = chunk.body.get("data")
        if chunk.kind != CHUNK or type(piece) is not bytes or not 0 < len(piece) <= size - received:
            raise DecodeError(f"the peer sent {chunk.kind[:32]!r} where a piece of a blob is due")
        pieces.append(piece)
        received += len(piece)
        digest.update(piece)
        count(len(piece))
        await frames.send(Frame(CREDIT, 1, {"received": received}))
    if digest.hexdigest() != name:
        raise DecodeError(f"the blob is not the one it is named after ({name[:12]}…)")
    return b"".join(pieces)


async def send_blob(stream: INetStream, read: ReadBlob, size_limit_bytes: int, count: Callable[[int], None]) -> None:
    """Serve one fetch. Raises what ends it early; the caller closes the stream."""
    frames = FrameStream(stream)
    request = await _receive(frames)
    name, limit = request.body.get("name"), request.body.get("limit")
    if request.kind != FETCH or type(name) is not bytes or len(name) != NAME_BYTES or type(limit) is not int:
        raise DecodeError("the peer sent something else where a fetch is due")
    data = await read(name.hex())
    if data is None:
        refusal = Refused(f"the peer does not have {name.hex()[:12]}…", "ask another", code="no-such-blob")
        return await frames.send(error_frame(1, refusal))
    if len(data) > min(limit, size_limit_bytes):
        refusal = Refused(f"the blob of {len(data)} bytes is larger than asked for", code="too-large")
        return await frames.send(error_frame(1, refusal))
    await frames.send(Frame(SIZE, 1, {"size": len(data)}))
    sent = confirmed = 0
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
