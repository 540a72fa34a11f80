"""How nodes meet: peer exchange, islands, members that lie about others, and copied homes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable

import pytest
from meshlore.errors import Refused
from meshlore.mesh import messages
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import HeartbeatSettings
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.mesh.records import issue_record
from meshlore.mesh.transport import Transport
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials

NewMember = Callable[..., Credentials]
QUICK = MeshSettings(
    heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1),
    tick_s=0.05,
    first_exchange_s=0.2,
    peer_exchange_s=0.5,
    request_timeout_s=2,
)


class Village:
    """Meshes over one kind of transport; all stopped at the end."""

    def __init__(self, transport: Callable[[Credentials], Transport]) -> None:
        self._transport = transport
        self._running: list[Mesh] = []

    async def add(self, credentials: Credentials, *bootstrap: str, ahead_s: float = 0) -> Mesh:
        mesh = Mesh(
            self._transport(credentials), store=MemoryStore(), settings=QUICK, wall=lambda: time.time() + ahead_s
        )
        await mesh.start(bootstrap)
        self._running.append(mesh)
        return mesh

    async def stop(self) -> None:
        await asyncio.gather(*(mesh.stop() for mesh in self._running))


@pytest.fixture
async def village() -> AsyncIterator[Village]:
    network = MemoryNetwork(delay_s=0.001)
    village = Village(lambda credentials: MemoryTransport(credentials, network))
    yield village
    await village.stop()


@pytest.fixture
async def wired() -> AsyncIterator[Village]:
    village = Village(Libp2pTransport)
    yield village
    await village.stop()


async def until(condition: Callable[[], object], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def neighbours(mesh: Mesh) -> set[str]:
    return {peer.name for peer in mesh.peers() if peer.connected}


async def test_two_islands_that_know_one_common_address_become_one(village: Village, new_member: NewMember) -> None:
    """The common member comes last: each island has been trying its address."""
    common = new_member("common")
    address = MemoryTransport(common, MemoryNetwork()).addresses()[0]
    islands = []
    for one, other in ("ab", "cd"):
        islands.append(await village.add(new_member(one), address))
        islands.append(await village.add(new_member(other), *islands[-1].addresses()))
    await until(lambda: [neighbours(mesh) for mesh in islands] == [{"b"}, {"a"}, {"d"}, {"c"}])
    whole = [*islands, await village.add(common)]
    await until(lambda: all(len(neighbours(mesh)) == 4 for mesh in whole))


async def test_a_member_cannot_say_for_another_where_it_listens(village: Village, new_member: NewMember) -> None:
    liar, ann, victim = new_member("liar"), await village.add(new_member("ann")), Identity.generate()
    mesh = await village.add(liar, *ann.addresses())
    await until(lambda: neighbours(ann) == {"liar"})
    trap = [f"/memory/trap/p2p/{victim.peer_id}"]
    forged = issue_record(victim.peer_id, trap, b"instance", liar.identity.sign, 2_000_000_000)
    own = issue_record(liar.peer_id, mesh.addresses(), b"instance", liar.identity.sign, 2_000_000_000)
    said = messages.Introduction(own, int(time.time()), frozenset())
    hello = messages.hello_body(messages.Hello(said, {}, bytes(16), [forged]))
    with pytest.raises(Refused):
        await mesh.request(ann.peer_id, messages.HELLO, hello, 2)
    assert {peer.peer_id for peer in ann.peers()} == {liar.peer_id}


async def test_a_copied_home_is_noticed_by_both_devices_and_by_who_sees_them(
    wired: Village, new_member: NewMember, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "meshlore.mesh"):
        shared, witness = new_member("ann"), await wired.add(new_member("ben"))
        original = await wired.add(shared, *witness.addresses())
        await until(lambda: neighbours(original) == {"ben"})
        assert original.double() is None
        copy = await wired.add(shared, *witness.addresses())
        await until(lambda: original.double() and copy.double())
    assert set(original.double() or ()) == set(copy.addresses())
    assert set(copy.double() or ()) == set(original.addresses())
    said = [record.getMessage() for record in caplog.records]
    assert sum("another device runs with this one's identity" in line for line in said) == 2
    assert sum(f"two devices answer as …{shared.peer_id[-8:]}" in line for line in said) == 1


async def test_a_node_that_restarts_is_not_taken_for_a_copy(wired: Village, new_member: NewMember) -> None:
    shared, witness = new_member("ann"), await wired.add(new_member("ben"))
    for _ in range(3):
        mesh = await wired.add(shared, *witness.addresses())
        await until(lambda mesh=mesh: neighbours(mesh) == {"ben"})  # type: ignore[misc]
        await asyncio.sleep(1)  # two exchanges at least
        assert mesh.double() is None
        await mesh.stop()
        await until(lambda: not neighbours(witness))


async def test_a_clock_that_is_off_is_seen_by_both_sides(village: Village, new_member: NewMember) -> None:
    ann = await village.add(new_member("ann"))
    fast = await village.add(new_member("fast"), *ann.addresses(), ahead_s=300)
    await until(lambda: ann.clock_ahead_s() and fast.clock_ahead_s())
    assert abs(fast.clock_ahead_s()[0] - 300) < 30
    assert abs(ann.clock_ahead_s()[0] + 300) < 30
