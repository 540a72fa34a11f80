"""The personal head: a vote of what the mesh taught and what the private data taught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.metrics import pooled, with_prior
from meshlore.knowledge.personal import personal_logits
from meshlore.knowledge.rollback import keep_better
from meshlore.knowledge.space import Space

SPACE = Space((1, 8, 8), ("a", "b", "c"), levels=17)
IMAGES = np.zeros((3, 1, 8, 8), np.uint8)
LOGITS = arrays(np.float32, (4, 3), elements=st.floats(-50, 50, width=32))
A_AND_B = np.array([0.5, 0.5, 0.0])
FOR_A, FOR_B = (2.0, 0.0, 0.0), (0.0, 2.0, 0.0)


class Says(torch.nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def asked(taught: Says, untaught: Says, held_out: list[int], expert: Says | None = None) -> np.ndarray:
    """Posteriors (3,) of a device that holds ``a`` and ``b``; nobody trained on its samples of these labels."""
    home = Dataset(SPACE, np.zeros((len(held_out), 1, 8, 8), np.uint8), np.array(held_out, np.int64))
    said = personal_logits(taught, untaught, IMAGES, SPACE, prior=A_AND_B, held_out=home, expert=expert)
    return np.exp(with_prior(said, A_AND_B))[0]


@pytest.mark.parametrize("held_out", [[0] * 7 + [1] * 3, [0, 0], []])
def test_others_have_half_the_vote_where_that_helps_or_where_not_all_classes_are_held_out(held_out):
    assert asked(Says(2.1, 0.0, 0.0), Says(*FOR_B), held_out).argmax() == 0
    assert asked(Says(0.1, 0.0, 0.0), Says(*FOR_B), held_out).argmax() == 1  # who is sure outvotes who is not
    assert asked(Says(*FOR_A), Says(*FOR_B), held_out, expert=Says(*FOR_B)).argmax() == 1


@pytest.mark.parametrize("held_out", [[0, 1], [0, 1, 1], [0] * 11 + [1] * 10])
def test_others_are_not_heard_where_that_gets_hardly_more_right(held_out):
    """They would win one and lose one, lose one more than they win, or win 11 and lose 10, which may be chance."""
    home = Dataset(SPACE, np.zeros((len(held_out), 1, 8, 8), np.uint8), np.array(held_out))
    said = personal_logits(Says(9.0, 0.0, 0.0), Says(*FOR_B), IMAGES, SPACE, prior=A_AND_B, held_out=home)
    assert (said == np.array(FOR_B, np.float32)).all()


@pytest.mark.parametrize(("prior", "heard"), [((0.495, 0.495, 0.01), False), ((0.48, 0.48, 0.04), True)])
def test_a_class_that_is_hardly_there_need_not_be_held_out(prior, heard):
    home = Dataset(SPACE, np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 1]))
    mix = np.array(prior)
    said = personal_logits(Says(9.0, 0.0, 0.0), Says(*FOR_B), IMAGES, SPACE, prior=mix, held_out=home)
    assert (with_prior(said, mix).argmax(axis=1) == (0 if heard else 1)).all()


def test_what_the_untaught_one_does_not_know_does_not_vote_for_classes_that_are_not_there():
    """Of two classes, in doubt between one of them and the third, which it has never seen."""
    untaught = Says(0.0, -4.0, 1.0)
    assert asked(Says(-1.0, 1.0, 0.0), untaught, [1, 1])[2] < 0.01


def test_a_device_that_nobody_taught_says_what_it_says():
    alone = Says(0.5, -0.5, 0.0)
    said = personal_logits(alone, alone, IMAGES, SPACE, prior=A_AND_B, held_out=None)
    assert (said == np.array([0.5, -0.5, 0.0], np.float32)).all()


@pytest.mark.parametrize(("beside", "kept"), [(None, False), (Says(*FOR_A), False), (Says(3.0, 0.0, 0.0), True)])
def test_who_forgot_home_stays_beside_one_that_did_not_and_is_surer(beside, kept):
    """A student of others' answers says ``b`` for ten samples of ``a``."""
    home = Dataset(SPACE, np.zeros((10, 1, 8, 8), np.uint8), np.zeros(10, np.int64))
    decision = keep_better(Says(*FOR_A), Says(0.0, 2.5, 0.0), home, A_AND_B, beside=beside)
    assert decision.kept is kept


@pytest.mark.parametrize(("beside", "kept"), [(None, True), (Says(3.0, 0.0, 0.0), False)])
def test_who_was_outvoted_at_home_is_not_replaced_by_one_that_is_not(beside, kept):
    """Both students say ``b`` for ``a``, the newer one more surely."""
    home = Dataset(SPACE, np.zeros((10, 1, 8, 8), np.uint8), np.zeros(10, np.int64))
    assert keep_better(Says(*FOR_B), Says(0.0, 4.0, 0.0), home, A_AND_B, beside=beside).kept is kept


@given(LOGITS, LOGITS, st.floats(0.01, 0.99), arrays(np.float64, 3, elements=st.floats(0, 1)))
def test_the_pool_is_a_distribution_between_all_posteriors(first, second, share, prior):
    pool = np.exp(with_prior(pooled([first, second], [share, 1 - share], prior), prior))
    np.testing.assert_allclose(pool.sum(axis=1), 1, atol=1e-4)
    posteriors = [
        np.exp(x - x.max(axis=1, keepdims=True)) for x in (with_prior(first, prior), with_prior(second, prior))
    ]
    posteriors = [x / x.sum(axis=1, keepdims=True) for x in posteriors]
    np.testing.assert_allclose(pool, share * posteriors[0] + (1 - share) * posteriors[1], atol=1e-4)
