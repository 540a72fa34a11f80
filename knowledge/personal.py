"""The personal head: what a device says of samples that are like its own.

The model that the mesh taught knows every class, the model of the private data alone knows its own best. Where
samples are as at home, both are asked, each counts a half (a mixture of two experts, Jacobs et al., 1991), and
the class mix of the private data is made use of. The mean is one of probabilities: who is sure outvotes who is not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .data import Images
from .models import logits
from .space import Space


def personal_logits(taught: nn.Module, untaught: nn.Module, images: Images, space: Space) -> NDArray[np.float32]:
    """Logits of the mixture, float32 (n, num_classes), for `metrics.with_prior` to add the class mix to.

    Args:
        taught: the classifier after the mesh. untaught: that of the private data alone, or the same one.
        images: uint8 (n, channels, height, width).
    """
    said = logits(taught, images, space)
    if untaught is taught:
        return said
    return mixed(said, logits(untaught, images, space))


def mixed(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """The log of the mean of the probabilities that two logits (n, k) stand for."""
    mean: NDArray[np.float32] = np.logaddexp(_log_softmax(first), _log_softmax(second)) - np.float32(np.log(2))
    return mean


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: NDArray[np.float32] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
