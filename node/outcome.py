"""What came of one node of a study: how good it is, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import StateError
from ..knowledge import metrics
from ..knowledge.data import Dataset
from ..knowledge.models import logits
from ..knowledge.personal import personal_logits
from .actor import EdgeNode
from .metering import CountedMesh, MeteredLane


@dataclass(frozen=True)
class NodeOutcome:
    """Accuracies 0..1 on the test set; None: an anchor has no own class mix.

    Attributes:
        counts: private samples per class.
        global_*: all classes alike; personal_*: with the node's own class mix. Before: its private data alone.
        cpu_s: thread CPU seconds on the lane, by activity (`metering.ACTIVITIES`).
        knowledge_bytes_published: sealed packets, each once; *_sent and *_received: each transfer.
        bytes_*: all, with the mesh's own messages.
    """

    name: str
    model: str
    counts: tuple[int, ...]
    global_before: float
    global_after: float
    personal_before: float | None
    personal_after: float | None
    cpu_s: Mapping[str, float]
    knowledge_bytes_published: int
    knowledge_bytes_sent: int
    knowledge_bytes_received: int
    bytes_sent: int
    bytes_received: int


def outcome_of(name: str, node: EdgeNode, mesh: CountedMesh, lane: MeteredLane, test: Dataset) -> NodeOutcome:
    """Measure a node on ``test``. Raises StateError: it has learned nothing yet."""
    skills, traffic = node.skills, mesh.traffic()
    if skills is None:
        raise StateError(f"{name} has learned nothing yet", "let the nodes settle first")
    before, after = (logits(m, test.images, test.space) for m in (skills.classifier_before, skills.classifier))
    private, prior, own = node.learner.private, node.prior, list[float | None]([None, None])
    if prior is not None:
        at_home = personal_logits(
            skills.classifier,
            skills.classifier_before,
            test.images,
            test.space,
            prior=prior,
            held_out=node.held_out,
            expert=skills.expert,
        )
        own = [metrics.personal_accuracy(said, test.labels, prior) for said in (before, at_home)]
    return NodeOutcome(
        name,
        node.learner.model,
        () if private is None else tuple(private.counts().tolist()),
        metrics.global_accuracy(before, test.labels),
        metrics.global_accuracy(after, test.labels),
        own[0],
        own[1],
        dict(lane.cpu_s),
        mesh.published_bytes,
        traffic.blob_bytes_sent,
        traffic.blob_bytes_received,
        traffic.bytes_sent,
        traffic.bytes_received,
    )
