"""A village for tests: whole nodes on one in-memory network, composed as the daemon does, but for libp2p."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import load, save_npz
from meshlore.knowledge.space import Space
from meshlore.mesh.members import HeartbeatSettings
from meshlore.mesh.memory import MemoryNetwork, MemoryTransport
from meshlore.mesh.mesh import Mesh, MeshSettings
from meshlore.node.actor import EdgeNode
from meshlore.node.build import build_node
from meshlore.node.messages import PeersChanged
from meshlore.node.results import result_from_map
from meshlore.node.service import TaskService
from meshlore.node.settings import Learning, Settings
from meshlore.node.status import describe
from meshlore.node.tasks import to_map
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot

SPACE = Space((1, 8, 8), ("0", "1", "2", "3"), levels=17)
QUICK = MeshSettings(heartbeat=HeartbeatSettings(interval_s=0.3, first_redial_s=0.1), tick_s=0.05, relay_delay_s=0.1)
SEED = 5
LEARNING = Learning(
    samples_per_class=4, classifier_steps=40, condense_steps=40, distil_steps=40, generator_steps=10, patience_s=12
)


def digits(classes: str, part: str = "digits", most: int = 120) -> Dataset:
    """Real digits of these classes, in the village's space."""
    chosen = load(part).dataset.select_classes(classes)
    return Dataset(SPACE, chosen.images[:most], chosen.labels[:most])


MEMBERS = (
    ("ann", "node", "012"),
    ("ben", "node", "123"),
    ("cid", "node", "03"),
    ("anchor", "anchor", ""),
    ("anchor-2", "anchor", ""),
)
FOUNDER = "ann"
TEST = digits("0123", "digits:test", 500)


@dataclass
class Village:
    """Nodes on one in-memory network, each with a home below ``folder``; ``settings`` of all, over the usual ones."""

    folder: Path
    members: dict[str, Credentials]
    network: MemoryNetwork = field(default_factory=lambda: MemoryNetwork(delay_s=0.001))
    cleanups: dict[str, AsyncExitStack] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    async def start(
        self,
        name: str,
        bootstrap: str = "",
        node: Callable[[Any], None] = lambda _node: None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> EdgeNode:
        """Start (again) the node of a home, as the daemon does, but for libp2p."""
        home, credentials = self.folder / name, self.members[name]
        data = home / "data.npz"
        usual = {"name": name, "data": str(data) if data.exists() else "", "seed": SEED, "learning": LEARNING}
        chosen = Settings.model_validate(usual | self.settings | dict(settings))
        built, _ = await asyncio.to_thread(build_node, home, chosen, credentials)
        node(built)
        await built.restore()
        shelf = Shelf(built)
        mesh = Mesh(
            MemoryTransport(credentials, self.network),
            settings=QUICK,
            store=shelf,
            on_peer=lambda _peer: built.tell(PeersChanged()),
        )
        built.tasks = TaskService(built)
        built.tasks.serve_members(mesh)
        built.neighbourhood.attach(mesh)
        built.shelf = shelf
        cleanup = self.cleanups[name] = AsyncExitStack()
        cleanup.push_async_callback(built.close)
        await mesh.start([f"/memory/{bootstrap}/p2p/{self.members[bootstrap].peer_id}"] if bootstrap else [])
        cleanup.push_async_callback(mesh.stop)
        cleanup.push_async_callback(built.tasks.close)
        running = asyncio.create_task(built.run())
        cleanup.push_async_callback(asyncio.wait, {running})
        cleanup.callback(running.cancel)
        built.running = running
        return built

    async def stop(self, *names: str) -> None:
        for name in names or list(self.cleanups):
            await self.cleanups.pop(name).aclose()


class Shelf:
    """A node's packets, as the mesh sees them."""

    def __init__(self, node: EdgeNode) -> None:
        self.inventory, self.declines = node.packets.inventory, node.packets.declines
        self.read, self.accept = node.packets.read, node.accept


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def submit(node: EdgeNode, task: Any, timeout_s: float = 30.0) -> Any:
    reply = await node.tasks.submit(to_map(task), timeout_s, lambda *_: None)
    return result_from_map(reply, took_s=0.0)


def packets_of(node: EdgeNode, kind: type) -> set[str]:
    return {entry.author_name for entry in node.library.of_others() if isinstance(entry.packet, kind)}


def found(folder: Path) -> dict[str, Credentials]:
    """Homes of three nodes, each without one digit that another has, and of two anchors."""
    root, charter = MeshRoot.create("village", SPACE.to_map(), time.time())
    keyring, members = Keyring.generate(), {}
    for name, role, classes in MEMBERS:
        identity = Identity.generate()
        certificate = root.issue(identity.peer_id, name, [role, "requester"], identity.hpke_public_key, time.time())
        members[name] = Credentials(identity, charter, certificate, keyring, root if name == FOUNDER else None)
        (folder / name).mkdir(mode=0o700)
        if classes:
            save_npz(folder / name / "data.npz", digits(classes))
    return members


async def settled(*nodes: EdgeNode, when: Callable[[], object] = lambda: True, timeout_s: float = 45.0) -> None:
    """Wait until all have settled and ``when`` holds; fail at once if one of them ended."""
    try:
        await until(
            lambda: any(n.running.done() for n in nodes) or (all(n.settled for n in nodes) and when()), timeout_s
        )
    except TimeoutError:
        raise AssertionError("\n".join(f"{node.next} {describe(node)} {node.situation()}" for node in nodes)) from None
    for node in nodes:
        assert not node.running.done(), node.running.exception()
