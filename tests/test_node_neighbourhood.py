"""What a node makes of what its live peers advertise."""

from __future__ import annotations

import asyncio
from typing import Any

from meshlore.knowledge.space import Space
from meshlore.knowledge.trust import Verdict
from meshlore.mesh.members import Peer, PeerState
from meshlore.node.library import Library
from meshlore.node.neighbourhood import Neighbourhood
from meshlore.node.router import Competence
from meshlore.node.store import PacketStore

SPACE = Space((1, 8, 8), ("a", "b"))


class Network:
    """One live peer, which answers when it is let."""

    def __init__(self, load: int) -> None:
        competence = Competence((0.8, 0.4), (), load, latency_s=0.02)
        advert = {"competence": competence.to_map()}
        self.answers = asyncio.Event()
        self._peer = Peer("ben-id", "ben", frozenset({"node"}), PeerState.LIVE, (), 0.01, 0.0, advert, True)

    def live(self) -> list[Peer]:
        return [self._peer]

    async def request(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        await self.answers.wait()
        return {}


async def test_a_peer_is_as_busy_as_it_says_or_as_this_node_keeps_it(tmp_path, new_member):
    neighbourhood, network = Neighbourhood(Library(SPACE, new_member("ann"), PacketStore(tmp_path))), Network(load=2)
    neighbourhood.attach(network)

    def load() -> int:
        return neighbourhood.candidates({})[0].competence.load

    assert load() == 2
    asked = [asyncio.create_task(neighbourhood.ask("ben-id", "task", {}, 5.0)) for _ in range(5)]
    await asyncio.sleep(0)
    assert load() == 5
    asked.pop().cancel()
    network.answers.set()
    await asyncio.gather(*asked)
    await asyncio.sleep(0)
    assert load() == 2


async def test_the_word_of_a_peer_counts_as_far_as_it_is_trusted(tmp_path, new_member):
    neighbourhood = Neighbourhood(Library(SPACE, new_member("ann"), PacketStore(tmp_path)))
    neighbourhood.attach(Network(load=0))
    believed = neighbourhood.candidates({"ben-id": Verdict(1.0, "")})[0]
    assert believed.competence.classify == (0.8, 0.4)
    assert (believed.competence.latency_s, believed.rtt_s, believed.hop) == (0.02, 0.01, "peer")
    assert neighbourhood.candidates({})[0].competence.classify == (0.4, 0.2)
