"""Federated averaging: FedAvg (McMahan et al., 2017, arXiv 1602.05629) and FedProx (Li et al., 2020,
arXiv 1812.06127), whose clients are held near the common model by mu / 2 * ||w - w_common||^2.

All clients take part in every round, weighted by their samples. Plain SGD, as in both papers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import to_tensor
from meshlore.knowledge.training import Step, no_step, shift
from torch import nn
from torch.nn import functional as F

from .problem import Meter, Moment, Problem, Solution, average, size_bytes


@dataclass(frozen=True)
class AveragingSettings:
    """``proximal`` is FedProx's mu, 0 for FedAvg; ``shift_px``: samples are moved at random by up to this."""

    rounds: int = 60
    local_epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.1
    proximal: float = 0.0
    shift_px: int = 0


Fuse = Callable[[nn.Module, Sequence[nn.Module], int], nn.Module]
"""(common model, clients' models, round) -> the next common model; FedDF puts a distillation here."""


def federate(
    problem: Problem, settings: AveragingSettings, *, fuse: Fuse | None = None, step: Step = no_step
) -> Solution:
    """Run all rounds; ``fuse`` works on the average of the clients' models, at the server."""
    meter, common = Meter(), problem.fresh()
    moved, curve = 0, []
    for turn in range(settings.rounds):
        clients = []
        for number, private in enumerate(problem.clients):
            with meter("client"):
                random = torch.Generator().manual_seed(problem.seed * 100_003 + turn * 101 + number)
                clients.append(train_locally(common, private, settings, random))
        with meter("server"):
            averaged = copy.deepcopy(common)
            averaged.load_state_dict(average(clients, [len(private) for private in problem.clients]))
            common = averaged if fuse is None else fuse(averaged, clients, turn)
        moved += 2 * size_bytes(common)
        if (turn + 1) % max(1, settings.rounds // 12) == 0 or turn + 1 == settings.rounds:
            accuracy = metrics.global_accuracy(problem.answer(common), problem.test.labels)
            spent = meter.seconds["client"] / len(problem.clients)
            curve.append(Moment(moved, spent, accuracy))
        step((turn + 1) / settings.rounds)
    said = problem.answer(common)
    return Solution(
        [said] * len(problem.clients),
        bytes_up=moved // 2,
        bytes_down=moved // 2,
        client_cpu_s=meter.seconds["client"] / len(problem.clients),
        server_cpu_s=meter.seconds["server"],
        curve=curve,
    )


def train_locally(
    common: nn.Module, private: Dataset, settings: AveragingSettings, random: torch.Generator
) -> nn.Module:
    """A client's copy of the common model after its epochs."""
    model = copy.deepcopy(common).train()
    weights, anchors = list(model.parameters()), [weight.detach().clone() for weight in common.parameters()]
    images, labels = to_tensor(private.images, private.space), torch.from_numpy(private.labels)
    sgd = torch.optim.SGD(weights, lr=settings.learning_rate)
    for _ in range(settings.local_epochs):
        for batch in torch.randperm(len(labels), generator=random).split(settings.batch_size):
            seen = shift(images[batch], settings.shift_px, random)
            loss = F.cross_entropy(model(seen), labels[batch])
            sgd.zero_grad(set_to_none=True)
            loss.backward()
            if settings.proximal:
                for weight, anchor in zip(weights, anchors, strict=True):
                    if weight.grad is not None:
                        weight.grad.add_(weight.detach() - anchor, alpha=settings.proximal)
            nn.utils.clip_grad_norm_(weights, 10.0)
            sgd.step()
    return model.eval()
