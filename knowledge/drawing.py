"""Drawing: what a device shows when it is asked for samples of a class.

A small generator draws some samples between two classes. So twice as many are drawn as are wanted, and those that
the device's own classifier doubts are left out (rejection sampling by a classifier: Razavi et al., NeurIPS 2019,
arXiv 1906.00446). Of those that it does not doubt the first are shown, not the surest, which are no typical samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .data import Images, Labels
from .generators import Generator
from .models import logits
from .space import Space

DRAWN_PER_SHOWN = 2
NO_DOUBT = 0.95  # probability of the label from which no sample is better than another


@dataclass(frozen=True)
class Drawn:
    """Samples, and which of them the classifier takes for the label that was wanted: uint8 (n, c, h, w), bool (n,)."""

    images: Images
    taken: NDArray[np.bool_]


def draw(generator: Generator, classifier: nn.Module, labels: Labels, space: Space, *, seed: int) -> Drawn:
    """One sample per label int64 (n,): of each class the less doubtful half of what is drawn. Deterministic by seed."""
    wanted = np.repeat(labels, DRAWN_PER_SHOWN)
    images = generator.sample(wanted, seed=seed)
    said = torch.from_numpy(logits(classifier, images, space))
    sure = torch.softmax(said, dim=1).numpy()[np.arange(len(wanted)), wanted].clip(max=NO_DOUBT)
    chosen = np.zeros(len(labels), np.int64)
    for label in np.unique(labels):
        drawn = np.flatnonzero(wanted == label)
        best = drawn[np.argsort(-sure[drawn], kind="stable")][: len(drawn) // DRAWN_PER_SHOWN]
        chosen[labels == label] = np.sort(best)
    return Drawn(images[chosen], said.argmax(dim=1).numpy()[chosen] == labels)
