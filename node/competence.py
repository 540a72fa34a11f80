"""Competence: what a node can do with its models, measured, for its advert and for the choice of who does what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..knowledge.data import Images, Labels
from ..knowledge.drawing import draw
from ..knowledge.models import logits
from ..knowledge.space import Space
from .router import Competence
from .skills import Skills

DRAWN_TO_MEASURE = 24
UNPROVED = 2
"""Samples of a class that count as answered wrongly before any was looked at: little evidence is little worth."""
MOST_CONFUSED = 1024
"""Classes; with more of them no confusion is kept."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a node can do, and what it takes for what.

    Attributes:
        confusion: float32 (classes, classes): how probable each true class is where the classifier says that of the
            row; None with too many classes. It stays on this device.
    """

    competence: Competence
    confusion: np.ndarray | None = None


def measured(skills: Skills, known: Sequence[tuple[Images, Labels]], space: Space, seed: int) -> Measured:
    """Quality per class, shrunk towards 0 where there is little evidence, and confusion, shrunk towards any class.

    Classification: on ``known``, labelled samples. Generation: the share of drawn images that the classifier takes
    for their class, times how well it knows that class.
    """
    classes = space.num_classes
    # all at once: most packets are too small to fill a batch
    shown = np.concatenate([np.zeros((0, *space.shape), np.uint8), *(images for images, _ in known)])
    answers = logits(skills.classifier, shown, space).argmax(axis=1)
    truth = np.concatenate([np.zeros(0, np.int64), *(labels for _, labels in known)])
    right = np.bincount(truth[answers == truth], minlength=classes)
    classify = right / (np.bincount(truth, minlength=classes) + UNPROVED)
    confusion = _confusion(answers, truth, classes) if classes <= MOST_CONFUSED else None
    if skills.generator is None:
        return Measured(Competence(tuple(classify.tolist()), (), added=space.added_classes), confusion)
    wanted = np.repeat(np.arange(classes), DRAWN_TO_MEASURE)
    drawn = draw(skills.generator, skills.classifier, wanted, space, seed=seed)
    hits = drawn.taken.reshape(classes, DRAWN_TO_MEASURE).mean(axis=1)
    generate = tuple((hits * classify).tolist())
    return Measured(Competence(tuple(classify.tolist()), generate, added=space.added_classes), confusion)


def _confusion(answers: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    counts = np.bincount(answers * classes + truth, minlength=classes**2).reshape(classes, classes).astype(np.float32)
    # classes of which there is more evidence are not more probable
    counts /= np.maximum(np.bincount(truth, minlength=classes), 1).astype(np.float32)
    counts += UNPROVED / max(1.0, len(truth) / classes) / classes
    shares: np.ndarray = counts / counts.sum(axis=1, keepdims=True)
    return shares
