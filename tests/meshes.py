"""Meshes of a few nodes that a test starts and stops, over either transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import HeartbeatSettings, Peer
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.mesh.transport import Transport
from meshlore.security.membership import Credentials

QUICK = MeshSettings(
    heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1), tick_s=0.05, relay_delay_s=0.3, request_timeout_s=2
)
NewMember = Callable[..., Credentials]


class Cluster:
    """Meshes that the test starts, each with its store, all stopped at the end."""

    def __init__(self, new_member: NewMember, kind: str) -> None:
        self._new_member, self._kind = new_member, kind
        self.network = MemoryNetwork(delay_s=0.001)
        self.meshes: list[Mesh] = []
        self.stores: dict[str, MemoryStore] = {}

    def transport(self, credentials: Credentials) -> Transport:
        if self._kind == "memory":
            return MemoryTransport(credentials, self.network)
        return Libp2pTransport(credentials)

    async def add(self, name: str, bootstrap: list[str] | None = None, **kwargs: object) -> Mesh:
        credentials = kwargs.pop("credentials", None) or self._new_member(name)
        store = kwargs.pop("store", None) or MemoryStore()
        mesh = Mesh(self.transport(credentials), store=store, **{"settings": QUICK, **kwargs})  # type: ignore[arg-type]
        if bootstrap is None:
            bootstrap = self.meshes[0].addresses()[:1] if self.meshes else []
        await mesh.start(bootstrap)
        self.meshes.append(mesh)
        self.stores[mesh.peer_id] = store  # type: ignore[assignment]
        return mesh

    async def stop(self) -> None:
        await asyncio.gather(*(mesh.stop() for mesh in self.meshes))


async def until(condition: Callable[[], object], timeout_s: float = 8) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def neighbours(mesh: Mesh) -> set[str]:
    return {peer.name for peer in mesh.peers() if peer.connected}


def peer(mesh: Mesh, name: str) -> Peer:
    return next(peer for peer in mesh.peers() if peer.name == name)
