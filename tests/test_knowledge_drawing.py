"""What is shown of what a generator draws."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from meshlore.knowledge.drawing import DRAWN_PER_SHOWN, NO_DOUBT, draw
from meshlore.knowledge.space import Space

SPACE = Space((1, 8, 8), ("dark", "bright"), levels=17)


class Uneven:
    """Draws samples of any brightness, whatever class is wanted."""

    def sample(self, labels, *, seed):
        shades = np.random.default_rng(seed).integers(0, 17, len(labels)).astype(np.uint8)
        return np.repeat(shades, 64).reshape(-1, 1, 8, 8)


class Brightness(torch.nn.Module):
    """Sure of what is darker or brighter than three quarters; of what is between them less and less."""

    def forward(self, images):
        bright = 8 * images.mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright], dim=1)


def surely(shades: np.ndarray, label: int) -> np.ndarray:
    """What the classifier says for the label, as far as it matters."""
    bright = 16 * (shades / 8 - 1) * (1 if label else -1)
    return np.minimum(1 / (1 + np.exp(-bright)), NO_DOUBT)


@given(st.lists(st.integers(0, 1), max_size=12), st.integers(0, 99))
def test_doubtful_samples_are_left_out_and_of_the_others_the_first_are_shown(labels, seed):
    wanted = np.array(labels, np.int64)
    drawn = Uneven().sample(np.repeat(wanted, DRAWN_PER_SHOWN), seed=seed)[:, 0, 0, 0].astype(int)
    shown = draw(Uneven(), Brightness(), wanted, SPACE, seed=seed)
    assert shown.images.shape == (len(wanted), 1, 8, 8)
    shades = shown.images[:, 0, 0, 0].astype(int)
    for label in (0, 1):
        pool, count = drawn[np.repeat(wanted, DRAWN_PER_SHOWN) == label], int((wanted == label).sum())
        first = np.sort(np.argsort(-surely(pool, label), kind="stable")[:count])
        assert shades[wanted == label].tolist() == pool[first].tolist()
    np.testing.assert_array_equal(shown.taken[shades != 8], ((shades > 8) == wanted)[shades != 8])
    np.testing.assert_array_equal(shown.images, draw(Uneven(), Brightness(), wanted, SPACE, seed=seed).images)
