"""What a node is, has and does, as plain values for `meshlore status` and the control API."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..codec import pack_array
from ..knowledge.packet import SamplePacket
from .actor import EdgeNode
from .plan import Stage, Wait, stage_of
from .private_learner import privacy_status


def describe(node: EdgeNode) -> dict[str, Any]:
    """The node's status, as JSON values; docs/status.md documents each field."""
    journal, lane, traffic = node.state.journal, node.lane.state, node.neighbourhood.traffic()
    private, classes, competence = node.learner.private, node.space.classes, node.competence
    names = {entry.author: entry.author_name for entry in (*node.library.of_others(), *node.toolbox.entries())}
    return {
        "name": node.settings.name,
        "peer_id": node.credentials.peer_id,
        "role": node.learner.role,
        "mesh": {"name": node.credentials.charter.name, "id": node.credentials.mesh_id},
        "space": node.space.to_map(),
        "model": node.learner.model,
        "samples": 0 if private is None else len(private),
        "classes": [] if private is None else list(private.class_names()),
        "stage": Stage(stage_of(node.situation())).name.lower(),
        "settled": node.settled,
        "activity": lane.label or _idle(node),
        "fraction": lane.fraction,
        "computes": node.learner.executor.place,
        "version": journal.version,
        "generator": bool(journal.generator),
        "sequence": journal.sequence,
        "packets": len(node.library.samples()) + len(node.library.answers()),
        "taught_by": sorted({e.author_name for name in journal.taught_by if (e := node.library.get(name))}),
        "trust": {
            names.get(author, author): {"weight": round(verdict.weight, 3), "reason": verdict.reason}
            for author, verdict in sorted(node.cycle.trust.items())
        },
        "privacy": privacy_status(node.settings.privacy, node.learner),
        "competence": {
            "classify": dict(zip(classes, competence.classify, strict=False)),
            "generate": dict(zip(classes, competence.generate, strict=False)),
        },
        "skills": [classes[label] for label in sorted(node.toolbox.labels())],
        "live_peers": len(node.neighbourhood.live()),
        "bytes_sent": traffic.bytes_sent,
        "bytes_received": traffic.bytes_received,
        "knowledge_bytes_sent": traffic.blob_bytes_sent,
        "knowledge_bytes_received": traffic.blob_bytes_received,
        "certificate_expires": node.credentials.certificate.not_after,
    }


def published_samples(node: EdgeNode) -> dict[str, Any]:
    """The samples that the node published: all that its data put into the world, as plain values."""
    entry, space = node.library.own_samples(), node.space
    images, labels = np.zeros((0, *space.shape), np.uint8), np.zeros(0, np.int64)
    if entry is not None and isinstance(entry.packet, SamplePacket):
        images, labels = entry.packet.images, entry.packet.labels
    return {"images": pack_array(images), "labels": [space.classes[label] for label in labels]}


def _idle(node: EdgeNode) -> str:
    if node.working:
        return "working"
    return "settled" if isinstance(node.next, Wait) and node.next.settled else "waiting for others"
