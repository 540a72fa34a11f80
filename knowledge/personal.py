"""The personal head: what a device says of samples that are like its own.

The model that the mesh taught knows every class. What it was before it learned from the answers of others knows the
own ones better (`Skills.expert`). The model of the private data alone may know them better still, and says how well on
samples held out of its training: if there are some of each of its classes, and it takes none of them for another, it
is asked too. All that are asked count the same (a mixture of experts, Jacobs et al., 1991). The mean is one of
probabilities: who is sure outvotes who is not. The class mix of the private data is made use of in any case.
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
    asked = [taught] if expert is None else [taught, expert]
    if untaught not in asked and held_out is not None and _is_sound(untaught, prior, held_out):
        asked.append(untaught)
    said = [logits(model, images, space) for model in asked]
    return said[0] if len(said) == 1 else mixed(*said)


def _is_sound(untaught: nn.Module, prior: NDArray[np.float64], held_out: Dataset) -> bool:
    """Whether every class at home was held out from, and none of its samples is mistaken."""
    if not np.isin(np.flatnonzero(prior), held_out.labels).all():
        return False
    said = logits(untaught, held_out.images, held_out.space)
    return bool((with_prior(said, prior[: said.shape[1]]).argmax(axis=1) == held_out.labels).all())


def mixed(*said: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log of the mean of the probabilities that logits (n, k) stand for."""
    together = np.logaddexp.reduce([_log_softmax(logits) for logits in said])
    mean: NDArray[np.float32] = together - np.float32(np.log(len(said)))
    return mean


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
