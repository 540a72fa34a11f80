"""Who is believed when authors contradict each other: the fewest liars explain every dispute."""

from __future__ import annotations

import numpy as np
import pytest
from meshlore.knowledge.disputes import GRAVITY, KINSHIP, fewest_liars


def disputes(count: int, liars: set[int]) -> np.ndarray:
    """Every liar in full dispute with every honest author."""
    lies = np.isin(np.arange(count), list(liars))
    return (lies[:, None] != lies[None]).astype(float)


@pytest.mark.parametrize("liars", [set(), {0}, {1, 4, 6}])
def test_the_fewest_liars_explain_every_dispute(liars: set[int]) -> None:
    believed, doubtful = fewest_liars(disputes(9, liars), np.zeros((9, 9)), np.ones(9))
    assert set(np.flatnonzero(~believed).tolist()) == liars
    assert not doubtful.any()


def test_of_two_who_contradict_each_other_both_are_in_doubt_or_believed() -> None:
    believed, doubtful = fewest_liars(disputes(2, {0}), np.zeros((2, 2)), np.ones(2))
    assert believed.sum() == 1
    assert (believed | doubtful).all()


def test_of_two_who_contradict_each_other_the_one_that_a_third_confirms_is_believed() -> None:
    """Two classes at each author and two authors of each class: a liar contradicts one neighbour, who has another."""
    conflict, support = np.zeros((3, 3)), np.zeros((3, 3))
    conflict[1, 2] = conflict[2, 1] = 2.0
    support[0, 1] = support[1, 0] = 1.5
    believed, doubtful = fewest_liars(conflict, support, np.ones(3))
    assert believed.tolist() == [True, True, False]
    assert not doubtful.any()


def test_no_author_changing_sides_alone_would_make_the_explanation_better() -> None:
    random = np.random.default_rng(0)
    for _ in range(30):
        count = int(random.integers(2, 12))
        conflict, support = (np.triu(random.random((count, count)) ** 3, 1) for _ in range(2))
        conflict, support = conflict + conflict.T, support + support.T
        prior = random.normal(0.5, 0.5, count)
        believed, _ = fewest_liars(conflict, support, prior)
        gain = prior + (KINSHIP * support - GRAVITY * conflict) @ believed
        better = np.flatnonzero(np.where(believed, -gain, gain) > 1e-9)
        # the one that the set was grown around stays whatever it costs
        assert len(better) <= 1
