"""Many nodes in one process, over the in-memory transport: for studies, where sockets would only cost time.

Each node is composed as the daemon composes it (`daemon.build_node`): a home, sealed packets, the actor,
its plan and its compute lane. Only libp2p is left out. All nodes meet before the first one starts to
learn, nobody is patient by the clock, and lanes take turns, so that the outcome does not hang on the
speed of the machine and the CPU seconds of each node are its own.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import MeshloreError, StateError
from ..knowledge.data import Dataset
from ..knowledge.sources import save_npz
from ..knowledge.space import Space
from ..mesh.members import HeartbeatSettings
from ..mesh.memory import MemoryNetwork
from ..mesh.mesh import MeshSettings
from ..mesh.overlay import OverlaySettings
from ..security.identity import Identity
from ..security.membership import Credentials, Keyring, MeshRoot
from .actor import EdgeNode
from .build import build_node
from .daemon import ANCHOR_NEIGHBOURS
from .learner import Learner
from .membership import ROLES_OF
from .metering import CountedMesh, MeteredLane
from .outcome import NodeOutcome, outcome_of
from .service import TaskService
from .settings import Settings
from .shared_compute import SharedCompute

WrapLearner = Callable[[int, Learner], Learner]

PATIENCE_S = 86_000.0
POLL_S = 0.05
CALM_S = 3.0
MEETING_S = 600.0
ACQUAINTANCES = 3
"""So many members a newcomer is told of."""
WIRES = MeshSettings(
    # a busy process is not a silent peer
    heartbeat=HeartbeatSettings(interval_s=60.0, first_redial_s=0.1),
    # a study is about knowledge: everybody meets everybody
    overlay=OverlaySettings(target=127, most=127),
    tick_s=0.05,
    relay_delay_s=0.5,
    first_exchange_s=0.1,
    request_timeout_s=120.0,
    fetch_timeout_s=300.0,
    requests_per_s=1e4,
    requests_burst=1e5,
)


@dataclass(frozen=True)
class Member:
    """One node to be. ``private`` None makes it an anchor; ``settings`` are as in the configuration file."""

    name: str
    private: Dataset | None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Resident:
    """One running node, with what is counted about it."""

    member: Member
    node: EdgeNode
    mesh: CountedMesh
    lane: MeteredLane
    tasks: TaskService
    running: asyncio.Task[None] | None = None

    def measure(self, test: Dataset) -> NodeOutcome:
        """How good it is by now, and what it cost."""
        return outcome_of(self.member.name, self.node, self.mesh, self.lane, test)


class InProcessMesh:
    """Nodes that are all one mesh. ``async with InProcessMesh(...) as mesh: await mesh.settle(600)``.

    Args:
        members: at least one; names unlike each other.
        folder: an empty or new folder for their homes.
        wrap_learner: given a member's place and its learner, what learns in its place (an attacker, say).
        parallel: how many lanes compute at once.
        wires: of a node; an anchor has more neighbours.
        delay_s: how long a message is on its way.
    """

    def __init__(
        self,
        space: Space,
        members: Sequence[Member],
        folder: Path,
        *,
        wrap_learner: WrapLearner = lambda _place, learner: learner,
        parallel: int = 1,
        wires: MeshSettings = WIRES,
        delay_s: float = 0.0,
    ) -> None:
        self.space = space
        self.residents: list[Resident] = []
        self._members = tuple(members)
        self._folder = folder
        self._wrap = wrap_learner
        self._compute = SharedCompute(parallel)
        self._wires = wires
        self._network = MemoryNetwork(delay_s=delay_s)
        self._cleanup = AsyncExitStack()

    @property
    def nodes(self) -> list[EdgeNode]:
        return [resident.node for resident in self.residents]

    async def __aenter__(self) -> InProcessMesh:
        """Every node is built and has the neighbours that it wants; nobody learns before that."""
        await self._cleanup.__aenter__()
        self._cleanup.push_async_callback(self._close)
        try:
            credentials = found_members(self.space, [(m.name, m.private is None) for m in self._members])
            for place, member in enumerate(self._members):
                await self._move_in(place, member, credentials[place])
            await self._meet()
            for resident in self.residents:
                resident.running = asyncio.create_task(resident.node.run(), name=resident.member.name)
            self._cleanup.callback(self._compute.close)
            self._cleanup.push_async_callback(self._end_all)
        except BaseException:
            await self._cleanup.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._cleanup.aclose()

    async def settle(self, timeout_s: float) -> None:
        """Wait until nobody has anything left to learn and every packet is everywhere.

        Packets that somebody refuses never arrive there; after a while of calm they are no longer waited for.

        Raises:
            StateError: not within ``timeout_s``. Exception: what a node ended with.
        """
        calm_since = time.monotonic()

        def quiet() -> bool:
            nonlocal calm_since
            now = time.monotonic()
            if not all(node.settled for node in self.nodes):
                calm_since = now
                return False
            return (self._spread() and now - calm_since > 4 * POLL_S) or now - calm_since > CALM_S

        await self._until(quiet, timeout_s)

    def measure(self, test: Dataset) -> tuple[NodeOutcome, ...]:
        """How good each node is by now, and what it cost."""
        return tuple(resident.measure(test) for resident in self.residents)

    async def _move_in(self, place: int, member: Member, credentials: Credentials) -> None:
        home = self._folder / member.name
        home.mkdir(mode=0o700, parents=True)
        data = home / "data.npz"
        if member.private is not None:
            await asyncio.to_thread(save_npz, data, member.private)
        settings = Settings.model_validate(
            {"name": member.name, "data": str(data) if member.private is not None else "", **_patient(member.settings)}
        )
        lane = MeteredLane(member.name, self._compute)
        node, _ = await asyncio.to_thread(
            build_node, home, settings, credentials, lane=lane, wrap_learner=lambda learner: self._wrap(place, learner)
        )
        wires = self._wires if member.private is not None else _of_anchor(self._wires)
        mesh = CountedMesh(node, self._network, wires)
        tasks = TaskService(node)
        # one of those that came first would soon know and be known to all
        known = random.Random(place).sample(self.residents, min(place, ACQUAINTANCES))
        self.residents.append(Resident(member, node, mesh, lane, tasks))
        await node.restore()
        tasks.serve_members(mesh)
        node.neighbourhood.attach(mesh)
        await mesh.start(address for resident in known for address in resident.mesh.addresses())

    async def _end_all(self) -> None:
        running = [resident.running for resident in self.residents if resident.running is not None]
        for task in running:
            task.cancel()
        for outcome in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, MeshloreError):
                raise outcome

    async def _close(self) -> None:
        """All leave at once: who is left behind would look for new neighbours."""
        await asyncio.gather(*(resident.tasks.close() for resident in self.residents))
        await asyncio.gather(*(resident.mesh.stop() for resident in self.residents))
        await asyncio.gather(*(resident.node.close() for resident in self.residents))

    async def _meet(self) -> None:
        """Until everybody has had the neighbours that it wants; later some part, and meet others."""
        wanted, lonely = min(self._wires.overlay.target, len(self.nodes) - 1), self.nodes

        def met() -> bool:
            nonlocal lonely
            lonely = [node for node in lonely if len(node.neighbourhood.live()) < wanted]
            return not lonely

        await self._until(met, MEETING_S)

    def _spread(self) -> bool:
        """Everybody has heard of the newest packet of everybody."""
        newest = {n.credentials.peer_id: n.library.newest_number(n.credentials.peer_id) for n in self.nodes}
        return all(n.library.newest_number(author) == number for n in self.nodes for author, number in newest.items())

    async def _until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    for resident in self.residents:
                        if resident.running is not None and resident.running.done():
                            resident.running.result()
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            state = ", ".join(f"{r.member.name}: {type(r.node.next).__name__}" for r in self.residents)
            raise StateError(f"the nodes did not come to rest within {timeout_s:g} s ({state})", "allow more") from None


def found_members(space: Space, members: Sequence[tuple[str, bool]]) -> list[Credentials]:
    """Credentials of one new mesh for members given as (name, is an anchor), in memory only."""
    root, charter = MeshRoot.create("in-process", space.to_map(), time.time())
    keyring, found = Keyring.generate(), []
    for name, anchor in members:
        identity = Identity.generate()
        roles = ROLES_OF["anchor" if anchor else "node"]
        certificate = root.issue(identity.peer_id, name, roles, identity.hpke_public_key, time.time())
        found.append(Credentials(identity, charter, certificate, keyring))
    return found


def run_in_process(
    space: Space,
    members: Sequence[Member],
    test: Dataset,
    *,
    wrap_learner: WrapLearner = lambda _place, learner: learner,
    timeout_s: float = 3600.0,
) -> tuple[NodeOutcome, ...]:
    """Let nodes teach each other until all have settled, and measure them: one outcome per member.

    Raises:
        StateError: they did not come to rest in time.
    """

    async def live(folder: Path) -> tuple[NodeOutcome, ...]:
        async with InProcessMesh(space, members, folder, wrap_learner=wrap_learner) as mesh:
            await mesh.settle(timeout_s)
            return await asyncio.to_thread(mesh.measure, test)

    with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
        return asyncio.run(live(Path(folder)))


def sparse_wires(nodes: int, neighbours: int) -> MeshSettings:
    """As many neighbours as a daemon has, for studies of how a mesh grows."""
    overlay = OverlaySettings(target=neighbours, most=2 * neighbours, shuffle_s=300.0)
    # everybody ticks in this one process
    return replace(
        WIRES,
        overlay=overlay,
        tick_s=max(WIRES.tick_s, nodes / 200),
        # what comes meanwhile is announced together
        relay_delay_s=max(WIRES.relay_delay_s, nodes / 50),
        peer_exchange_s=300.0,
        sync_s=300.0,
        save_addresses_s=300.0,
    )


def _of_anchor(wires: MeshSettings) -> MeshSettings:
    most = max(wires.overlay.most, ANCHOR_NEIGHBOURS)
    return replace(wires, overlay=replace(wires.overlay, most=most))


def _patient(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Who waits for all others does not depend on how fast they are; what is set explicitly stays."""
    return {**settings, "learning": {"patience_s": PATIENCE_S, **dict(settings.get("learning", {}))}}
