"""One-shot federated learning without any data: DENSE and Co-Boosting.

Both train a generator against the ensemble of the clients' classifiers, sent once, and distil the
ensemble into one model on what it draws.

DENSE (Zhang et al., NeurIPS 2022, arXiv 2112.12371): the generator's samples are to be sure for the
ensemble (cross-entropy), fit its batch-norm statistics, and be disputed by the student.
Co-Boosting (Dai et al., ICLR 2024, arXiv 2402.15070): hard samples count more, are made more diverse by
a small step along a random direction of the ensemble's output, and the members' weights are learned on them.

Our classifiers use group norm. Where ``norm`` is "batch", the clients train the batch-norm twin of the
same model, as both papers' authors do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from meshlore.knowledge.models import build_model
from meshlore.knowledge.training import Step, fit_classifier, no_step
from meshlore.node.learner import default_classifier_steps
from torch import Tensor, nn
from torch.nn import functional as F

from .local import Locals
from .problem import Meter, Problem, Solution, size_bytes


@dataclass(frozen=True)
class DataFreeSettings:
    """Names follow the papers.

    Attributes:
        noise, width: the generator's input, and its channels (64 in the papers, for larger images).
        statistics, dispute: weights of the batch-norm and of the adversarial term of the generator's loss.
        hard: above 0, the ensemble's loss counts by the difficulty of the sample.
        reach: the step of diversification, in units of the pixel range.
        reweigh: mu, the step of the ensemble's weights.
    """

    epochs: int = 60
    generator_steps: int = 20
    batch_size: int = 64
    noise: int = 100
    width: int = 32
    generator_rate: float = 1e-3
    statistics: float = 1.0
    dispute: float = 1.0
    hard: float = 0.0
    reach: float = 0.0
    reweigh: float = 0.0
    student_steps: int = 30
    student_rate: float = 0.05
    temperature: float = 4.0
    norm: Literal["group", "batch"] = "group"


DENSE = DataFreeSettings()
CO_BOOSTING = replace(DENSE, hard=1.0, reach=8 / 255, reweigh=0.1, statistics=0.0)


class Drawer(nn.Module):
    """The papers' generator: (n, noise) -> images (n, c, h, w) in [-1, 1]; two doublings of a quarter-size map."""

    def __init__(self, shape: tuple[int, int, int], noise: int, width: int) -> None:
        super().__init__()
        self.shape, self.start = shape, (math.ceil(shape[1] / 4), math.ceil(shape[2] / 4))
        self.width = width
        self.enter = nn.Linear(noise, 2 * width * self.start[0] * self.start[1])
        self.body = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, shape[0], 3, padding=1),
        )

    def forward(self, noise: Tensor) -> Tensor:
        drawn = self.body(self.enter(noise).view(len(noise), -1, *self.start))
        return torch.tanh(drawn[..., : self.shape[1], : self.shape[2]])


class Ensemble(nn.Module):
    """Weighted mean logits of frozen members; remembers how far batches are from their batch-norm statistics."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(member).eval().requires_grad_(False) for member in members)
        self.weights = torch.full((len(members),), 1 / len(members))
        self.distance = torch.zeros(())
        for module in self.members.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(self._compare)

    def forward(self, images: Tensor) -> Tensor:
        self.distance = torch.zeros(())
        return torch.einsum("m,mnk->nk", self.weights, self.each(images))

    def each(self, images: Tensor) -> Tensor:
        """(members, n, k)."""
        return torch.stack([member(images) for member in self.members])

    def _compare(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        mean, variance = inputs[0].mean(dim=(0, 2, 3)), inputs[0].var(dim=(0, 2, 3), unbiased=False)
        off = (mean - module.running_mean).norm() + (variance - module.running_var).norm()
        self.distance = self.distance + off / len(self.members)


def one_shot(problem: Problem, local: Locals, settings: DataFreeSettings, *, step: Step = no_step) -> Solution:
    """Distil the ensemble of the clients' classifiers into one, which every client gets back."""
    meter = Meter()
    members = local.models
    client_cpu_s = local.cpu_s
    if settings.norm == "batch":
        with meter("client"):
            members = [_batch_norm_twin(problem, number) for number in range(len(problem.clients))]
        client_cpu_s = meter.seconds["client"] / len(members)
    with meter("server"):
        student = _Server(problem, members, settings).learn(step)
    sent = size_bytes(student)
    return Solution(
        [problem.answer(student)] * len(members),
        bytes_up=sent,
        bytes_down=sent,
        client_cpu_s=client_cpu_s,
        server_cpu_s=meter.seconds["server"],
    )


