"""What a cluster run came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class NodeReport:
    """One node. Accuracies 0..1 on the test set, None where the node was lost before they were measured.

    Attributes:
        state: ``"live"``, or ``"lost"`` when its process ended during the run.
        global_*: all classes alike; personal_*: reweighted to the node's own class mix.
        bytes_*: of the TCP connections, protocol and encryption included; knowledge: sealed packets only.
    """

    id: str
    model: str
    classes: tuple[str, ...]
    samples: int
    state: str
    global_before: float | None
    global_after: float | None
    personal_before: float | None
    personal_after: float | None
    bytes_sent: int
    bytes_received: int
    knowledge_bytes_sent: int


@dataclass(frozen=True)
class ModelReport:
    """A model and its accuracy on the test set, all classes alike."""

    model: str
    accuracy: float | None


@dataclass(frozen=True)
class Cost:
    """What one node of an in-process cluster costs on average.

    Attributes:
        memory_bytes: growth of the process at its peak, Python's and torch's own not included.
        cpu_s: CPU seconds of all that a node does; ``learning_cpu_s`` of them on its compute lane.
    """

    memory_bytes: float
    cpu_s: float
    learning_cpu_s: float

    def to_json(self) -> dict[str, float]:
        return {
            "memory_bytes": round(self.memory_bytes),
            "cpu_s": round(self.cpu_s, 3),
            "learning_cpu_s": round(self.learning_cpu_s, 3),
        }


@dataclass(frozen=True)
class Report:
    """One cluster run; ``wall_s`` is from the start of the command to its end, pictures included.

    ``cost_per_node`` is known where all nodes are in one process.
    """

    data: str
    seed: int
    wall_s: float
    nodes: tuple[NodeReport, ...]
    anchor: ModelReport | None
    pooled: ModelReport
    pictures: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = field(default=())
    cost_per_node: Cost | None = None

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        return {
            "data": self.data,
            "seed": self.seed,
            "wall_s": round(self.wall_s, 2),
            "nodes": [
                {
                    "id": node.id,
                    "state": node.state,
                    "classes": list(node.classes),
                    "samples": node.samples,
                    "model": node.model,
                    "global_before": node.global_before,
                    "global_after": node.global_after,
                    "personal_before": node.personal_before,
                    "personal_after": node.personal_after,
                    "bytes_sent": node.bytes_sent,
                    "bytes_received": node.bytes_received,
                    "knowledge_bytes_sent": node.knowledge_bytes_sent,
                }
                for node in self.nodes
            ],
            "anchor": None if self.anchor is None else {"model": self.anchor.model, "global": self.anchor.accuracy},
            "pooled": {"model": self.pooled.model, "global": self.pooled.accuracy},
            "pictures": [str(path) for path in self.pictures],
            "remarks": list(self.remarks),
            "cost_per_node": None if self.cost_per_node is None else self.cost_per_node.to_json(),
        }
