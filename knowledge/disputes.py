"""Disputes: who is believed when authors contradict each other.

Of all sets of authors that could be telling the truth, the largest is believed that is at peace with itself and
with the private data: the fewest liars that explain every dispute (a minimum vertex cover, weighted by how grave
each dispute is). That holds while the honest authors who can contradict a lie outnumber those who share it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GRAVITY = 1.5  # what one full dispute within the set costs; keeping an author is worth 1
KINSHIP = 0.15  # what full agreement between two of the set is worth
DOUBT = 0.2  # less than this between two explanations is no reason to prefer one


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
    sets, fits = _grown(between, prior)
    worth = (sets * (prior + fits)).sum(axis=1) / 2
    best = int(worth.argmax())
    believed = sets[best] if worth[best] > 0 else np.zeros(count, bool)
    doubtful = ~believed & (prior > 0) & (worth > worth[best] - DOUBT)
    return believed, doubtful


def _grown(between: NDArray[np.float64], prior: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """For each author a good set that holds it: whoever fits best is taken in, then others change sides while that
    helps. Row by row the set, bool (a, a), and what each author would be worth to it, float64 (a, a)."""
    everybody = np.arange(len(prior))
    sets = np.eye(len(prior), dtype=bool)
    fits = prior + between
    growing = everybody
    for _ in range(4 * len(prior)):
        gain = np.where(sets[growing], -fits[growing], fits[growing])
        gain[np.arange(len(growing)), growing] = -np.inf
        best = gain.argmax(axis=1)
        helps = gain[np.arange(len(growing)), best] > 1e-9
        growing, best = growing[helps], best[helps]
        if not len(growing):
            break
        joins = ~sets[growing, best]
        sets[growing, best] = joins
        fits[growing] += np.where(joins, 1.0, -1.0)[:, None] * between[best]
    return sets, fits
