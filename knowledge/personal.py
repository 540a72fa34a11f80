"""The personal head: what a device says of samples that are like its own.

Up to three classifiers vote, each with the class mix at home already in what it says: the one that the mesh taught,
which knows every class; what it was before it learned from the answers of others, which knows the own ones better
(`Skills.expert`); and that of the private data alone. The last one has half of the vote, and .85 where it is
sound: where samples of each of its classes, but for the rarest, were held out of its training, and it takes none of
them for another.

The vote is the mean of the posteriors (a linear opinion pool: Genest & Zidek, 1986). Without the class mix, the
classifier of two classes would vote for the eight others wherever it is in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .data import Dataset, Images
from .metrics import with_prior
from .models import logits
from .space import Space

UNTAUGHT, UNTAUGHT_AND_SOUND = 0.5, 0.85  # what the classifier of the private data alone has of the vote
RAREST = 0.01  # of the class mix: what decides so little need not have been held out from


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
    """Logits float32 (n, num_classes) without the class mix, for `metrics.with_prior` to add it to.

    Args:
        taught: the classifier after the mesh. untaught: that of the private data alone, or the same one.
        images: uint8 (n, channels, height, width).
        prior: float64 (num_classes,), the class mix at home.
        held_out: private samples that none was trained on.
        expert: what the taught one was before it learned from answers; None: there is none.
    """
    said = [logits(model, images, space) for model in (taught, expert) if model is not None]
    shares = [1 / len(said)] * len(said)
    if untaught is not taught:
        share = UNTAUGHT_AND_SOUND if _is_sound(untaught, prior, held_out) else UNTAUGHT
        said.append(logits(untaught, images, space))
        shares = [*(part * (1 - share) for part in shares), share]
    return said[0] if len(said) == 1 else pooled(said, shares, prior)


def pooled(
    said: Sequence[NDArray[np.float32]], shares: Sequence[float], prior: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Logits float32 (n, k) that, with the class mix added, are the log of the pool of all posteriors.

    Args:
        said: float32 (n, k) of each classifier, without the class mix.
        shares: what each has of the vote; they sum to 1.
        prior: float64 (k,).
    """
    mix = with_prior(np.zeros(said[0].shape[1]), prior[: said[0].shape[1]])
    votes = [_log_softmax(part + mix) + np.log(share) for part, share in zip(said, shares, strict=True)]
    pool: NDArray[np.float32] = (np.logaddexp.reduce(votes) - mix).astype(np.float32)
    return pool


def _is_sound(untaught: nn.Module, prior: NDArray[np.float64], held_out: Dataset | None) -> bool:
    """Whether the classes at home were held out from, but for the rarest, and none of the samples is mistaken."""
    if held_out is None or not len(held_out) or np.delete(prior, np.unique(held_out.labels)).sum() > RAREST:
        return False
    said = logits(untaught, held_out.images, held_out.space)
    return bool((with_prior(said, prior[: said.shape[1]]).argmax(axis=1) == held_out.labels).all())


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    normal: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
