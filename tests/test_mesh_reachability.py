"""A node that others cannot dial finds that out from its neighbours, and a relay among them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from lan_nodes import Lan, until
from meshlore.errors import Refused
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.mesh.reachability import KIND, PROBES_BURST, Reachability
from meshlore.mesh.reasons import Reach
from meshlore.security.membership import Credentials
from namespaces import why_not

NewMember = Callable[..., Credentials]


class Place:
    """Nodes on loopback, each with its judgement of how it is seen; all stopped at the end."""

    def __init__(self, new_member: NewMember) -> None:
        self._new_member = new_member
        self._meshes: list[Mesh] = []
        self._running: list[asyncio.Task[None]] = []

    async def add(self, name: str, host: str = "127.0.0.1", bootstrap: Mesh | None = None) -> tuple[Mesh, Reachability]:
        transport = Libp2pTransport(self._new_member(name), [f"/ip4/{host}/tcp/0"])
        mesh = Mesh(transport, store=MemoryStore())
        reachability = Reachability(transport, mesh)
        await mesh.start(bootstrap.addresses() if bootstrap else [])
        self._meshes.append(mesh)
        self._running.append(asyncio.create_task(reachability.run()))
        return mesh, reachability

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.wait(self._running)
        await asyncio.gather(*(mesh.stop() for mesh in self._meshes))


@pytest.fixture
async def place(new_member: NewMember) -> AsyncIterator[Place]:
    place = Place(new_member)
    yield place
    await place.stop()


async def test_nodes_that_can_dial_each_other_find_so(place: Place) -> None:
    ann, ann_is = await place.add("ann")
    _, ben_is = await place.add("ben", bootstrap=ann)
    await until(lambda: ann_is.state is Reach.DIRECT and ben_is.state is Reach.DIRECT)


async def test_who_is_seen_where_it_does_not_listen_takes_a_relay_and_tells_its_address(place: Place) -> None:
    """Ben's connections come from 127.0.0.1, and he listens at 127.0.0.2: as behind a NAT."""
    ann, _ = await place.add("ann")
    ben, ben_is = await place.add("ben", host="127.0.0.2", bootstrap=ann)
    await until(lambda: ben_is.state is Reach.RELAYED)
    assert f"{ann.addresses()[0]}/p2p-circuit/p2p/{ben.peer_id}" in ben.addresses()
    await until(lambda: [peer.addresses[-1] for peer in ann.peers()] == [ben.addresses()[-1]])
    await ann.stop()
    await until(lambda: ben_is.state is Reach.HIDDEN)
    assert not any("p2p-circuit" in address for address in ben.addresses())


@pytest.mark.parametrize("ports", [7, [0], [70_000], ["80"], [True], [1, 2, 3, 4, 5]])
async def test_what_is_no_list_of_ports_is_not_tried(place: Place, ports: object) -> None:
    ann, _ = await place.add("ann")
    ben, _ = await place.add("ben", bootstrap=ann)
    await until(lambda: [peer.name for peer in ben.peers() if peer.connected] == ["ann"])
    with pytest.raises(Refused):
        await ben.request(ann.peer_id, KIND, {"ports": ports}, 5)


async def test_nobody_is_made_to_try_ports_without_end(place: Place) -> None:
    ann, _ = await place.add("ann")
    ben, _ = await place.add("ben", bootstrap=ann)
    await until(lambda: [peer.name for peer in ben.peers() if peer.connected] == ["ann"])
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, refused = server.getsockname()[1], 0
        for _ in range(2 * int(PROBES_BURST)):
            try:
                assert (await ben.request(ann.peer_id, KIND, {"ports": [port]}, 5)) == {"open": True}
            except Refused as error:
                refused += error.code == "busy"
    assert refused >= PROBES_BURST - 1


async def test_two_members_that_nobody_can_dial_meet_through_a_relay(tmp_path: Path, new_member: NewMember) -> None:
    """Each is a device of its own; two listen where no other can dial them, and can dial out: as behind two NATs."""
    if reason := why_not():
        pytest.skip(reason)
    lan = Lan(tmp_path)
    try:
        middle = await lan.start("middle", new_member("middle"), discovery="off")
        await until(lambda: middle.said.get("addresses"))
        bootstrap, nowhere = middle.said["addresses"], "/ip4/127.0.0.1/tcp/0"
        hidden = [
            await lan.start(name, new_member(name), discovery="off", listen=nowhere, bootstrap=bootstrap)
            for name in ("ann", "ben")
        ]
        await until(lambda: [node.said.get("relayed") for node in hidden] == [["ben"], ["ann"]])
        assert [node.said["peers"] for node in hidden] == [["ben", "middle"], ["ann", "middle"]]
        assert {node.said["reach"] for node in hidden} == {"relayed"}
        await until(lambda: middle.said["reach"] == "direct")
    finally:
        await lan.close()
