"""Specialists: which samples of a batch go to whom, and which of them this node should have known. Pure.

What this node takes a sample for, and how often it errs when it says so (its confusion), tell what the sample
probably is. Samples that the same node knows best travel together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..knowledge.space import Space
from .pieces import Done, Piece, logits_reply, pieces_of
from .results import Classified, Result
from .router import Ability, Candidate, Competence, expected_quality
from .tasks import Classify, Generate


def by_specialists(
    task: Classify,
    at_home: np.ndarray,
    confusion: np.ndarray,
    order: Callable[[Piece], Sequence[Candidate]],
    space: Space,
) -> list[Piece]:
    """The pieces of a batch, each for those who know best what its samples probably are.

    Args:
        at_home: this node's logits, float32 (n, classes). confusion: see `meshlore.node.competence.Measured`.
        order: who may do a piece, best first.
    """
    said = at_home.argmax(axis=1)
    groups: dict[str, list[int]] = {}
    for label in np.unique(said).tolist():
        best = order(Piece(task, np.flatnonzero(said == label), _weights(confusion[label])))[:1]
        groups.setdefault(best[0].peer_id if best else "", []).append(label)
    pieces = []
    for labels in groups.values():
        counts = np.bincount(said, minlength=len(confusion))[labels]
        concerns = _weights((confusion[labels] * counts[:, None]).sum(axis=0) / counts.sum())
        pieces += pieces_of(task, np.flatnonzero(np.isin(said, labels)), concerns, space)
    return [replace(piece, at_home=logits_reply(at_home[piece.places], space)) for piece in pieces]


def missed(result: Result, done: Sequence[Done], home: Competence, space: Space, leave_for: float) -> Mapping[str, int]:
    """Samples per class name that others answered because they know the class better."""
    counts: Counter[str] = Counter()
    for part in done:
        if part.by.hop == "here":
            continue
        if isinstance(result, Classified):
            ability: Ability = "classify"
            names = Counter(result.labels[place] for place in part.piece.places.tolist())
        elif isinstance(part.piece.task, Generate):
            ability, names = "generate", Counter({part.piece.task.label: len(part.piece.places)})
        else:
            continue
        for name in names.keys() & set(space.classes):
            concerns = {space.classes.index(name): 1.0}
            here, there = (expected_quality(c, ability, concerns) for c in (home, part.by.competence))
            if there - here > leave_for:
                counts[name] += names[name]
    return counts


def _weights(shares: np.ndarray) -> dict[int, float]:
    return dict(enumerate(shares.tolist()))
