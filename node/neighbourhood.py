"""Who is there and what they can do: the live peers, as the plan and the router need them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any, Protocol

from ..errors import DecodeError, Refused
from ..knowledge.trust import Verdict
from ..mesh.members import Peer
from ..mesh.transport import Traffic
from .library import UNJUDGED, Library
from .plan import PeerView, Role, Stage
from .router import Candidate, Competence, Hop


class Network(Protocol):
    """What a node needs of the mesh."""

    def live(self) -> list[Peer]: ...

    def missing(self) -> int: ...

    def set_advert(self, advert: dict[str, Any]) -> None: ...

    def announce(self, name: str) -> None: ...

    async def request(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]: ...

    def traffic(self) -> Traffic: ...


MAX_MODEL_CHARS = 64


class Neighbourhood:
    """The live peers of one node. Without a network (before the start, in studies) there are none."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._network: Network | None = None
        self._asked: Counter[str] = Counter()

    def attach(self, network: Network) -> None:
        self._network = network

    def live(self) -> list[Peer]:
        return [] if self._network is None else self._network.live()

    def views(self) -> tuple[PeerView, ...]:
        """Role and advertised stage of each live peer, for the plan."""
        return tuple(PeerView(_role(peer), advertised_stage(peer)) for peer in self.live())

    def candidates(self, trust: dict[str, Verdict]) -> list[Candidate]:
        """The live peers with what they advertise, scaled by the trust in them, for the router."""
        found = []
        for peer in self.live():
            try:
                advertised = Competence.from_map(peer.advert.get("competence"), self._library.space)
            except DecodeError:
                continue
            factor = trust[peer.peer_id].weight if peer.peer_id in trust else UNJUDGED
            seen = advertised.seen_in(self._library.space)
            competence = replace(
                seen,
                # what it has to do for this node it may not have told yet
                load=max(seen.load, self._asked[peer.peer_id]),
                classify=tuple(factor * quality for quality in seen.classify),
                generate=tuple(factor * quality for quality in seen.generate),
            )
            hop: Hop = "anchor" if _role(peer) == "anchor" else "peer"
            found.append(Candidate(peer.peer_id, peer.name, hop, competence, peer.rtt_s or 0.0))
        return found

    def missing(self) -> int:
        """Packets that are on their way: announced by neighbours, or numbered in their author's advert."""
        if self._network is None:
            return 0
        promised = [
            peer
            for peer in self.live()
            if _whole(peer.advert.get("newest")) > self._library.newest_number(peer.peer_id)
        ]
        return self._network.missing() + len(promised)

    def advertise(self, advert: dict[str, Any]) -> None:
        if self._network is not None:
            self._network.set_advert(advert)

    def announce(self, name: str) -> None:
        if self._network is not None:
            self._network.announce(name)

    def traffic(self) -> Traffic:
        return Traffic() if self._network is None else self._network.traffic()

    async def ask(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Raises PeerError, DecodeError: as the mesh's request does."""
        if self._network is None:
            raise Refused("this node is not connected", code="not-ready")
        self._asked[peer_id] += 1
        try:
            return await self._network.request(peer_id, kind, body, timeout_s)
        finally:
            self._asked[peer_id] -= 1
            if not self._asked[peer_id]:
                del self._asked[peer_id]


def advertised_stage(peer: Peer) -> int:
    """The stage that a peer claims; what is no stage counts as the first."""
    stage = _whole(peer.advert.get("stage"))
    return stage if stage in set(Stage) else Stage.LEARNING


def advertised_model(peer: Peer) -> str:
    """The model that a peer claims, fit to be shown; empty if it is none."""
    model = peer.advert.get("model")
    return model if isinstance(model, str) and model.isprintable() and len(model) <= MAX_MODEL_CHARS else ""


def _role(peer: Peer) -> Role:
    return "anchor" if "anchor" in peer.roles else "node"


def _whole(value: object) -> int:
    """A number that a peer advertises; 0 if it is none."""
    return value if type(value) is int else 0
