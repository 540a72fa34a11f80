"""Each test here fails when py-libp2p's Yamux no longer needs a workaround of `mesh/yamux.py`, which can then go."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.network.stream.net_stream import NetStream
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux import yamux
from meshlore.mesh import upstream
from meshlore.mesh.yamux import TURNS_SPARED, PromptLock
from turns import turns_of_others

TEACH = "upstream changed: read the new code, then drop or adapt the workaround"
SOURCE = inspect.getsource(yamux)


class _Session:
    """A secured connection; ``write`` is what the test says, and what is read is silence."""

    is_initiator = True

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self.write = write
        self.closed = False

    async def read(self, _most: int) -> bytes:
        await trio.sleep_forever()
        return b""

    async def close(self) -> None:
        self.closed = True


def _connection(kind: type, write: Callable[[bytes], Awaitable[None]]) -> Any:
    return kind(_Session(write), ID.from_pubkey(create_new_key_pair().public_key), is_initiator=True)


async def _never(_data: bytes) -> None:
    await trio.sleep_forever()


async def _at_once(_data: bytes) -> None: ...


def test_yamux_writes_can_still_be_cancelled_halfway() -> None:
    assert "shield" not in inspect.getsource(yamux.Yamux._write_frame), TEACH


def test_a_full_yamux_frame_is_still_longer_than_a_noise_message() -> None:
    assert "MAX_MESSAGE_SIZE = 64 * 1024" in SOURCE, TEACH
    upstream.patch_yamux()
    assert yamux.MAX_MESSAGE_SIZE == 65535 - 16


def test_a_small_read_still_sends_credit_and_ours_waits_for_half_a_window() -> None:
    assert "elif 0 < delta < threshold and bytes_read > 0:" in SOURCE, TEACH

    async def credits() -> int:
        sent: list[bytes] = []

        async def note(data: bytes) -> None:
            sent.append(data)

        upstream.patch_yamux()
        stream = await _connection(upstream.MeshYamux, note).open_stream()
        sent.clear()
        for size in (1000, 1000, yamux.DEFAULT_WINDOW_SIZE // 2):
            stream.recv_window -= size
            await stream._auto_tune_and_send_window_update(bytes_read=size)
        return len(sent)

    assert trio.run(credits) == 1


def test_a_connection_still_takes_any_number_of_streams_and_of_unread_bytes() -> None:
    source = inspect.getsource(yamux.Yamux.handle_incoming)
    assert "len(self.streams)" not in source, TEACH
    assert "stream.recv_window = 0" in source, f"{TEACH}: what exceeds a window was only warned of"


def test_what_the_loop_of_a_connection_raises_still_reaches_the_swarm() -> None:
    assert "except Exception" not in inspect.getsource(yamux.Yamux.start), TEACH


@pytest.mark.parametrize("kind", [yamux.Yamux, upstream.MeshYamux])
def test_a_stream_whose_opening_is_cancelled_still_leaks(kind: type) -> None:
    async def open_and_give_up() -> tuple[int, int]:
        connection = _connection(kind, _never)
        with trio.move_on_after(0.01):
            connection._write_frame = _never
            await connection.open_stream()
        return connection.stream_backlog_semaphore.value, len(connection.streams)

    free, open_ = trio.run(open_and_give_up)
    assert (free, open_) == (255, 1), f"{TEACH}: open_stream need not be abandoned any more"


def test_a_writer_that_meets_a_full_window_still_polls() -> None:
    assert "await trio.sleep(0.01)" in inspect.getsource(yamux.YamuxStream.write), TEACH


def test_each_read_and_write_of_a_stream_still_takes_locks() -> None:
    assert "async with self.streams_lock" in inspect.getsource(yamux.Yamux.read_stream), TEACH
    assert "self.rw_lock.write_lock()" in inspect.getsource(yamux.YamuxStream.write), TEACH
    for step in (NetStream.read, NetStream.write):
        assert "async with self._state_lock" in inspect.getsource(step), TEACH
    assert "async with self.write_lock" in inspect.getsource(TrioTCPStream.write), TEACH
    assert type(_connection(yamux.Yamux, _at_once)._write_lock) is trio.Lock, TEACH


async def _turns_of_others(lock: Any, times: int) -> int:
    """How often another task runs while a free lock is taken so many times."""

    async def take() -> None:
        async with lock:
            pass

    return await turns_of_others(take, times)


def test_a_free_lock_of_trio_still_costs_a_turn_and_ours_few_but_some() -> None:
    times = 4 * TURNS_SPARED
    assert trio.run(_turns_of_others, trio.Lock(), times) > times // 2, "trio changed: `PromptLock` can go"
    assert 0 < trio.run(_turns_of_others, PromptLock(), times) < times // 4


def test_a_prompt_lock_is_a_lock() -> None:
    inside: list[int] = []

    async def enter(lock: PromptLock, name: int) -> None:
        async with lock:
            assert not inside
            inside.append(name)
            await trio.lowlevel.checkpoint()
            inside.remove(name)

    async def main() -> None:
        lock = PromptLock()
        async with trio.open_nursery() as nursery:
            for name in range(20):
                nursery.start_soon(enter, lock, name)

    trio.run(main)


def test_what_does_not_fit_or_has_ended_goes_the_way_of_upstream() -> None:
    async def main() -> None:
        sent: list[bytes] = []

        async def note(data: bytes) -> None:
            sent.append(data)

        connection = _connection(upstream.MeshYamux, note)
        muxed = await connection.open_stream()
        stream = NetStream(muxed, None, None)
        sent.clear()
        await upstream.write_all(stream, b"x" * 100)
        await upstream.write_all(stream, b"y" * 100_000)
        payload = b"".join(data[yamux.HEADER_SIZE :] for data in sent)
        assert payload == b"x" * 100 + b"y" * 100_000
        assert muxed.send_window == yamux.DEFAULT_WINDOW_SIZE - 100_100
        connection.stream_buffers[muxed.stream_id].extend(b"abcdef")
        assert await upstream.read_some(stream, 4) == b"abcd"
        muxed.recv_closed = True
        assert await upstream.read_some(stream, 4) == b"ef"
        with pytest.raises(StreamEOF):
            await upstream.read_some(stream, 4)

    trio.run(main)
