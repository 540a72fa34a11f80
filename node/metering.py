"""What a node costs: CPU seconds of its compute lane by activity, and bytes of what it publishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from ..mesh.memory import MemoryNetwork, MemoryTransport
from ..mesh.mesh import Mesh, MeshSettings
from .actor import EdgeNode
from .lane import Lane, Step
from .messages import PeersChanged
from .shared_compute import SharedCompute

T = TypeVar("T")

ACTIVITIES: Mapping[str, str] = {
    "learning": "classifier",
    "condensing": "condensation",
    "distilling": "distillation",
    "generating": "generation",
    "answering": "answering",
    "measuring": "measuring",
    "fine-tuning": "fine-tuning",
}
"""The label of a piece of work on a lane -> the activity that its CPU seconds are reported under."""


class MeteredLane(Lane):
    """A `Lane` that counts the CPU seconds of its work per label, and works on a computer that it shares.

    A thread's CPU time is the work's when the libraries underneath use one thread
    (``torch.set_num_threads(1)``); what a GPU does is not in it.
    """

    def __init__(self, name: str, shared: SharedCompute) -> None:
        self.cpu_s: dict[str, float] = {}
        self._shared = shared
        super().__init__(name)

    async def train(self, label: str, work: Callable[[Step], T]) -> T:
        """As `Lane.train`."""

        def metered(step: Step) -> T:
            return self._shared.run(lambda: timed(step), sum(self.cpu_s.values()), lambda: step(0.0))

        def timed(step: Step) -> T:
            started = time.thread_time()
            try:
                return work(step)
            finally:
                activity = ACTIVITIES.get(label, label)
                self.cpu_s[activity] = self.cpu_s.get(activity, 0.0) + time.thread_time() - started

        return await super().train(label, metered)


class CountedMesh(Mesh):
    """A `Mesh` that adds up what its owner publishes."""

    def __init__(self, node: EdgeNode, network: MemoryNetwork, settings: MeshSettings) -> None:
        self.published_bytes = 0
        self._sizes = node.packets.inventory
        super().__init__(
            MemoryTransport(node.credentials, network),
            settings=settings,
            store=_Shelf(node),
            on_peer=lambda _peer: node.tell(PeersChanged()),
            worth=node.worth,
        )

    def announce(self, name: str) -> None:
        self.published_bytes += self._sizes().get(name, 0)
        super().announce(name)


class _Shelf:
    """A node's packets, as the mesh sees them."""

    def __init__(self, node: EdgeNode) -> None:
        self.inventory, self.declines = node.packets.inventory, node.packets.declines
        self.read, self.accept = node.packets.read, node.accept
