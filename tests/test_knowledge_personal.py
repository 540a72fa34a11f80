"""The personal head: what the mesh taught and, where it is sound, what the private data taught."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.personal import mixed, personal_logits
from meshlore.knowledge.space import Space

SPACE = Space((1, 8, 8), ("a", "b"), levels=17)
IMAGES = np.zeros((3, 1, 8, 8), np.uint8)
LOGITS = arrays(np.float32, (4, 3), elements=st.floats(-50, 50, width=32))


class Says(torch.nn.Module):
    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def asked(taught: Says, untaught: Says, held_out: list[int], mix: tuple[float, float] = (0.5, 0.5)) -> np.ndarray:
    """What is said of samples by a device whose private samples of the labels ``held_out`` nobody trained on."""
    home = Dataset(SPACE, np.zeros((len(held_out), 1, 8, 8), np.uint8), np.array(held_out, np.int64))
    return personal_logits(taught, untaught, IMAGES, SPACE, prior=np.array(mix), held_out=home).argmax(axis=1)


def test_both_are_asked_where_the_untaught_one_is_sound_and_who_is_sure_outvotes_who_is_not():
    unsure, sure = Says(0.2, 0.0), Says(0.0, 4.0)
    assert (asked(unsure, sure, [1, 1], mix=(0, 1)) == 1).all()
    assert (asked(sure, unsure, [0, 0], mix=(1, 0)) == 1).all()


@pytest.mark.parametrize(("held_out", "mix"), [([1, 0], (0.5, 0.5)), ([1, 1], (0.5, 0.5)), ([], (0.5, 0.5))])
def test_an_untaught_one_that_errs_or_was_not_seen_on_all_its_classes_is_not_asked(held_out, mix):
    assert (asked(Says(0.2, 0.0), Says(0.0, 4.0), held_out, mix) == 0).all()


def test_a_device_that_nobody_taught_says_what_it_says():
    alone = Says(0.5, -0.5)
    said = personal_logits(alone, alone, IMAGES, SPACE, prior=np.array([0.5, 0.5]), held_out=None)
    assert (said == np.array([0.5, -0.5], np.float32)).all()


def test_an_expert_is_asked_whatever_it_says_of_what_was_held_out():
    home = Dataset(SPACE, np.zeros((2, 1, 8, 8), np.uint8), np.array([0, 0]))
    unsure, sure = Says(0.2, 0.0), Says(0.0, 4.0)
    said = personal_logits(unsure, sure, IMAGES, SPACE, prior=np.array([0.5, 0.5]), held_out=home, expert=sure)
    assert (said.argmax(axis=1) == 1).all()
    np.testing.assert_allclose(said[0], mixed(*(np.array([x], np.float32) for x in ((0.2, 0), (0, 4))))[0], rtol=1e-5)


@given(LOGITS, LOGITS)
def test_the_mixture_is_a_distribution_between_both(first, second):
    probabilities = np.exp(mixed(first, second).astype(np.float64))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    both = [np.exp(x - x.max(axis=1, keepdims=True)) for x in (first.astype(np.float64), second.astype(np.float64))]
    shares = [x / x.sum(axis=1, keepdims=True) for x in both]
    assert (probabilities <= np.maximum(*shares) + 1e-4).all()
    assert (probabilities >= np.minimum(*shares) - 1e-4).all()
