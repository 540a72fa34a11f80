"""Disputes: who is believed when authors contradict each other.

Of all sets of authors that could be telling the truth, the largest is believed that is at peace with itself and
with the private data: the fewest liars that explain every dispute (a minimum vertex cover, weighted by how grave
each dispute is). That holds while the honest authors who can contradict a lie outnumber those who share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRAVITY = 1.5  # what one full dispute within the set costs; keeping an author is worth 1
KINSHIP = 0.1  # what full agreement between two of the set is worth
DOUBT = 0.3  # less than this between two explanations is no reason to prefer one


def fewest_liars(
    conflict: NDArray[np.float64], support: NDArray[np.float64], prior: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Who is believed, and about whom that is in doubt.

    Args:
        conflict, support: float64 (a, a), symmetric, >= 0, the diagonal 0.
        prior: float64 (a,): how much believing each author is worth by itself; negative: the private data
            contradict it.

    Returns:
        believed, doubtful: bool (a,). A doubtful author is one that an explanation about as good treats otherwise.
    """
    count = len(prior)
    if count == 0:
        return np.zeros(0, bool), np.zeros(0, bool)
    between = KINSHIP * support - GRAVITY * conflict
    worth = np.empty(count)
    sets = np.empty((count, count), bool)
    for forced in range(count):
        sets[forced] = _grown(forced, between, prior)
        worth[forced] = _worth(sets[forced], between, prior)
    best = int(worth.argmax())
    believed = sets[best] if worth[best] > 0 else np.zeros(count, bool)
    doubtful = ~believed & (prior > 0) & (worth > worth[best] - DOUBT)
    return believed, doubtful


def _grown(forced: int, between: NDArray[np.float64], prior: NDArray[np.float64]) -> NDArray[np.bool_]:
    """A good set that holds one author: whoever fits best is taken in, then others change sides while that helps."""
    chosen = np.zeros(len(prior), bool)
    chosen[forced] = True
    for _ in range(4 * len(prior)):
        gain = np.where(chosen, -1.0, 1.0) * (prior + between @ chosen)
        gain[forced] = -np.inf
        best = int(gain.argmax())
        if gain[best] <= 1e-9:
            break
        chosen[best] = ~chosen[best]
    return chosen


def _worth(chosen: NDArray[np.bool_], between: NDArray[np.float64], prior: NDArray[np.float64]) -> float:
    return float(prior[chosen].sum() + between[np.ix_(chosen, chosen)].sum() / 2)
