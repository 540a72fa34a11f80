"""The personal head: what a device says of samples that are like its own.

A device says of them what it said before it heard of anybody, unless it is shown to do better with two others: the
classifier that the mesh taught, which knows every class, and what that was before it learned from the answers of
others, which knows the own ones better (`Skills.expert`). Shown it is by the samples that were held out of all
training: with half of the vote for the others, more of these must be won than lost, by a standard error at least. It
is taken for granted where they cannot tell, as they lack a class that is at home.

The vote is the mean of the posteriors (a linear opinion pool: Genest & Zidek, 1986), each with the class mix at home
in it: a classifier of two classes would otherwise vote for the eight others wherever it is in doubt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from .data import Dataset, Images
from .metrics import pooled, with_prior
from .models import logits
from .rollback import decide
from .space import Space

UNTAUGHT = 0.5  # what the classifier of the private data alone has of the vote
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
    alone = logits(untaught, images, space)
    others = [model for model in (taught, expert) if model is not None and model is not untaught]
    if not others or not _help(others, untaught, prior, held_out):
        return alone
    return _vote(alone, [logits(model, images, space) for model in others], prior)


def _vote(
    alone: NDArray[np.float32], others: Sequence[NDArray[np.float32]], prior: NDArray[np.float64]
) -> NDArray[np.float32]:
    return pooled([alone, *others], [UNTAUGHT, *[(1 - UNTAUGHT) / len(others)] * len(others)], prior)


def _help(
    others: Sequence[nn.Module], untaught: nn.Module, prior: NDArray[np.float64], held_out: Dataset | None
) -> bool:
    """Whether they get more of the held-out samples right together with the untaught one, or these cannot tell."""
    if held_out is None or np.delete(prior, np.unique(held_out.labels)).sum() > RAREST:
        return True
    alone, *said = (logits(model, held_out.images, held_out.space) for model in (untaught, *others))
    before, after = (with_prior(answers, prior[: answers.shape[1]]) for answers in (alone, _vote(alone, said, prior)))
    decision = decide(before, after, held_out.labels)
    won, lost = decision.won, decision.lost
    return won > lost and won - lost >= math.sqrt(won + lost)
