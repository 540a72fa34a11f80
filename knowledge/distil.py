"""Distillation: a student learns from its own data and from what others condensed.

The student replays private samples beside class-balanced synthetic ones; logit adjustment (Menon et
al., ICLR 2021) keeps the answer balanced over classes although the private part is not. Soft targets
are matched at a temperature (Hinton et al., arXiv 1503.02531).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .augment import Views, own_views
from .data import Dataset
from .device import CPU
from .executor import IN_PROCESS, Executor
from .lessons import Lessons
from .models import to_tensor
from .training import Step, cosine, no_step


@dataclass(frozen=True)
class DistilSettings:
    """One turn of distillation.

    ``soft_share`` is the part of a sample's loss that matches its soft targets, where it has any.
    """

    steps: int = 180
    private_batch: int = 32
    lesson_batch: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-3
    soft_share: float = 0.5
    temperature: float = 2.0
    views: Views | None = None

    @classmethod
    def for_anchor(cls) -> DistilSettings:
        """For who has no private data: larger batches of lessons alone, seen in random views."""
        return cls(steps=240, private_batch=0, lesson_batch=96, learning_rate=3e-3, views=Views(shift=0.1))

    def for_many_pixels(self) -> DistilSettings:
        """For samples of 16 pixels a side or more: longer, and mostly from the answers of all about many views of
        each sample. These already are the augmentation; a view of a view has no answer of its own."""
        few = self.private_batch // 2
        return replace(
            self,
            steps=2 * self.steps,
            private_batch=few,
            lesson_batch=128,
            learning_rate=2e-3,
            soft_share=0.8,
            views=None,
        )

    def for_teaching(self) -> DistilSettings:
        """For who will tell others what it knows then: most of it from its private data."""
        return replace(self, private_batch=128, lesson_batch=64) if self.private_batch else self

    def for_listening(self) -> DistilSettings:
        """For who has told all it knows and keeps what it was (`meshlore.node.skills.Skills.expert`): nearly all from
        others."""
        return replace(self, private_batch=min(2, self.private_batch))

    def twice_as_long(self) -> DistilSettings:
        """For lessons with more to learn: many have answered them, or no others follow."""
        return replace(self, steps=2 * self.steps)


def distil(
    model: nn.Module,
    private: Dataset | None,
    lessons: Lessons,
    *,
    settings: DistilSettings | None = None,
    seed: int,
    step: Step = no_step,
    device: torch.device = CPU,
    executor: Executor = IN_PROCESS,
) -> nn.Module:
    """A student that starts from ``model`` (left untouched) and learns from ``private`` and ``lessons``.

    Args:
        device: where it learns; what comes back is on the CPU.
        executor: who computes the gradients.

    Returns:
        the student in evaluation mode; an unchanged copy when there is nothing to learn from.
    """
    settings = settings or (DistilSettings() if private is not None else DistilSettings.for_anchor())
    student = copy.deepcopy(model).to(device)
    if len(lessons) == 0 or not bool((lessons.weights > 0).any()):
        return student.cpu().eval()
    random = torch.Generator().manual_seed(seed)
    pool, labels, chosen, adjustment = (part.to(device) for part in _material(private, lessons, settings, random))
    own = len(pool) - len(lessons)
    classes = lessons.classes
    soft = torch.cat([torch.zeros(own, classes), lessons.targets(settings.temperature)]).to(device)
    weights = [weight for weight in student.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(weights, lr=0.0, weight_decay=settings.weight_decay, fused=True)
    # where a sample has soft targets, they take their share of its loss
    answered = soft.sum(dim=1) * settings.soft_share
    loss = DistilLoss(adjustment, settings.temperature, answered=bool((answered > 0).any()))
    student.train()
    for turn in range(settings.steps):
        warm = min(1.0, (turn + 1) / 10)
        adam.param_groups[0]["lr"] = warm * cosine(turn / settings.steps, settings.learning_rate, floor=0.03)
        batch = chosen[turn]
        images = pool[batch] if settings.views is None else own_views(pool[batch], settings.views, random)
        executor.gradient(student, loss, (images, labels[batch], soft[batch], answered[batch]))
        nn.utils.clip_grad_norm_(weights, 1.0)  # soft targets come from others: no single batch may run away
        adam.step()
        step((turn + 1) / settings.steps)
    return student.cpu().eval()


@dataclass(frozen=True)
class DistilLoss:
    """Cross-entropy with the labels, and where a sample has soft targets, their divergence in its place.

    Takes images (n, c, h, w), labels (n,), soft targets (n, k) and the share (n,) of these in the loss.
    """

    adjustment: Tensor
    temperature: float
    answered: bool

    def __call__(self, model: nn.Module, *batch: Tensor) -> Tensor:
        images, labels, soft, share = batch
        logits = model(images)
        hard = F.cross_entropy(logits + self.adjustment, labels, reduction="none")
        loss = (hard * (1 - share)).mean()
        if self.answered:
            said = F.log_softmax(logits / self.temperature, dim=-1)
            divergence = F.kl_div(said, soft, reduction="none").sum(dim=1)
            loss = loss + (divergence * share).mean() * self.temperature**2
        return loss


def _material(
    private: Dataset | None, lessons: Lessons, settings: DistilSettings, random: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """All images (private first), their labels, the batches (steps, batch) and the logit adjustment (k,)."""
    classes = lessons.classes
    mass = torch.zeros(classes).index_add(0, lessons.labels, lessons.weights)
    chance = lessons.weights / mass.clamp(min=1e-6)[lessons.labels]
    batches = torch.multinomial(
        chance, settings.steps * settings.lesson_batch, replacement=True, generator=random
    ).view(settings.steps, -1)
    present = (mass > 0).float()
    mix = settings.lesson_batch * present / present.sum()
    pool, labels = lessons.images, lessons.labels
    if private is not None and len(private) and settings.private_batch:
        own = torch.from_numpy(private.labels)
        pool = torch.cat([to_tensor(private.images, private.space), pool])
        labels = torch.cat([own, labels])
        replay = torch.randint(len(own), (settings.steps, settings.private_batch), generator=random)
        batches = torch.cat([replay, batches + len(own)], dim=1)
        mix = mix + settings.private_batch * torch.bincount(own, minlength=classes) / len(own)
    adjustment = torch.log(mix / mix.sum() + 1e-3) + math.log(classes)
    return pool, labels, batches, adjustment
