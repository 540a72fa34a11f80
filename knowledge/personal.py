"""The personal head: what a device says of samples that are like its own.

The model that the mesh taught knows every class. What it was before it learned from the answers of others knows the
own ones better (`Skills.expert`). The model of the private data alone may know them better still, and says how well on
samples held out of its training: if there are some of each of its classes, and it takes none of them for another, it
is asked too, and counts as much as what the mesh taught (mixtures of experts, Jacobs et al., 1991). The mean is one
of probabilities: who is sure outvotes who is not. The class mix of the private data is made use of in any case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .data import Dataset, Images
from .metrics import with_prior
from .models import logits
from .space import Space


def personal_logits(
    taught: nn.Module,
    untaught: nn.Module,
    images: Images,
    space: Space,
    *,
    prior: NDArray[np.float64],
    held_out: Dataset | None,
    expert: nn.Module | None = None,
) -> NDArray[np.float32]:
    """Logits float32 (n, num_classes), for `metrics.with_prior` to add the class mix to.

    Args:
        taught: the classifier after the mesh. untaught: that of the private data alone, or the same one.
        images: uint8 (n, channels, height, width).
        prior: float64 (num_classes,), the class mix at home.
        held_out: private samples that none was trained on.
        expert: always asked; None: there is none.
    """
    said = logits(taught, images, space)
    if expert is not None:
        said = mixed(said, logits(expert, images, space))
    if untaught is taught or held_out is None or not _is_sound(untaught, prior, held_out):
        return said
    return mixed(said, logits(untaught, images, space))


def _is_sound(untaught: nn.Module, prior: NDArray[np.float64], held_out: Dataset) -> bool:
    """Whether every class at home was held out from, and none of its samples is mistaken."""
    if not np.isin(np.flatnonzero(prior), held_out.labels).all():
        return False
    said = logits(untaught, held_out.images, held_out.space)
    return bool((with_prior(said, prior[: said.shape[1]]).argmax(axis=1) == held_out.labels).all())


def mixed(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log of the mean of the probabilities that two logits (n, k) stand for."""
    mean: NDArray[np.float32] = np.logaddexp(_log_softmax(first), _log_softmax(second)) - np.float32(np.log(2))
    return mean


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
