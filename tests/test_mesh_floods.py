"""Members that open or send more than agreed: their connection ends, it is held against them, and others go on."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable

import pytest
import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.yamux.yamux import FLAG_SYN, TYPE_WINDOW_UPDATE, YAMUX_HEADER_FORMAT
from meshlore.mesh import upstream
from meshlore.mesh.addresses import KEPT_ADDRESSES, MAX_BOOK_BYTES, MAX_MEMBERS, load_book, merged, save_book
from meshlore.mesh.admission import ByteCount, CountedConnection
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.trio_host import id_of
from meshlore.security.identity import Identity
from meshlore.security.limits import KeyedBuckets
from meshlore.security.membership import Credentials
from quiet import Quiet

NewMember = Callable[..., Credentials]


async def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_member_that_opens_streams_without_end_is_cut_off_and_blamed(new_member: NewMember) -> None:
    host, eve, ben = (Libp2pTransport(new_member(name)) for name in ("host", "eve", "ben"))
    await asyncio.gather(*(transport.start(Quiet()) for transport in (host, eve, ben)))
    for member in (eve, ben):
        await member.connect(host.addresses()[0], 5)

    async def flood() -> None:
        (connection,) = eve._host._swarm.get_connections(id_of(host.peer_id))  # type: ignore[union-attr]
        for number in range(4 * upstream.MAX_STREAMS):
            syn = struct.pack(YAMUX_HEADER_FORMAT, 0, TYPE_WINDOW_UPDATE, FLAG_SYN, 1001 + 2 * number, 0)
            await connection.muxed_conn._write_frame(syn)

    with contextlib.suppress(Exception):  # the connection breaks under it, if it is not written by then
        await eve._bridge.call(flood)
    await until(lambda: host.connected() == {ben.peer_id})
    assert host.guard.refusals()["connection"]["decode-error"] == 1
    assert host.guard.cost(eve.peer_id) == 1.0, "one such connection is a warning"
    assert await ben.request(host.peer_id, "task", {}, timeout_s=5) == {}
    await asyncio.gather(*(transport.stop() for transport in (host, eve, ben)))


async def test_silent_strangers_from_many_addresses_do_not_keep_a_member_out(new_member: NewMember) -> None:
    host, ben = (Libp2pTransport(new_member(name)) for name in ("host", "ben"))
    await asyncio.gather(host.start(Quiet()), ben.start(Quiet()))
    port = int(host.addresses()[0].split("/")[4])
    idle = [
        await asyncio.open_connection("127.0.0.1", port, local_addr=(f"127.0.0.{2 + number % 10}", 0))
        for number in range(160)
    ]
    await ben.connect(host.addresses()[0], 10)
    assert host.connected() == {ben.peer_id}
    for _, writer in idle:
        writer.close()
    await asyncio.gather(host.stop(), ben.stop())


def test_bytes_that_nobody_reads_end_the_connection_before_they_are_taken() -> None:
    class Wire:
        is_initiator = False
        closed = False

        async def read(self, _size: int) -> bytes:
            raise AssertionError("read before it was checked")

        async def close(self) -> None:
            self.closed = True

    async def main() -> list[str]:
        blamed: list[str] = []
        muxer = type("Watched", (upstream.MeshYamux,), {"on_excess": staticmethod(blamed.append)})
        wire, peer_id = Wire(), id_of(Identity.generate().peer_id)
        connection = muxer(wire, peer_id)
        connection.stream_buffers[2] = bytearray(upstream.MAX_UNREAD_BYTES)
        with pytest.raises(ConnectionClosedError, match="unread"):
            await connection._read_data_body(1)
        assert connection.event_shutting_down.is_set()
        assert blamed == [str(peer_id)]
        return blamed

    assert trio.run(main)


def test_bytes_beyond_a_members_budget_are_read_later() -> None:
    class Wire:
        is_initiator = False

        async def read(self, size: int) -> bytes:
            return bytes(size)

        def get_remote_address(self) -> tuple[str, int]:
            return "127.0.0.1", 1

    async def main() -> tuple[float, float]:
        connection = CountedConnection(Wire(), ByteCount())  # type: ignore[arg-type]
        budget = KeyedBuckets(rate_per_s=1 << 20, burst=1 << 20, max_keys=4)

        async def pay(size: int) -> None:
            while not budget.take("eve", trio.current_time(), size):  # noqa: ASYNC110
                await trio.sleep(budget.wait_s("eve", trio.current_time(), size))

        connection.pay = pay
        times = []
        for size_bytes in (1 << 20, 2 << 20):
            started = trio.current_time()
            for _ in range(size_bytes // (64 << 10)):
                await connection.read(64 << 10)
            times.append(trio.current_time() - started)
        return times[0], times[1]

    from trio.testing import MockClock

    within, beyond = trio.run(main, clock=MockClock(autojump_threshold=0))
    assert within == 0
    assert beyond == pytest.approx(2.0, abs=0.2)


def test_the_address_book_is_bounded_and_keeps_those_met_last(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def member(number: int) -> tuple[str, tuple[str, ...]]:
        peer_id = Identity.generate().peer_id
        return peer_id, tuple(f"/dns4/{'x' * 150}{number}/tcp/{port}/p2p/{peer_id}" for port in range(1, 9))

    shared = [member(number) for number in range(4)]
    old = {f"{peer_id}{number}": addresses for number in range(300) for peer_id, addresses in shared}
    met = dict(shared)
    book = merged(old, met)
    assert len(book) == MAX_MEMBERS
    assert list(book)[: len(met)] == list(met)
    assert {len(addresses) for addresses in book.values()} == {KEPT_ADDRESSES}
    save_book(tmp_path / "book", book)
    assert (tmp_path / "book").stat().st_size < MAX_BOOK_BYTES
    assert load_book(tmp_path / "book").keys() == met.keys(), "the others were no peer ids"
