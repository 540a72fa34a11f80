"""Tests here fail when trio and py-libp2p no longer need the workaround of `mesh/tcp.py`, or when it is no stream."""

from __future__ import annotations

import inspect
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from meshlore.mesh import upstream
from meshlore.mesh.tcp import PromptSocket
from turns import turns_of_others

TEACH = "upstream changed: read the new code, then drop or adapt the workaround"
TIMES = 64


async def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = listener.socket.getsockname()
    near = await trio.open_tcp_stream(*address)
    far = await listener.accept()
    await listener.aclose()
    return near, far


async def _turns_of_a_stream(prompt: Callable[[RawConnection], None]) -> tuple[int, int]:
    """Turns that `TIMES` writes cost which a socket could do at once, and as many reads."""
    near, far = await _pair()
    writer, reader = (RawConnection(TrioTCPStream(end), False) for end in (near, far))
    for end in (writer, reader):
        prompt(end)
    writes = await turns_of_others(lambda: writer.write(b"x"), TIMES)
    return writes, await turns_of_others(lambda: reader.read(1), TIMES)


def test_what_a_socket_can_do_at_once_still_costs_turns_and_ours_few_but_some() -> None:
    assert min(trio.run(_turns_of_a_stream, lambda _raw: None)) >= TIMES, f"{TEACH}: `PromptSocket` can go"
    writes, reads = trio.run(_turns_of_a_stream, upstream.prompt_socket)
    assert 0 < writes < TIMES // 4
    assert 0 < reads < TIMES // 4


def test_each_read_and_write_of_a_socket_still_takes_a_lock() -> None:
    assert "async with self.read_lock" in inspect.getsource(TrioTCPStream.read), TEACH
    assert "async with self.write_lock" in inspect.getsource(TrioTCPStream.write), TEACH


def test_what_is_more_than_the_kernel_takes_arrives_whole_and_then_the_end() -> None:
    async def main() -> None:
        near, far = map(PromptSocket, await _pair())
        data = os.urandom(20 << 20)
        received = bytearray()

        async def send() -> None:
            await near.send_all(data)
            await near.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while piece := await far.receive_some():
                received += piece
        assert received == data

    trio.run(main)


def test_who_waits_is_woken_by_what_comes_and_can_be_cancelled() -> None:
    async def main() -> None:
        near, far = map(PromptSocket, await _pair())
        for _ in range(3):
            with trio.move_on_after(0.01) as scope:
                await far.receive_some(8)
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:
                received: list[bytes] = []

                async def take(received: list[bytes] = received) -> None:
                    received.append(await far.receive_some(8))

                nursery.start_soon(take)
                await trio.testing.wait_all_tasks_blocked()
                await near.send_all(b"12345678abc")
            assert (received, await far.receive_some(8)) == ([b"12345678"], b"abc")

    trio.run(main)


async def _reset(near: Any, far: Any) -> None:
    near.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await near.aclose()
    del far


async def _close_here(near: Any, far: Any) -> None:
    del near
    await far.aclose()


@pytest.mark.parametrize(
    ("end", "error"), [(_reset, trio.BrokenResourceError), (_close_here, trio.ClosedResourceError)]
)
@pytest.mark.parametrize("waiting", [False, True])
@pytest.mark.parametrize("sent", [b"", b"short", b"as asked"])
def test_a_socket_that_breaks_or_is_closed_raises_what_trios_does(
    end: Callable[[Any, Any], Awaitable[None]], error: type[Exception], waiting: bool, sent: bytes
) -> None:
    async def main() -> None:
        near, far = map(PromptSocket, await _pair())
        if sent:
            await near.send_all(sent)
            assert await far.receive_some(8) == sent

        async def read() -> None:
            with pytest.raises(error):
                await far.receive_some(8)

        async with trio.open_nursery() as nursery:
            if waiting:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
            await end(near, far)
            if not waiting:
                await read()
        with pytest.raises(error):
            await far.send_all(b"x")

    trio.run(main)
