"""Many nodes of one mesh in one process, with the protocol code of the daemon and tiny blobs.

For `benchmarks.scale` and for simulations in the test suite: on the in-memory network, which can be broken and
runs in virtual time, or over another transport in real time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meshlore.errors import MeshloreError
from meshlore.mesh.memory import MemoryNetwork, MemoryStore, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.mesh.transport import Transport
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot

IDENTITY_BYTES = 128
POLL_S = 0.05


@dataclass(eq=False)
class SwarmNode:
    """One node: its mesh, what it holds, and how often it was given each blob."""

    name: str
    credentials: Credentials
    mesh: Mesh
    store: CountingStore

    @property
    def neighbours(self) -> int:
        return sum(peer.connected for peer in self.mesh.peers())


class CountingStore(MemoryStore):
    """Counts how often each blob comes, and can be made to fail.

    Attributes:
        arrivals: how often each blob was given to this node. arrived_at: when first, in seconds of ``clock``.
        refuses: what it raises instead of keeping anything. serves: what it makes of a blob that others ask for.
        claims: names (to size in bytes) that it announces besides what it has.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.arrivals: Counter[str] = Counter()
        self.arrived_at: dict[str, float] = {}
        self.refuses: MeshloreError | None = None
        self.serves: Callable[[bytes], bytes] = bytes
        self.claims: dict[str, int] = {}
        self._clock = clock

    def inventory(self) -> dict[str, int]:
        return super().inventory() | self.claims

    def read(self, name: str) -> bytes:
        return self.serves(super().read(name))

    async def accept(self, name: str, data: bytes, from_peer: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.arrivals[name] += 1
        self.arrived_at.setdefault(name, self._clock())
        await super().accept(name, data, from_peer)


@dataclass
class Swarm:
    """``await grow(50)``, ``publish``, ``await until(swarm.complete, 60)``, ``await stop()``. Seeded throughout."""

    seed: int = 0
    settings: MeshSettings = field(default_factory=MeshSettings)
    over: Callable[[Credentials], Transport] | None = None
    """What makes a transport; None: the in-memory network."""
    delay_s: float = 0.005
    partials: Path | None = None
    """Folder for the beginnings of transfers that were cut, one folder in it per node."""
    nodes: list[SwarmNode] = field(default_factory=list)
    published: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.network = MemoryNetwork(delay_s=self.delay_s, dice=random.Random(f"{self.seed} network").random)
        self.clock = asyncio.get_running_loop().time
        self._root, self._charter = MeshRoot.create("swarm", {}, time.time())
        self._keyring = Keyring.generate()

    async def grow(self, count: int) -> list[SwarmNode]:
        """More nodes; each knows the address of one that was there before it, the first of that of nobody."""
        return [await self._add() for _ in range(count)]

    def new_store(self) -> CountingStore:
        return CountingStore(self.clock)

    async def start(self, node: SwarmNode, store: CountingStore | None = None) -> SwarmNode:
        """Start again a node that was stopped or killed, with its store (or another) and one address."""
        fresh = self._build(node.name, node.credentials, store or node.store)
        await fresh.mesh.start(self._bootstrap())
        self.nodes.append(fresh)
        return fresh

    def publish(self, node: SwarmNode, size_bytes: int = 2000) -> str:
        """Something new of this node."""
        name = node.store.put(self.random.randbytes(size_bytes))
        self.published.add(name)
        node.mesh.announce(name)
        return name

    async def leave(self, node: SwarmNode) -> None:
        """A polite end."""
        self.nodes.remove(node)
        await node.mesh.stop()

    async def kill(self, node: SwarmNode) -> None:
        """As kill -9: nobody is told, and nothing of it goes on."""
        self.network.kill(node.mesh.peer_id)
        await self.leave(node)

    def part(self, one: list[SwarmNode], other: list[SwarmNode]) -> None:
        """Cut every link between two groups."""
        for a in one:
            for b in other:
                self.network.cut(a.mesh.peer_id, b.mesh.peer_id)

    def heal(self, one: list[SwarmNode], other: list[SwarmNode]) -> None:
        for a in one:
            for b in other:
                self.network.heal(a.mesh.peer_id, b.mesh.peer_id)

    def complete(self) -> bool:
        """Every node holds everything that was published."""
        return all(self.published <= node.store.blobs.keys() for node in self.nodes)

    async def until(self, condition: Callable[[], object], timeout_s: float) -> float:
        """Seconds until it holds. Raises TimeoutError."""
        started = self.clock()
        async with asyncio.timeout(timeout_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)
        return self.clock() - started

    async def stop(self) -> None:
        await asyncio.gather(*(node.mesh.stop() for node in self.nodes))

    def hops(self, name: str) -> int:
        """Over how many nodes a blob went at most, from its author on."""
        came_from = {node.mesh.peer_id: node.store.came_from.get(name) for node in self.nodes}

        def depth(peer_id: str | None) -> int:
            return 0 if peer_id is None else 1 + depth(came_from.get(peer_id))

        return max((depth(source) for source in came_from.values()), default=0)

    async def _add(self) -> SwarmNode:
        name = f"node{len(self.nodes)}"
        identity = Identity(self.random.randbytes(IDENTITY_BYTES))
        certificate = self._root.issue(identity.peer_id, name, ["node"], identity.hpke_public_key, time.time())
        credentials = Credentials(identity, self._charter, certificate, self._keyring)
        node = self._build(name, credentials, self.new_store())
        await node.mesh.start(self._bootstrap())
        self.nodes.append(node)
        return node

    def _bootstrap(self) -> list[str]:
        return self.random.choice(self.nodes).mesh.addresses() if self.nodes else []

    def _build(self, name: str, credentials: Credentials, store: CountingStore) -> SwarmNode:
        mesh = Mesh(
            self.over(credentials) if self.over else MemoryTransport(credentials, self.network),
            store=store,
            settings=self.settings,
            partials=self.partials and self.partials / name,
            clock=self.clock,
            dice=random.Random(f"{self.seed} {name} {len(self.nodes)}").random,
        )
        return SwarmNode(name, credentials, mesh, store)
