"""Blobs: byte strings named by their SHA-256, pulled over a stream of their own, on the trio side.

    -> fetch {name, limit, offset}    <- size {size} | error
    <- the bytes from offset on       -> credit {received} ...

All but the bytes themselves are frames. A transfer that was cut goes on at ``offset``; ``size`` and ``received``
count the whole blob.

The sender has little more than `CREDIT_BYTES` on the way that the receiver has not confirmed, which it does whenever
half of that has come, and at the end: Yamux breaks a stream whose reader leaves its window full for 5 s, and nobody has
to hold more. Who confirms less at a time could hold the sender's memory for days, and is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Awaitable, Callable
from typing import Protocol

import trio
from libp2p.abc import INetStream

from ..errors import DecodeError, PeerTimeout, Refused
from .dispatch import ERROR, body_of, error_frame
from .frames import Frame
from .partials import PIECE_BYTES, Partial, check_name
from .streams import FrameStream

CREDIT_BYTES = 2 << 20
CONFIRMED_BYTES = CREDIT_BYTES // 2
STALL_S = 10.0
"""For one piece to come."""
NAME_BYTES = 32
FETCH, SIZE, CREDIT = "fetch", "size", "credit"
ReadBlob = Callable[[str], Awaitable[bytes | None]]


class Digest(Protocol):
    """What `hashlib` returns."""

    def update(self, data: bytes | bytearray, /) -> None: ...

    def hexdigest(self) -> str: ...


async def receive_blob(
    frames: FrameStream, name: str, size_limit_bytes: int, count: Callable[[int], None], partial: Partial
) -> bytes:
    """Pull one blob, or what ``partial`` lacks of it; ``count`` is told of every piece.

    Raises:
        Refused: the peer does not have it ("no-such-blob"), or it is over the limit ("too-large").
        DecodeError: the bytes are not those of the name.
        PeerGone, PeerTimeout: it broke or stalled, or what was here of it before was wrong; try again.
    """
    begun = received = len(partial.data)
    await frames.send(Frame(FETCH, 1, {"name": bytes.fromhex(name), "limit": size_limit_bytes, "offset": begun}))
    first = await _receive(frames)
    size = _int_of(first, SIZE, "size")
    if not 0 <= size <= size_limit_bytes:
        raise DecodeError(f"a blob of {size} bytes where at most {size_limit_bytes} are allowed")
    digest = await trio.to_thread.run_sync(hashlib.sha256, partial.data)
    confirmed, fresh = begun, bytearray()
    try:
        while size - received > PIECE_BYTES:
            fresh += await _receive_bytes(frames, PIECE_BYTES)
            received += PIECE_BYTES
            count(PIECE_BYTES)
            if received - confirmed >= CONFIRMED_BYTES:
                await frames.send(Frame(CREDIT, 1, {"received": received}))
                confirmed, kept, fresh = received, fresh, bytearray()
                await trio.to_thread.run_sync(_keep, kept, digest, partial)
        last = await _receive_bytes(frames, max(0, size - received))
    except BaseException:
        if fresh:
            _keep(fresh, digest, partial)
        raise
    if last:
        count(len(last))
        await frames.send(Frame(CREDIT, 1, {"received": size}))
    return await trio.to_thread.run_sync(_finish, fresh + last, digest, partial, name, begun)


def _keep(fresh: bytearray, digest: Digest, partial: Partial) -> None:
    digest.update(fresh)
    partial.append(fresh)


def _finish(last: bytearray, digest: Digest, partial: Partial, name: str, begun: int) -> bytes:
    digest.update(last)
    data = b"".join((partial.data, last))
    partial.discard()
    check_name(name, digest.hexdigest(), begun)
    return data


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
    confirmed, content = sent, memoryview(data)
    while confirmed < len(data):
        while sent < len(data) and sent - confirmed < CREDIT_BYTES:
            piece = content[sent : sent + PIECE_BYTES]
            await frames.write(piece)
            sent += len(piece)
            count(len(piece))
        due = min(CONFIRMED_BYTES, len(data) - confirmed)
        # as long as the receiver has for all that is confirmed at once
        credit = await _receive(frames, STALL_S * math.ceil(due / PIECE_BYTES))
        received = _int_of(credit, CREDIT, "received")
        if not confirmed < received <= sent:
            raise DecodeError("the peer confirmed bytes that were not sent")
        if received < len(data) and received - confirmed < CONFIRMED_BYTES:
            raise DecodeError("the peer confirmed less than is confirmed at a time")
        confirmed = received
    return None


async def _receive(frames: FrameStream, patience_s: float = STALL_S) -> Frame:
    with trio.move_on_after(patience_s):
        return await frames.receive()
    raise _stalled(patience_s)


async def _receive_bytes(frames: FrameStream, size: int) -> bytearray:
    with trio.move_on_after(STALL_S):
        return await frames.receive_bytes(size)
    raise _stalled(STALL_S)


def _stalled(patience_s: float) -> PeerTimeout:
    return PeerTimeout(f"the transfer stalled for {patience_s:.0f} s", "try again, or ask another")


def _int_of(frame: Frame, kind: str, field: str) -> int:
    if frame.kind == ERROR:
        body_of(frame)
    value = frame.body.get(field)
    if frame.kind != kind or type(value) is not int:
        raise DecodeError(f"the peer sent {frame.kind[:32]!r} where {kind!r} is due")
    return value
