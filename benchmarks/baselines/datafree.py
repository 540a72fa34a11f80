"""One-shot federated learning without any data: DENSE and Co-Boosting.

Both train a generator against the ensemble of the clients' classifiers, sent once, and distil the
ensemble into one model on what it draws. As in both papers' own code, the generator's best batch of an epoch
joins a pool, and distillation passes over the whole pool.

DENSE (Zhang et al., NeurIPS 2022, arXiv 2112.12371): the generator's samples are to be sure for the
ensemble (cross-entropy), fit its batch-norm statistics, and be disputed by the student.
Co-Boosting (Dai et al., ICLR 2024, arXiv 2402.15070): hard samples count more, are made more diverse by
a small step along a random direction of the ensemble's output, and the members' weights are learned on them.

Our classifiers use group norm. Where ``norm`` is "batch", the clients train the batch-norm twin of the
same model, whose statistics are what DENSE's second term needs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from meshlore.knowledge.models import build_model
from meshlore.knowledge.training import Step, cosine, fit_classifier, no_step
from meshlore.node.effort import default_classifier_steps
from torch import Tensor, nn
from torch.nn import functional as F

from .local import Locals
from .problem import Meter, Problem, Solution, size_bytes


@dataclass(frozen=True)
class DataFreeSettings:
    """Names follow the papers. Epochs and width are less than theirs (200 and 64), for smaller images; in return
    each epoch has more ``passes`` over the pool than their one.

    Attributes:
        generator: starts anew in every epoch, as in the authors' code, or goes on from where it was.
        noise, width: the generator's input, and its channels.
        statistics, dispute: weights of the batch-norm and of the adversarial term of the generator's loss.
        dispute_temperature: of the adversarial term.
        hard: a sample's cross-entropy counts by (1 - its probability) to this power; 0: all alike.
        reach: the step of diversification in each pixel, where the pixel range is 1.
        reweigh: mu, the step of the ensemble's weights; times .99 in each epoch.
        temperature, student_rate: of the distillation; its rate falls along a cosine.
    """

    epochs: int = 30
    passes: int = 4
    generator_steps: int = 20
    batch_size: int = 64
    generator: Literal["anew", "goes on"] = "goes on"
    noise: int = 256
    width: int = 16
    generator_rate: float = 1e-3
    statistics: float = 1.0
    dispute: float = 1.0
    dispute_temperature: float = 1.0
    hard: float = 0.0
    reach: float = 0.0
    reweigh: float = 0.0
    student_rate: float = 0.05
    temperature: float = 4.0
    norm: Literal["group", "batch"] = "group"


DENSE = DataFreeSettings(norm="batch")
CO_BOOSTING = replace(DENSE, statistics=0.0, dispute_temperature=3.0, hard=1.0, reach=8 / 255, reweigh=0.01, passes=1)


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
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, noise: Tensor) -> Tensor:
        drawn = self.body(self.enter(noise).view(len(noise), -1, *self.start))
        return torch.tanh(drawn[..., : self.shape[1], : self.shape[2]])


class Ensemble(nn.Module):
    """Weighted mean logits of frozen members."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(copy.deepcopy(member).eval().requires_grad_(False) for member in members)
        self.weights = torch.full((len(members),), 1 / len(members))
        self.distance = torch.zeros(())

    def watch(self) -> None:
        """Measure from now on, as ``distance``, how far each batch is from the members' batch-norm statistics."""
        for module in self.members.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_pre_hook(self._compare)

    def forward(self, images: Tensor) -> Tensor:
        self.distance = torch.zeros(())
        return self.agree(self.each(images))

    def agree(self, each: Tensor) -> Tensor:
        """(members, n, k) logits -> (n, k)."""
        return torch.einsum("m,mnk->nk", self.weights / self.weights.sum().clamp(min=1e-9), each)

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
        self.space, self.settings, self.seed = problem.space, settings, problem.seed
        self.random = torch.Generator().manual_seed(problem.seed + 31)
        self.ensemble = Ensemble(members)
        if settings.statistics:
            self.ensemble.watch()
        self.student = build_model(problem.model, problem.space, problem.seed + 17)
        if settings.norm == "batch":
            self.student = with_batch_norm(self.student)
        self.drawer = self._fresh_drawer(0)
        self.sgd = torch.optim.SGD(self.student.parameters(), lr=settings.student_rate, momentum=0.9, weight_decay=1e-4)
        self.images = torch.zeros(0, *problem.space.shape)
        self.labels = torch.zeros(0, dtype=torch.int64)
        self.said = torch.zeros(len(members), 0, problem.space.num_classes)
        """What each member says of the pool's images."""

    def learn(self, step: Step) -> nn.Module:
        for epoch in range(self.settings.epochs):
            images, labels = self._draw(epoch)
            with torch.no_grad():
                said = self.ensemble.each(images)
            if self.settings.reweigh and epoch:
                self._reweigh(self.settings.reweigh * 0.99**epoch)
            self.images, self.labels = torch.cat([self.images, images]), torch.cat([self.labels, labels])
            self.said = torch.cat([self.said, said], dim=1)
            rate = cosine(epoch / self.settings.epochs, self.settings.student_rate, floor=0.0)
            self.sgd.param_groups[0]["lr"] = rate
            self._teach()
            step((epoch + 1) / self.settings.epochs)
        return self.student.eval()

    def _draw(self, epoch: int) -> tuple[Tensor, Tensor]:
        """Fit the generator to one batch of noise and labels; the images with the least loss are kept."""
        chosen = self.settings
        if chosen.generator == "anew":
            self.drawer = self._fresh_drawer(epoch)
        noise = torch.randn(chosen.batch_size, chosen.noise, generator=self.random).requires_grad_()
        labels = torch.randint(self.space.num_classes, (chosen.batch_size,), generator=self.random)
        adam = torch.optim.Adam([*self.drawer.parameters(), noise], lr=chosen.generator_rate, betas=(0.5, 0.999))
        best, least = torch.zeros(0), math.inf
        self.student.eval()
        for _ in range(chosen.generator_steps):
            images = self.drawer(noise)
            loss = self._generator_loss(images, labels)
            if float(loss.detach()) < least or not len(best):
                best, least = images.detach(), float(loss.detach())
            adam.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.drawer.parameters(), 10.0)
            adam.step()
        return best, labels

    def _fresh_drawer(self, epoch: int) -> Drawer:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed * 1009 + epoch)
            return Drawer(self.space.shape, self.settings.noise, self.settings.width)

    def _generator_loss(self, images: Tensor, labels: Tensor) -> Tensor:
        chosen = self.settings
        said, doubted = self.ensemble(images), self.student(images)
        sure = F.cross_entropy(said, labels, reduction="none")
        apart = divergence(doubted, said, chosen.dispute_temperature)
        if chosen.hard:
            surety = said.detach().softmax(dim=1).gather(1, labels[:, None])[:, 0]
            sure = sure * (1 - surety) ** chosen.hard
        else:
            apart = apart * (said.argmax(dim=1) != doubted.argmax(dim=1))
        return sure.mean() + chosen.statistics * self.ensemble.distance - chosen.dispute * apart.mean()

    def _diversify(self, images: Tensor) -> Tensor:
        """A step in each pixel along a random direction of the ensemble's softened output."""
        moved = images.clone().requires_grad_()
        direction = torch.rand(len(images), self.space.num_classes, generator=self.random) * 2 - 1
        (gradient,) = torch.autograd.grad((self.ensemble(moved) / 4).softmax(dim=1).mul(direction).sum(), moved)
        # images span [-1, 1]
        return (moved.detach() + 2 * self.settings.reach * gradient.sign()).clamp(-1, 1)

    def _reweigh(self, length: float) -> None:
        """For each batch of the pool, a sign step of the members' weights down the ensemble's loss."""
        for batch in self._batches():
            weights = self.ensemble.weights.requires_grad_()
            loss = F.cross_entropy(self.ensemble.agree(self.said[:, batch]), self.labels[batch])
            (gradient,) = torch.autograd.grad(loss, weights)
            self.ensemble.weights = (weights.detach() - length * gradient.sign()).clamp(0, 1)

    def _teach(self) -> None:
        chosen = self.settings
        self.student.train()
        for batch in (batch for _ in range(chosen.passes) for batch in self._batches()):
            images = self._diversify(self.images[batch]) if chosen.reach else self.images[batch]
            with torch.no_grad():
                each = self.ensemble.each(images) if chosen.reach else self.said[:, batch]
                wanted = self.ensemble.agree(each)
            loss = divergence(self.student(images), wanted, chosen.temperature).mean()
            self.sgd.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.student.parameters(), 10.0)
            self.sgd.step()

    def _batches(self) -> Sequence[Tensor]:
        return torch.randperm(len(self.images), generator=self.random).split(self.settings.batch_size)


def divergence(said: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """KL divergence of softened logits (n, k) from wanted ones, times the squared temperature: (n,)."""
    known, taught = (said / temperature).log_softmax(dim=1), (wanted / temperature).softmax(dim=1)
    return F.kl_div(known, taught, reduction="none").sum(dim=1) * temperature**2


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