class _Server:
    def __init__(self, problem: Problem, members: Sequence[nn.Module], settings: DataFreeSettings) -> None:
        self.space, self.settings = problem.space, settings
        self.random = torch.Generator().manual_seed(problem.seed + 31)
        self.ensemble = Ensemble(members)
        self.student = build_model(problem.model, problem.space, problem.seed + 17)
        if settings.norm == "batch":
            self.student = with_batch_norm(self.student)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(problem.seed)
            self.drawer = Drawer(problem.space.shape, settings.noise, settings.width)
        self.sgd = torch.optim.SGD(self.student.parameters(), lr=settings.student_rate, momentum=0.9)
        self.pool: list[tuple[Tensor, Tensor]] = []

    def learn(self, step: Step) -> nn.Module:
        for epoch in range(self.settings.epochs):
            images, labels = self._draw()
            self.pool.append((images, labels))
            if self.settings.reweigh:
                self._reweigh(self._diversify(images), labels)
            self._teach()
            step((epoch + 1) / self.settings.epochs)
        return self.student.eval()

    def _draw(self) -> tuple[Tensor, Tensor]:
        """Fit the generator to one batch of noise and labels; the batch with the least loss is kept."""
        chosen = self.settings
        noise = torch.randn(chosen.batch_size, chosen.noise, generator=self.random).requires_grad_()
        labels = torch.randint(self.space.num_classes, (chosen.batch_size,), generator=self.random)
        adam = torch.optim.Adam([*self.drawer.parameters(), noise], lr=chosen.generator_rate, betas=(0.5, 0.999))
        best, least = torch.zeros(0), math.inf
        self.drawer.train()
        self.student.eval()
        for _ in range(chosen.generator_steps):
            images = self.drawer(noise)
            said, doubted = self.ensemble(images), self.student(images)
            loss = F.cross_entropy(said, labels, reduction="none")
            if chosen.hard:
                surety = said.detach().softmax(dim=1).gather(1, labels[:, None])[:, 0]
                loss = loss * (1 - surety)
            disputed = (said.argmax(dim=1) != doubted.argmax(dim=1)).float() if not chosen.hard else 1.0
            apart = F.kl_div(doubted.log_softmax(dim=1), said.softmax(dim=1), reduction="none").sum(dim=1)
            total = (
                loss.mean() + chosen.statistics * self.ensemble.distance - chosen.dispute * (apart * disputed).mean()
            )
            if float(total.detach()) < least or not len(best):
                best, least = images.detach(), float(total.detach())
            adam.zero_grad(set_to_none=True)
            total.backward()
            adam.step()
        return best, labels

    def _diversify(self, images: Tensor) -> Tensor:
        """A step of length ``reach`` per pixel (root mean square) along a random direction of the ensemble's output."""
        if not self.settings.reach:
            return images
        moved = images.clone().requires_grad_()
        direction = torch.rand(len(images), self.space.num_classes, generator=self.random) * 2 - 1
        (gradient,) = torch.autograd.grad((self.ensemble(moved) * direction).sum(), moved)
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
        # images span [-1, 1] where the paper's span [0, 1]
        reach = 2 * self.settings.reach * math.sqrt(images[0].numel())
        return (moved.detach() + reach * gradient / length).clamp(-1, 1)

    def _reweigh(self, images: Tensor, labels: Tensor) -> None:
        """One sign step of the members' weights down the ensemble's loss on hard samples."""
        with torch.no_grad():
            each = self.ensemble.each(images)
        weights = self.ensemble.weights.clone().requires_grad_()
        loss = F.cross_entropy(torch.einsum("m,mnk->nk", weights, each), labels)
        (gradient,) = torch.autograd.grad(loss, weights)
        moved = self.ensemble.weights - self.settings.reweigh / len(weights) * gradient.sign()
        moved = moved.clamp(min=0)
        self.ensemble.weights = moved / moved.sum().clamp(min=1e-9)

    def _teach(self) -> None:
        chosen = self.settings
        self.student.train()
        for _ in range(chosen.student_steps):
            images, _ = self.pool[int(torch.randint(len(self.pool), (), generator=self.random))]
            images = self._diversify(images)
            with torch.no_grad():
                wanted = (self.ensemble(images) / chosen.temperature).softmax(dim=1)
            said = (self.student(images) / chosen.temperature).log_softmax(dim=1)
            loss = F.kl_div(said, wanted, reduction="batchmean") * chosen.temperature**2
            self.sgd.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 10.0)
            self.sgd.step()


def with_batch_norm(model: nn.Module) -> nn.Module:
    """The same model with every group norm replaced by batch norm."""
    twin = copy.deepcopy(model)
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(module, name, nn.BatchNorm2d(child.num_channels))
    return twin


def _batch_norm_twin(problem: Problem, number: int) -> nn.Module:
    seed = problem.seed * 1000 + number
    twin = with_batch_norm(build_model(problem.model, problem.space, seed))
    steps = default_classifier_steps(problem.space)
    return fit_classifier(twin, problem.clients[number], steps=steps, seed=seed)
