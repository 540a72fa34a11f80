"""Fifty nodes in virtual time: every packet reaches every live member, once, over few neighbours each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from meshlore.mesh.members import PeerState
from meshlore.mesh.settings import MeshSettings

from benchmarks.swarm import Swarm, SwarmNode
from benchmarks.virtual_time import run


def in_swarm(story: Callable[[Swarm], Awaitable[None]], settings: MeshSettings | None = None) -> None:
    async def tell() -> None:
        swarm = Swarm(settings=settings or MeshSettings())
        try:
            await story(swarm)
        finally:
            await swarm.stop()

    run(tell())


def enough(swarm: Swarm) -> bool:
    return all(6 <= node.neighbours <= 12 for node in swarm.nodes)


def test_every_packet_reaches_all_fifty_and_latecomers_though_half_of_the_authors_left() -> None:
    async def story(swarm: Swarm) -> None:
        nodes = await swarm.grow(50)
        await swarm.until(lambda: enough(swarm), 30)
        for node in nodes:
            swarm.publish(node)
        await swarm.until(
            lambda: all(sum(name in n.store.blobs for n in nodes[25:]) for name in swarm.published), timeout_s=30
        )
        for author in nodes[:25]:
            await swarm.leave(author)
        await swarm.grow(5)
        took_s = await swarm.until(swarm.complete, 60)
        assert took_s < 30
        for node in swarm.nodes:
            assert max(node.store.arrivals.values()) == 1, "nothing is transferred twice"
        assert max(swarm.hops(name) for name in swarm.published) > 1

    in_swarm(story)


def test_one_packet_is_relayed_at_once_and_those_of_a_burst_wait_for_each_other() -> None:
    async def story(swarm: Swarm) -> None:
        nodes = await swarm.grow(30)
        await swarm.until(lambda: enough(swarm), 60)
        reached = []
        for _ in range(2):
            name = swarm.publish(nodes[0])
            await asyncio.sleep(1)
            reached.append(sum(name in node.store.blobs for node in nodes))
        assert reached[0] > 20 > reached[1]
        assert await swarm.until(swarm.complete, 60) > 1
        assert max(count for node in nodes for count in node.store.arrivals.values()) == 1

    in_swarm(story, MeshSettings(relay_delay_s=20.0))


def test_what_a_node_sends_does_not_grow_with_the_mesh_and_neighbours_stay_few() -> None:
    async def idle(count: int) -> float:
        swarm = Swarm(count)
        await swarm.grow(count)
        await swarm.until(lambda: enough(swarm), 60)
        await asyncio.sleep(40)  # until everybody knows enough others
        before = sum(node.mesh.traffic().bytes_sent for node in swarm.nodes)
        await asyncio.sleep(40)
        after = sum(node.mesh.traffic().bytes_sent for node in swarm.nodes)
        degrees = [node.neighbours for node in swarm.nodes]
        assert max(degrees) <= 12
        assert sum(degrees) / count >= 6
        await swarm.stop()
        return (after - before) / count / 40

    small, large = run(idle(14)), run(idle(32))
    assert large < 1.35 * small


def test_islands_grow_together_when_the_network_is_whole_again() -> None:
    async def story(swarm: Swarm) -> None:
        nodes = await swarm.grow(20)
        await swarm.until(lambda: enough(swarm), 30)
        one, other = nodes[:10], nodes[10:]
        swarm.part(one, other)
        await asyncio.sleep(30)
        swarm.publish(one[0])
        swarm.publish(other[0])
        await asyncio.sleep(20)
        assert not swarm.complete()
        assert all(live(node) <= {n.mesh.peer_id for n in one} for node in one)
        swarm.heal(one, other)
        assert await swarm.until(swarm.complete, 120) < 120
        assert max(count for node in nodes for count in node.store.arrivals.values()) == 1

    in_swarm(story)


def test_a_dead_member_is_nobodys_live_peer_within_twenty_seconds() -> None:
    async def story(swarm: Swarm) -> None:
        nodes = await swarm.grow(20)
        await swarm.until(lambda: enough(swarm), 30)
        dead, frozen = nodes[3], nodes[7]
        await swarm.kill(dead)
        swarm.network.freeze(frozen.mesh.peer_id)
        ghosts = {dead.mesh.peer_id, frozen.mesh.peer_id}
        others = [node for node in swarm.nodes if node is not frozen]
        assert await swarm.until(lambda: not any(live(node) & ghosts for node in others), 20) < 20
        swarm.network.thaw(frozen.mesh.peer_id)
        await swarm.until(lambda: frozen.neighbours >= 6, 60)

    in_swarm(story)


def test_a_member_that_is_no_neighbour_can_be_asked() -> None:
    async def story(swarm: Swarm) -> None:
        nodes = await swarm.grow(30)
        await swarm.until(lambda: enough(swarm), 30)
        asker = nodes[0]

        def others() -> list[SwarmNode]:
            known = {peer.peer_id for peer in asker.mesh.peers() if not peer.connected and peer.addresses}
            return [node for node in nodes if node.mesh.peer_id in known]

        await swarm.until(others, 60)
        asked = others()[0]
        asked.mesh.serve("name", lambda caller, _body: _answer({"for": caller.name}))
        assert await asker.mesh.request(asked.mesh.peer_id, "name", {}, 5) == {"for": "node0"}

    in_swarm(story)


def live(node: SwarmNode) -> set[str]:
    return {peer.peer_id for peer in node.mesh.peers() if peer.state in (PeerState.LIVE, PeerState.SUSPECT)}


async def _answer(body: dict[str, str]) -> dict[str, str]:
    return body
