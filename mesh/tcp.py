"""A workaround for the turns that a TCP socket costs; `upstream` has the rest, and is what others import.

trio follows whatever a socket could do at once with a turn of its scheduler, and upstream takes a lock around it that
costs another. Each turn asks the kernel for news and lets go of the interpreter, for which whoever computes waits.
`tests/test_mesh_upstream_tcp.py` fails when they no longer do.
"""

from __future__ import annotations

import os

import trio
from libp2p.abc import IRawConnection
from libp2p.io.trio import TrioTCPStream

from .yamux import PromptLock

READ_BYTES = 64 << 10


class PromptSocket:
    """A `trio.SocketStream` that takes a turn only when it has to wait; the locks around it see to it that some are."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.socket = stream.socket
        self._is_drained = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = READ_BYTES if max_bytes is None else max_bytes
        while True:
            if self._is_drained and self.socket.fileno() != -1:
                await trio.lowlevel.wait_readable(self.socket)  # type: ignore[arg-type]  # trio takes it, too
            try:
                data = os.read(self.socket.fileno(), size)
                self._is_drained = len(data) < size
                return data
            except BlockingIOError:
                self._is_drained = True
            except OSError as error:
                if self.socket.fileno() == -1:
                    raise trio.ClosedResourceError("this socket was closed here") from None
                raise trio.BrokenResourceError(str(error)) from error

    async def send_all(self, data: bytes) -> None:
        try:
            sent = os.write(self.socket.fileno(), data)
        except OSError:
            sent = 0  # full, or broken: the stream knows what to do
        if sent < len(data):
            await self._stream.send_all(memoryview(data)[sent:])

    async def aclose(self) -> None:
        await self._stream.aclose()


def prompt_socket(connection: IRawConnection) -> None:
    """Spare a raw connection the turns if TCP carries it. Nobody may be reading or writing it just now."""
    stream = getattr(connection, "stream", None)
    if isinstance(stream, TrioTCPStream) and os.name == "posix":
        stream.stream = PromptSocket(stream.stream)
        stream.read_lock, stream.write_lock = PromptLock(), PromptLock()
