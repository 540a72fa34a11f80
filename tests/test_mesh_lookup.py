"""Finding a member that one does not know: by asking those whom one knows, and whom they know."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import pytest
from meshlore.errors import DecodeError, Unreachable
from meshlore.mesh import lookup, messages
from meshlore.mesh.lookup import look_up
from meshlore.mesh.messages import KnownPeers
from meshlore.mesh.overlay import OverlaySettings
from meshlore.mesh.records import AddressRecord, issue_record
from meshlore.mesh.settings import MeshSettings
from meshlore.mesh.transport import Body, Caller
from meshlore.security.identity import Identity

from benchmarks.swarm import Swarm, SwarmNode
from benchmarks.virtual_time import run

FEW = OverlaySettings(target=3, most=5)


def record(identity: Identity) -> AddressRecord:
    return issue_record(identity.peer_id, ["/ip4/10.0.0.1/tcp/1"], bytes(8), identity.sign, 1e9)


def asking(knows: dict[str, list[AddressRecord]], asked: list[str]) -> Callable[[str], Awaitable[KnownPeers]]:
    async def ask(peer_id: str) -> KnownPeers:
        asked.append(peer_id)
        return knows.get(peer_id, [])

    return ask


async def test_a_look_up_goes_from_one_to_the_next_until_somebody_knows() -> None:
    people = [Identity.generate() for _ in range(5)]
    ids, asked = [identity.peer_id for identity in people], list[str]()
    knows = {one.peer_id: [record(next_)] for one, next_ in itertools.pairwise(people)}
    found = await look_up(ids[-1], [ids[0]], asking(knows, asked))
    assert found == record(people[-1])
    assert asked == ids[:-1]


async def test_a_look_up_asks_nobody_twice_and_only_so_many() -> None:
    crowd = [Identity.generate() for _ in range(3 * lookup.MOST_ASKED)]
    everybody, asked = [record(identity) for identity in crowd], list[str]()
    knows = {identity.peer_id: everybody for identity in crowd}
    assert await look_up(Identity.generate().peer_id, [crowd[0].peer_id], asking(knows, asked)) is None
    assert len(asked) == len(set(asked)) == lookup.MOST_ASKED


async def test_nobody_to_ask_or_nobody_who_knows_is_none() -> None:
    stranger = Identity.generate().peer_id
    assert await look_up(stranger, [], asking({}, [])) is None
    assert await look_up(stranger, ["a", "b"], asking({}, [])) is None


@pytest.mark.parametrize("body", [{}, {"peer": "x"}, {"peer": 1}, {"peer": "", "more": 1}])
def test_a_malformed_question_is_refused(body: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        messages.read_find(body)


def in_a_mesh_of(count: int, story: Callable[[Swarm, list[SwarmNode]], Awaitable[None]]) -> None:
    async def tell() -> None:
        swarm = Swarm(1, MeshSettings(overlay=FEW))
        try:
            nodes = await swarm.grow(count)
            await swarm.until(lambda: all(node.neighbours >= FEW.target for node in nodes), 60)
            await story(swarm, nodes)
        finally:
            await swarm.stop()

    run(tell())


async def who(caller: Caller, _body: Body) -> Body:
    return {"asked by": caller.name}


def test_in_a_mesh_of_thirty_a_member_that_knows_one_other_finds_any_by_its_peer_id() -> None:
    async def story(swarm: Swarm, nodes: list[SwarmNode]) -> None:
        for node in nodes:
            node.mesh.serve("who", who)
        swarm.settings = MeshSettings(overlay=OverlaySettings(target=1, most=1))
        (newcomer,) = await swarm.grow(1)
        await swarm.until(lambda: newcomer.neighbours == 1, 10)
        (only,) = [node for node in nodes if node.mesh.peer_id in newcomer.mesh._transport.connected()]
        known = {peer.peer_id for one in (newcomer, only) for peer in one.mesh.peers()}
        strangers = [node for node in nodes if node.mesh.peer_id not in known | {only.mesh.peer_id}]
        assert strangers, "some must be left whom neither of the two knows"
        for node in strangers:
            answer = await newcomer.mesh.request(node.mesh.peer_id, "who", {}, timeout_s=10)
            assert answer == {"asked by": newcomer.name}

    in_a_mesh_of(30, story)


def test_whom_nobody_knows_is_unreachable_and_said_so() -> None:
    async def story(_swarm: Swarm, nodes: list[SwarmNode]) -> None:
        with pytest.raises(Unreachable, match="no member that was asked knows"):
            async with asyncio.timeout(30):
                await nodes[0].mesh.request(Identity.generate().peer_id, "who", {}, timeout_s=20)

    in_a_mesh_of(8, story)
