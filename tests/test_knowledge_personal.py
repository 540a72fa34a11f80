"""The personal head: a vote of what the mesh taught and what the private data taught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.metrics import with_prior
from meshlore.knowledge.personal import personal_logits, pooled
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


@pytest.mark.parametrize("held_out", [[0, 1], [0, 0], []])
def test_the_untaught_one_has_half_the_vote_if_it_errs_or_was_not_seen_on_all_its_classes(held_out):
    assert asked(Says(2.1, 0.0, 0.0), Says(*FOR_B), held_out).argmax() == 0
    assert asked(Says(0.1, 0.0, 0.0), Says(*FOR_B), held_out).argmax() == 1  # who is sure outvotes who is not
    assert asked(Says(*FOR_A), Says(*FOR_B), held_out, expert=Says(*FOR_B)).argmax() == 1


class Knows(Says):
    """The class is the brightness."""

    def forward(self, images):
        bright = images.mean(dim=(1, 2, 3))  # in -1..1
        return torch.stack([-bright, bright, torch.full_like(bright, -3.0)], dim=1)


@pytest.mark.parametrize(("prior", "expected"), [((0.495, 0.495, 0.01), 1), ((0.48, 0.48, 0.04), 0)])
def test_a_class_that_is_hardly_there_need_not_be_seen_for_the_untaught_one_to_be_sound(prior, expected):
    home = Dataset(SPACE, np.array([0, 16], np.uint8).repeat(64).reshape(2, 1, 8, 8), np.array([0, 1]))
    image = np.full((1, 1, 8, 8), 10, np.uint8)
    mix = np.array(prior)
    said = personal_logits(Says(9.0, 0.0, 0.0), Knows(0.0), image, SPACE, prior=mix, held_out=home)
    assert with_prior(said, mix).argmax() == expected


def test_the_untaught_one_has_most_of_the_vote_where_it_is_sound():
    home = Dataset(SPACE, np.array([0, 16], np.uint8).repeat(64).reshape(2, 1, 8, 8), np.array([0, 1]))
    bright = np.full((1, 1, 8, 8), 16, np.uint8)
    said = personal_logits(Says(1.0, 0.0, 0.0), Knows(0.0), bright, SPACE, prior=A_AND_B, held_out=home)
    assert said.argmax() == 1
    for brightness, expected in ((10, 1), (8, 0)):  # it says b with .62 and .5
        image = np.full((1, 1, 8, 8), brightness, np.uint8)
        said = personal_logits(Says(9.0, 0.0, 0.0), Knows(0.0), image, SPACE, prior=A_AND_B, held_out=home)
        assert said.argmax() == expected


def test_what_the_untaught_one_does_not_know_does_not_vote_for_classes_that_are_not_there():
    """Of two classes, in doubt between one of them and the third, which it has never seen."""
    untaught = Says(0.0, -4.0, 1.0)
    assert asked(Says(-1.0, 1.0, 0.0), untaught, [1, 1])[2] < 0.01


def test_a_device_that_nobody_taught_says_what_it_says():
    alone = Says(0.5, -0.5, 0.0)
    said = personal_logits(alone, alone, IMAGES, SPACE, prior=A_AND_B, held_out=None)
    assert (said == np.array([0.5, -0.5, 0.0], np.float32)).all()


@given(LOGITS, LOGITS, st.floats(0.01, 0.99), arrays(np.float64, 3, elements=st.floats(0, 1)))
def test_the_pool_is_a_distribution_between_all_posteriors(first, second, share, prior):
    pool = np.exp(with_prior(pooled([first, second], [share, 1 - share], prior), prior))
    np.testing.assert_allclose(pool.sum(axis=1), 1, atol=1e-4)
    posteriors = [
        np.exp(x - x.max(axis=1, keepdims=True)) for x in (with_prior(first, prior), with_prior(second, prior))
    ]
    posteriors = [x / x.sum(axis=1, keepdims=True) for x in posteriors]
    np.testing.assert_allclose(pool, share * posteriors[0] + (1 - share) * posteriors[1], atol=1e-4)
