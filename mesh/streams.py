"""Whole frames over a libp2p stream, on the trio side."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from . import upstream  # isort: skip
from libp2p.abc import INetStream

from ..errors import MeshloreError, PeerGone
from .frames import Decoder, Frame, encode

READ_BYTES = 64 << 10
WRITE_DEADLINE_S = 10.0
WRITE_BYTES = 64 << 10
MAX_UNSENT_BYTES = 16 << 20


class FrameStream:
    """Sends and receives frames; one task at a time for each."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream
        self._decoder = Decoder()
        self._broken = False

    async def send(self, frame: Frame) -> None:
        """Write one frame; `write` says what that means.

        Raises:
            DecodeError: the frame is too large; nothing was written.
            PeerGone: the stream is broken.
        """
        await self.write(encode(frame))

    async def write(self, data: bytes | memoryview) -> None:
        """Write whole frames, or bytes of which the receiver knows how many come.

        Once begun it is not cancelled, as half of them would end the stream.

        Raises:
            PeerGone: the stream is broken.
        """
        if self._broken:
            raise PeerGone("the stream is broken")
        self._broken = True
        with upstream.shielded(WRITE_DEADLINE_S):
            try:
                await upstream.write_all(self._stream, data)
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
            self._decoder.feed(await self._read(READ_BYTES))
        return frame

    async def receive_bytes(self, size: int) -> bytearray:
        """The next bytes, exactly so many, which are no frames.

        Raises:
            PeerGone: the stream has ended.
        """
        received = self._decoder.take_rest()
        while len(received) < size:
            received += await self._read(size - len(received))
        self._decoder.feed(received[size:])
        del received[size:]
        return received

    async def _read(self, most: int) -> bytes | bytearray:
        try:
            data = await upstream.read_some(self._stream, most)
        except Exception as error:
            raise PeerGone("the connection broke", "try again") from error
        if not data:
            raise PeerGone("the peer closed the stream", "try again")
        return data

    async def close(self) -> None:
        with upstream.shielded(1), suppress(Exception):
            await (self._stream.reset() if self._broken else self._stream.close())

    async def reset(self) -> None:
        with upstream.shielded(1), suppress(Exception):
            await self._stream.reset()


class Outbox:
    """Frames on their way to one stream, in order, many small ones in one write."""

    def __init__(self, frames: FrameStream) -> None:
        self._frames = frames
        self._unsent: deque[bytes] = deque()
        self._unsent_bytes = 0
        self.changed = trio.lowlevel.ParkingLot()
        """Unparked when frames come or have been written."""
        self.frames_waiting = 0

    @property
    def is_full(self) -> bool:
        return self._unsent_bytes >= MAX_UNSENT_BYTES

    def put(self, data: bytes) -> None:
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self.frames_waiting += 1
        self.changed.unpark_all()

    async def run_while(self, work: Callable[[], Awaitable[None]]) -> None:
        """Write while ``work`` runs; both end with the first that ends. Raises what ended them."""
        ended: MeshloreError | None = None

        async def until_the_first(run: Callable[[], Awaitable[None]]) -> None:
            nonlocal ended
            try:
                await run()
            except MeshloreError as error:
                ended = error
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_the_first, self._write)
            await until_the_first(work)
        if ended is not None:
            raise ended

    async def _write(self) -> None:
        while True:
            while not self._unsent:
                await self.changed.park()
            batch = self._take()
            await self._frames.write(batch[0] if len(batch) == 1 else b"".join(batch))
            self._unsent_bytes -= sum(map(len, batch))
            self.frames_waiting -= len(batch)
            self.changed.unpark_all()

    def _take(self) -> list[bytes]:
        batch = [self._unsent.popleft()]
        size = len(batch[0])
        while self._unsent and size + len(self._unsent[0]) <= WRITE_BYTES:
            batch.append(self._unsent.popleft())
            size += len(batch[-1])
        return batch
