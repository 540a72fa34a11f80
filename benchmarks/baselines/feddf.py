"""FedDF: ensemble distillation for robust model fusion (Lin et al., NeurIPS 2020, arXiv 2006.07242).

Each round the average of the clients' models is distilled at the server towards the softmax of the
clients' mean logits, on unlabelled public samples. Here these are real samples of the same data set,
held apart from all clients: more than the paper asks for, and more than most meshes have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from meshlore.knowledge.models import to_tensor
from meshlore.knowledge.training import Step, cosine, no_step
from torch import nn
from torch.nn import functional as F

from .averaging import AveragingSettings, federate
from .problem import Problem, Solution


@dataclass(frozen=True)
class FedDFSettings:
    """The paper's local SGD and server Adam; ``steps`` of distillation in each round, with a cosine schedule."""

    local: AveragingSettings = field(default_factory=lambda: AveragingSettings(rounds=20, local_epochs=10))
    steps: int = 200
    batch_size: int = 64
    learning_rate: float = 1e-3


def feddf(problem: Problem, settings: FedDFSettings | None = None, *, step: Step = no_step) -> Solution:
    chosen = settings or FedDFSettings()
    public = to_tensor(problem.public, problem.space)

    def fuse(averaged: nn.Module, clients: Sequence[nn.Module], turn: int) -> nn.Module:
        random = torch.Generator().manual_seed(problem.seed * 1009 + turn)
        with torch.no_grad():
            said = torch.stack([_batched(client, public) for client in clients]).mean(dim=0)
        return distil_towards(averaged, public, said, chosen, random)

    return federate(problem, chosen.local, fuse=fuse, step=step)


def distil_towards(
    student: nn.Module, images: torch.Tensor, said: torch.Tensor, settings: FedDFSettings, random: torch.Generator
) -> nn.Module:
    """Move ``student`` (in place) towards teachers' logits ``said`` (n, k) about ``images``."""
    wanted = torch.softmax(said, dim=1)
    adam = torch.optim.Adam(student.parameters(), lr=settings.learning_rate)
    student.train()
    for turn in range(settings.steps):
        adam.param_groups[0]["lr"] = cosine(turn / settings.steps, settings.learning_rate, floor=0.0)
        batch = torch.randint(len(images), (settings.batch_size,), generator=random)
        loss = F.kl_div(F.log_softmax(student(images[batch]), dim=1), wanted[batch], reduction="batchmean")
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return student.eval()


def _batched(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([model(part) for part in images.split(500)])
