"""What came of one node of a study: how good it is, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..knowledge import metrics
from ..knowledge.data import Dataset
from ..knowledge.models import logits
from .actor import EdgeNode
from .metering import CountedMesh, MeteredLane


@dataclass(frozen=True)
class NodeOutcome:
    """Accuracies 0..1 on the test set.

    Attributes:
        counts: private samples per class.
        global_*: all classes alike; None: it has learned nothing, as an anchor that was sent no samples. Before: its
            private data alone. personal_*: with the node's own class mix; None: an anchor has none.
        cpu_s: thread CPU seconds on the lane, by activity (`metering.ACTIVITIES`).
        knowledge_bytes_published: sealed packets, each once; *_sent and *_received: each transfer.
        bytes_*: all, with the mesh's own messages.
    """

    name: str
    model: str
    counts: tuple[int, ...]
    global_before: float | None
    global_after: float | None
    personal_before: float | None
    personal_after: float | None
    cpu_s: Mapping[str, float]
    knowledge_bytes_published: int
    knowledge_bytes_sent: int
    knowledge_bytes_received: int
    bytes_sent: int
    bytes_received: int


def outcome_of(name: str, node: EdgeNode, mesh: CountedMesh, lane: MeteredLane, test: Dataset) -> NodeOutcome:
    """Measure a node on ``test``."""
    private, traffic = node.learner.private, mesh.traffic()
    before_and_after, at_home = _accuracies(node, test)
    return NodeOutcome(
        name,
        node.learner.model,
        () if private is None else tuple(private.counts().tolist()),
        *before_and_after,
        *at_home,
        dict(lane.cpu_s),
        mesh.published_bytes,
        traffic.blob_bytes_sent,
        traffic.blob_bytes_received,
        traffic.bytes_sent,
        traffic.bytes_received,
    )


_BeforeAndAfter = tuple[float | None, float | None]


def _accuracies(node: EdgeNode, test: Dataset) -> tuple[_BeforeAndAfter, _BeforeAndAfter]:
    """On all classes, and at home."""
    skills, prior = node.skills, node.prior
    if skills is None:
        return (None, None), (None, None)
    before, after = (logits(m, test.images, test.space) for m in (skills.classifier_before, skills.classifier))
    on_all = metrics.global_accuracy(before, test.labels), metrics.global_accuracy(after, test.labels)
    if prior is None:
        return on_all, (None, None)
    personal = skills.at_home(test.images, test.space, prior=prior, held_out=node.held_out)
    first, last = (metrics.personal_accuracy(said, test.labels, prior) for said in (before, personal))
    return on_all, (first, last)
