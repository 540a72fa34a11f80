"""Workarounds for py-libp2p 0.8.1's Yamux: `upstream` has the rest, and is what others import.

Each has its reason; `tests/test_mesh_upstream.py` fails when upstream no longer needs one.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import INetStream
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.yamux import yamux

log = logging.getLogger("meshlore.mesh")

WRITE_TIMEOUT_S = 10.0
MAX_NOISE_PLAINTEXT = 65535 - 16
MAX_STREAMS = 64
MAX_UNREAD_BYTES = 16 << 20
TURNS_SPARED = 16


def shielded(timeout_s: float) -> trio.CancelScope:
    """Shields what is inside from cancellation, for at most this long."""
    return trio.CancelScope(deadline=trio.current_time() + timeout_s, shield=True)


class _BoundedStreams(dict[int, Any]):
    """The open streams of one connection."""

    def __init__(self, on_full: Callable[[], None]) -> None:
        super().__init__()
        self._on_full = on_full

    def __setitem__(self, stream_id: int, stream: Any) -> None:
        if stream_id not in self and len(self) >= MAX_STREAMS:
            self._on_full()
            raise trio.BrokenResourceError(f"more than {MAX_STREAMS} streams")  # one that upstream ends for
        super().__setitem__(stream_id, stream)


class PromptLock:
    """A `trio.Lock` that, when it is free, costs a turn of the scheduler only once in `TURNS_SPARED` times."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._taken = 0

    async def __aenter__(self) -> None:
        self._taken += 1
        if self._taken % TURNS_SPARED == 0:
            await trio.lowlevel.checkpoint()
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


class MeshYamux(yamux.Yamux):  # type: ignore[misc]
    """Yamux whose writes and failures stay within one connection, and that takes no more memory than agreed."""

    on_excess: Callable[[str], None] = staticmethod(lambda _peer_id: None)
    """Told of the peer whose connection ends because it opened or sent too much; `new_host` sets it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # upstream accepts any number of streams
        self.streams = _BoundedStreams(lambda: self.on_excess(str(self.peer_id)))
        # a free lock of trio's costs a turn of its scheduler, and upstream takes one for each frame, in and out
        self._write_lock, self.streams_lock = PromptLock(), PromptLock()

    async def _read_data_body(self, length: int) -> bytes:
        # upstream keeps what exceeds a window, so a stream that nobody reads could fill the memory
        if length + sum(map(len, self.stream_buffers.values())) > MAX_UNREAD_BYTES:
            self.on_excess(str(self.peer_id))
            self.event_shutting_down.set()
            await self._cleanup_on_error()
            raise ConnectionClosedError(f"more than {MAX_UNREAD_BYTES} bytes unread", transport="tcp")
        data: bytes = await super()._read_data_body(length)
        return data

    async def _write_frame(self, data: bytes) -> None:
        # a cancelled write leaves the Noise nonce and the framing out of step and poisons the connection,
        # so a write is never cancelled: it ends by its deadline, and takes the connection with it
        with shielded(WRITE_TIMEOUT_S) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            self.event_shutting_down.set()
            with shielded(1):
                await self.secured_conn.close()
            raise ConnectionClosedError("the peer stopped reading", transport="tcp")
        await trio.lowlevel.checkpoint_if_cancelled()

    async def start(self) -> None:
        # whatever a connection's own loop raises would end the whole swarm
        try:
            await super().start()
        except Exception as error:
            log.debug("connection to %s failed: %r", self.peer_id, error)
            with shielded(1):
                await self._cleanup_on_error()


async def _credit_by_half_windows(self: Any, *, bytes_read: int = 0) -> None:
    # upstream sends a WINDOW_UPDATE for almost every read; like go-yamux, only when half is consumed
    self._pending_recv_release = 0
    buffered = len(self.conn.stream_buffers.get(self.stream_id, b""))
    delta = self.target_recv_window - (self.recv_window + buffered)
    if delta <= 0 or delta < self.target_recv_window // 2:
        return
    self.recv_window += delta
    delta += self._apply_autotune_epoch(buffered)
    await self.send_window_update(delta, skip_lock=True)


def patch_yamux() -> None:
    """Patches that no subclass can carry, because Yamux makes its streams by a module's global name."""
    yamux.YamuxStream._auto_tune_and_send_window_update = _credit_by_half_windows
    # a full frame plus its header is just longer than one Noise message and was sent as two
    yamux.MAX_MESSAGE_SIZE = MAX_NOISE_PLAINTEXT


async def read_some(stream: INetStream, most: int) -> bytes | bytearray:
    """What has arrived on a stream, or else the next that does, at most ``most`` bytes.

    ``stream.read`` takes three locks for it, and each is a turn of trio's scheduler. One task reads a stream.
    """
    muxed = stream.muxed_stream
    number, connection = muxed.stream_id, muxed.conn
    while not connection.stream_buffers.get(number) and number in connection.stream_events and not muxed.recv_closed:
        await connection.stream_events[number].wait()
        if number in connection.stream_events:
            connection.stream_events[number] = trio.Event()
    buffer = connection.stream_buffers.get(number)
    if not buffer or muxed.recv_closed:
        ended: bytes = await stream.read(most)
        return ended
    data: bytearray = buffer
    if len(buffer) <= most:
        connection.stream_buffers[number] = bytearray()
    else:
        data = buffer[:most]
        del buffer[:most]
    await muxed._auto_tune_and_send_window_update(bytes_read=len(data))
    return data


async def write_all(stream: INetStream, data: bytes | memoryview) -> None:
    """As ``stream.write``, but what fits into the window takes none of its four locks.

    One task writes a stream.
    """
    muxed = stream.muxed_stream
    written = 0
    while written < len(data):
        size = min(len(data) - written, yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE)
        if size > muxed.send_window or muxed.send_closed or muxed.closed:
            await stream.write(bytes(data[written:]))
            return
        muxed.send_window -= size
        header = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, muxed.stream_id, size)
        await muxed.conn._write_frame(b"".join((header, data[written : written + size])))
        written += size


async def widen(stream: INetStream, window_bytes: int) -> None:
    """Let the peer send this much at once from the start, for a stream that will carry a lot.

    A writer that meets a full window polls every 10 ms, and each window starts at 256 KiB.
    """
    muxed = stream.muxed_stream
    delta = window_bytes - muxed.target_recv_window
    if delta > 0:
        muxed.target_recv_window = window_bytes
        muxed.recv_window += delta
        await muxed.send_window_update(delta)
