"""Requests and answers over one stream, on the trio side. Each direction of a pair has its own stream.

Requests are answered as they become ready, so a slow one holds up nobody. A caller that gives up
sends "cancel", and the handler is cancelled.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from . import upstream  # isort: skip
from libp2p.abc import INetStream

from ..errors import DecodeError, PeerGone
from .dispatch import CANCEL, RESERVED_KINDS
from .frames import MAX_ID, Decoder, Frame, encode
from .transport import Body, Caller

READ_BYTES = 64 << 10
WRITE_DEADLINE_S = 10.0
ANSWERS_AT_ONCE = 32


class FrameStream:
    """Whole frames over a libp2p stream."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._writing = trio.Lock()
        self._broken = False

    async def send(self, frame: Frame) -> None:
        """Write one frame. Once begun it is not cancelled, as half a frame would end the stream.

        Raises:
            DecodeError: the frame is too large; nothing was written.
            PeerGone: the stream is broken.
        """
        data = encode(frame)
        async with self._writing:
            if self._broken:
                raise PeerGone("the stream is broken")
            self._broken = True
            with upstream.shielded(WRITE_DEADLINE_S):
                try:
                    await self._stream.write(data)
                    self._broken = False
                except Exception as error:
                    raise PeerGone("the connection broke", "try again") from error
            if self._broken:
                raise PeerGone(f"the peer took nothing for {WRITE_DEADLINE_S:.0f} s")

    async def receive(self) -> Frame:
        """The next frame.

        Raises:
            DecodeError: the peer does not speak frames.
            PeerGone: the stream has ended.
        """
        while (frame := self._decoder.next_frame()) is None:
            try:
                data = await self._stream.read(READ_BYTES)
            except Exception as error:
                raise PeerGone("the connection broke", "try again") from error
            if not data:
                raise PeerGone("the peer closed the stream", "try again")
            self._decoder.feed(data)
        return frame

    async def close(self) -> None:
        with upstream.shielded(1), suppress(Exception):
            await (self._stream.reset() if self._broken else self._stream.close())

    async def reset(self) -> None:
        with upstream.shielded(1), suppress(Exception):
            await self._stream.reset()


@dataclass
class _Waiting:
    arrived: trio.Event = field(default_factory=trio.Event)
    answer: Frame | None = None


class Calls:
    """The asking end of a stream."""

    def __init__(self, frames: FrameStream) -> None:
        self._frames = frames
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self.open = True

    async def call(self, kind: str, body: Body) -> Frame:
        """Send a request and wait for its answer frame; cancel to give up.

        Raises:
            PeerGone: the stream broke. DecodeError: the body is too large.
        """
        request_id = next(self._ids) % MAX_ID
        waiting = self._waiting[request_id] = _Waiting()
        try:
            await self._frames.send(Frame(kind, request_id, body))
            try:
                await waiting.arrived.wait()
            except trio.Cancelled:
                with upstream.shielded(0.5), suppress(PeerGone):
                    await self._frames.send(Frame(CANCEL, request_id))
                raise
        finally:
            self._waiting.pop(request_id, None)
        if waiting.answer is None:
            raise PeerGone("the connection broke before the answer came", "try again")
        return waiting.answer

    async def read_answers(self) -> None:
        """Hand answers to their callers until the stream ends; then fail those who still wait."""
        try:
            while True:
                frame = await self._frames.receive()
                if waiting := self._waiting.pop(frame.id, None):
                    waiting.answer = frame
                    waiting.arrived.set()
        except (PeerGone, DecodeError):
            pass
        finally:
            self.open = False
            for waiting in self._waiting.values():
                waiting.arrived.set()
            await self._frames.reset()


async def serve_calls(stream: INetStream, caller: Caller, answer: Callable[[Caller, Frame], Awaitable[Frame]]) -> None:
    """The answering end: until the stream ends, at most `ANSWERS_AT_ONCE` at once.

    Beyond that it stops reading, so a flood fills the sender's window and not our memory.
    """
    frames = FrameStream(stream)
    running: dict[int, trio.CancelScope] = {}
    slots = trio.Semaphore(ANSWERS_AT_ONCE)

    async def serve(request: Frame, scope: trio.CancelScope) -> None:
        reply: Frame | None = None
        try:
            with scope:
                reply = await answer(caller, request)
            if reply is not None:
                await frames.send(reply)
        finally:
            running.pop(request.id, None)
            slots.release()

    async with trio.open_nursery() as nursery:
        while True:
            request = await frames.receive()
            if request.kind == CANCEL:
                if scope := running.get(request.id):
                    scope.cancel()
                continue
            if request.kind in RESERVED_KINDS or request.id in running:
                raise DecodeError(f"the peer sent {request.kind[:32]!r} where a request is due")
            await slots.acquire()
            scope = running[request.id] = trio.CancelScope()
            nursery.start_soon(serve, request, scope)
