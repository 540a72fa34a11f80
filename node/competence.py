"""Competence: what a node can do with its models, measured, for its advert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..knowledge.data import Images, Labels
from ..knowledge.models import logits
from ..knowledge.space import Space
from .router import Competence
from .skills import Skills

DRAWN_TO_MEASURE = 24
UNPROVED = 2
"""Samples of a class that count as answered wrongly before any was looked at: little evidence is little worth."""


def measured(skills: Skills, known: Sequence[tuple[Images, Labels]], space: Space, seed: int) -> Competence:
    """Quality per class, shrunk towards 0 where there is little evidence.

    Classification: on ``known``, labelled samples. Generation: the share of drawn images that the classifier takes
    for their class, times how well it knows that class.
    """
    classes = space.num_classes
    right, total = np.zeros(classes), np.zeros(classes)
    for images, labels in known:
        hits = logits(skills.classifier, images, space).argmax(axis=1) == labels
        right += np.bincount(labels, weights=hits, minlength=classes)
        total += np.bincount(labels, minlength=classes)
    classify = right / (total + UNPROVED)
    if skills.generator is None:
        return Competence(tuple(classify.tolist()), (), added=space.added_classes)
    wanted = np.repeat(np.arange(classes), DRAWN_TO_MEASURE)
    drawn = skills.generator.sample(wanted, seed=seed)
    said = logits(skills.classifier, drawn, space).argmax(axis=1)
    hits = (said == wanted).reshape(classes, DRAWN_TO_MEASURE).mean(axis=1)
    return Competence(tuple(classify.tolist()), tuple((hits * classify).tolist()), added=space.added_classes)
