"""A classifier that learns of another class: the same weights, and a wider last layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .models import build_model
from .space import Space

BELOW_AVERAGE = 1.0  # how far a class not learned yet stays below the mean logit


def grown_classifier(model: nn.Module, name: str, old: Space, new: Space, seed: int) -> nn.Module | None:
    """A model for ``new``, which has classes behind those of ``old``, with the weights of ``model``.

    It answers as before: a class added gets the mean of the old logits, less one, and so is never the largest,
    until it is learned. Weights are found by name; those with one row per class grow.

    Args:
        name: what `build_model` makes the model from.

    Returns:
        the model in evaluation mode; None when one's own model has weights that cannot be carried over, so that
        it must be trained anew.

    Raises:
        ModelError: as `build_model` does.
    """
    wider, weights = build_model(name, new, seed), model.state_dict()
    state = wider.state_dict()
    if state.keys() != weights.keys():
        return None
    for key, fresh in state.items():
        known = weights[key]
        if known.shape == fresh.shape:
            state[key] = known
        elif known.shape[:1] == (old.num_classes,) and fresh.shape == (new.num_classes, *known.shape[1:]):
            state[key] = _with_rows(known, new.num_classes)
        else:
            return None
    wider.load_state_dict(state)
    return wider.eval()


def _with_rows(weights: Tensor, classes: int) -> Tensor:
    mean = weights.mean(dim=0, keepdim=True)
    if weights.ndim == 1:
        mean = mean - BELOW_AVERAGE
    return torch.cat([weights, mean.expand(classes - len(weights), *weights.shape[1:])])
