"""Gradients in parts and drawings in shards come to the same as whole ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from meshlore.knowledge.device import CPU
from meshlore.knowledge.distil import DistilLoss, DistilSettings, distil
from meshlore.knowledge.executor import DRAWN_PER_SHARD, IN_PROCESS, Elsewhere, InProcess, Loss, average, split
from meshlore.knowledge.flow import FlowSettings
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.generators import Flows
from meshlore.knowledge.lessons import Lessons
from meshlore.knowledge.models import build_model
from meshlore.knowledge.sources import load
from meshlore.knowledge.training import no_step
from torch import Tensor, nn

DIGITS = load("digits").dataset.subset(np.arange(60))


class InParts(InProcess):
    """An executor that computes each batch in three parts, each by a copy of the model."""

    def gradient(self, model: nn.Module, loss: Loss, batch: Sequence[Tensor]) -> None:
        found, parts = [], split(batch, 3)
        for part in parts:
            super().gradient(model, loss, part)
            found.append([weight.grad for weight in model.parameters()])
        for weight, gradient in zip(model.parameters(), average(found, [len(part[0]) for part in parts]), strict=True):
            weight.grad = gradient


def lessons() -> Lessons:
    random = torch.Generator().manual_seed(3)
    images = torch.rand((40, 1, 8, 8), generator=random) * 2 - 1
    labels = torch.arange(40) % DIGITS.space.num_classes
    return Lessons(images, labels, torch.ones(40), DIGITS.space.num_classes, ())


@pytest.mark.parametrize("samples", [1, 2, 7, 30])
def test_the_parts_of_a_batch_have_its_gradient(samples: int) -> None:
    model = build_model("mlp", DIGITS.space, 0)
    random = torch.Generator().manual_seed(1)
    soft = torch.softmax(torch.randn((samples, 10), generator=random), dim=1)
    batch = (
        torch.randn((samples, 1, 8, 8), generator=random),
        torch.arange(samples) % 10,
        soft,
        torch.full((samples,), 0.4),
    )
    loss = DistilLoss(torch.zeros(10), 2.0, answered=True)
    IN_PROCESS.gradient(model, loss, batch)
    whole = [weight.grad.clone() for weight in model.parameters()]
    InParts().gradient(model, loss, batch)
    for weight, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-4)


def test_a_parameter_without_a_gradient_stays_without() -> None:
    assert average([[None, torch.ones(2)], [None, 3 * torch.ones(2)]], [1, 3])[0] is None
    torch.testing.assert_close(average([[torch.ones(2)], [3 * torch.ones(2)]], [1, 3])[0], torch.full((2,), 2.5))


def test_a_generator_trained_in_parts_is_the_same() -> None:
    whole, parts = (
        fit_generator(DIGITS.images, DIGITS.labels, DIGITS.space, steps=4, seed=2, executor=executor)
        for executor in (IN_PROCESS, InParts())
    )
    for name, tensor in whole.state().items():
        torch.testing.assert_close(parts.state()[name], tensor, atol=1e-4, rtol=1e-3)


def test_what_is_drawn_elsewhere_is_what_would_be_drawn_here() -> None:
    kind = Elsewhere(Flows(FlowSettings(), CPU), IN_PROCESS)
    images, labels = DIGITS.images, DIGITS.labels
    weights = np.ones(len(labels), np.float32)
    drawing = kind.fit(images, labels, weights, DIGITS.space, None, steps=2, seed=1, step=no_step, checkpoint=None)
    few = np.arange(20) % 10
    np.testing.assert_array_equal(drawing.sample(few, seed=5), drawing.generator.sample(few, seed=5))
    many = np.arange(DRAWN_PER_SHARD + 3) % 10
    drawn = drawing.sample(many, seed=5)
    assert drawn.shape == (len(many), 1, 8, 8)
    np.testing.assert_array_equal(drawn, drawing.sample(many, seed=5))
    back = kind.restore(drawing.state(), DIGITS.space)
    assert back is not None
    np.testing.assert_array_equal(back.sample(few, seed=5), drawing.sample(few, seed=5))
    assert drawing.sample(few[:0], seed=1).shape == (0, 1, 8, 8)


def test_distillation_in_parts_ends_at_the_same_student() -> None:
    settings = DistilSettings(steps=5, private_batch=8, lesson_batch=16)
    model = build_model("mlp", DIGITS.space, 0)
    whole, parts = (
        distil(model, DIGITS, lessons(), settings=settings, seed=4, executor=executor)
        for executor in (IN_PROCESS, InParts())
    )
    for ours, theirs in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)
