"""A class-conditional generator small enough for a phone: rectified flow over principal components, or over pixels.

A network learns the velocity from noise to image codes (Liu et al., ICLR 2023), with classifier-free
guidance (arXiv 2207.12598); diffusers' flow-matching Euler scheduler integrates it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import ModelError
from .device import CPU
from .executor import IN_PROCESS, Executor
from .flow import Codec, FlowSettings, Velocity, build_velocity, from_diffusers
from .models import to_images, to_tensor
from .resuming import Checkpoint, Optimisation, turns
from .space import Space
from .training import Step, cosine, no_step

DRAWN_AT_ONCE = 512


class FlowGenerator:
    """Draws images of a class. Made by `fit`; saved as `state`, a flat map of tensors.

    Classes that it never saw are drawn as "any class that it knows": honest nonsense, never a crash.
    """

    def __init__(self, space: Space, settings: FlowSettings, net: Velocity, codec: Codec, seen: Tensor) -> None:
        self.space = space
        self.settings = settings
        self.net = net
        self.codec = codec
        self.seen = seen

    @torch.no_grad()
    def sample(self, labels: np.ndarray, *, seed: int, steps: int = 8, guidance: float = 2.0) -> np.ndarray:
        """Draw one image per label.

        Args:
            labels: int64 (n,), each in 0..k-1.
            steps: Euler steps; guidance: 1 is none, larger is more typical of the class.

        Returns:
            uint8 (n, c, h, w) in 0..levels-1. Deterministic given the seed.
        """
        random = torch.Generator().manual_seed(seed)
        anything = len(self.space.classes)
        wanted = torch.from_numpy(np.ascontiguousarray(labels)).long()
        wanted = torch.where(self.seen[wanted], wanted, torch.tensor(anything))
        parts = [wanted[at : at + DRAWN_AT_ONCE] for at in range(0, len(wanted), DRAWN_AT_ONCE)]
        drawn = [self._draw(part, steps, guidance, random) for part in parts]
        if not drawn:
            return np.zeros((0, *self.space.shape), np.uint8)
        return to_images(torch.cat(drawn).view(-1, *self.space.shape), self.space)

    def _draw(self, labels: Tensor, steps: int, guidance: float, random: torch.Generator) -> Tensor:
        anything = torch.full_like(labels, len(self.space.classes))
        scheduler = from_diffusers("FlowMatchEulerDiscreteScheduler")(num_train_timesteps=1000, shift=1.0)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps).tolist())
        codes = torch.randn(len(labels), len(self.codec), generator=random)
        for moment in scheduler.timesteps:
            time = torch.full((2 * len(labels),), float(moment) / 1000)
            both = self.net(torch.cat([codes, codes]), time, torch.cat([labels, anything]))
            aimed, free = both.chunk(2)
            codes = scheduler.step(free + guidance * (aimed - free), moment, codes).prev_sample
        return self.codec.decode(codes)

    def state(self) -> dict[str, Tensor]:
        """Everything that `from_state` needs, fit for safetensors."""
        tensors = {f"net.{name}": value.clone() for name, value in self.net.state_dict().items()}
        if self.codec.directions is not None:
            tensors["codec.directions"] = self.codec.directions.clone()
        return tensors | {
            "codec.mean": self.codec.mean.clone(),
            "codec.scale": self.codec.scale.clone(),
            "seen": self.seen.to(torch.uint8),
        }

    def grown(self, space: Space) -> FlowGenerator:
        """The same generator in a space with more classes, none of which it has seen."""
        net = build_velocity(self.codec, space, self.settings)
        state = self.net.state_dict()
        known, anything = state[net.LABELS][:-1], state[net.LABELS][-1:]
        more = space.num_classes - len(known)
        state[net.LABELS] = torch.cat([known, anything.expand(more + 1, -1)])
        net.load_state_dict(state)
        seen = torch.cat([self.seen, torch.zeros(more, dtype=torch.bool)])
        return FlowGenerator(space, self.settings, net.eval(), self.codec, seen)

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], space: Space, settings: FlowSettings | None = None
    ) -> FlowGenerator:
        """Rebuild from `state`.

        Raises:
            ModelError: the tensors are not of such a generator.
        """
        # a network of pixels has no principal components
        settings = settings or FlowSettings.for_space(space, "mlp" if "codec.directions" in state else "unet")
        try:
            codec = Codec(state["codec.mean"], state.get("codec.directions"), state["codec.scale"])
            net = build_velocity(codec, space, settings)
            net.load_state_dict({name[4:]: value for name, value in state.items() if name.startswith("net.")})
            seen = state["seen"].bool()
            if codec.mean.shape != (math.prod(space.shape),) or seen.shape != (len(space.classes),):
                raise ValueError("made for another space")
        except (KeyError, RuntimeError, ValueError, IndexError) as error:
            reason = str(error).splitlines()[0][:100]
            raise ModelError(
                f"the saved generator cannot be read ({reason})", "delete it; it is trained anew"
            ) from None
        return cls(space, settings, net.eval(), codec, seen)


def fit_generator(
    images: np.ndarray,
    labels: np.ndarray,
    space: Space,
    *,
    weights: np.ndarray | None = None,
    settings: FlowSettings | None = None,
    steps: int = 300,
    seed: int,
    step: Step = no_step,
    checkpoint: Checkpoint | None = None,
    device: torch.device = CPU,
    executor: Executor = IN_PROCESS,
) -> FlowGenerator:
    """Train a generator on own data, or on own data together with received samples.

    It always starts from scratch: continuing an older one, whose components suit fewer classes, was
    measured and is worse at equal cost.

    Args:
        images: uint8 (n, c, h, w), n >= 1; labels int64 (n,); weights float (n,) >= 0, 1 if not given.
        device: where it is trained; it draws on the CPU.
        executor: who computes the gradients.
    """
    settings = settings or FlowSettings.for_space(space)
    random = torch.Generator().manual_seed(seed)
    flat = to_tensor(images, space).flatten(1)
    truth = torch.from_numpy(np.ascontiguousarray(labels)).long()
    trust = torch.ones(len(truth)) if weights is None else torch.from_numpy(np.ascontiguousarray(weights)).float()
    counts = torch.bincount(truth[trust > 0], minlength=len(space.classes))
    chance = trust * counts[truth].clamp(min=1).float() ** -0.5
    codec = Codec.fit(flat, chance, settings)
    codes = codec.encode(flat).to(device)
    net = build_velocity(codec, space, settings, seed).to(device)
    average = _train(net, codes, truth.to(device), chance, settings, steps, random, step, checkpoint, executor)
    return FlowGenerator(space, settings, average.cpu().eval(), codec, counts > 0)


def flow_loss(model: nn.Module, *batch: Tensor) -> Tensor:
    """Of noisy codes (n, d), times (n,), labels (n,) and the velocities (n, d) that are wanted."""
    noisy, time, wanted, velocity = batch
    return F.mse_loss(model(noisy, time, wanted), velocity)


def _train(
    net: Velocity,
    codes: Tensor,
    labels: Tensor,
    chance: Tensor,
    settings: FlowSettings,
    steps: int,
    random: torch.Generator,
    step: Step,
    checkpoint: Checkpoint | None,
    executor: Executor,
) -> Velocity:
    """Flow matching; returns the moving average of the weights, which draws better than the last ones."""
    average = copy.deepcopy(net).requires_grad_(False)
    weights: list[Tensor] = list(net.parameters())
    averaged: list[Tensor] = list(average.parameters())
    adam = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=1e-4, fused=True)
    batch = settings.batch_size
    drawn = torch.multinomial(chance, batch * steps, replacement=True, generator=random)
    chosen = drawn.view(steps, batch).to(codes.device)
    anything = len(net.state_dict()[net.LABELS]) - 1
    moved = Optimisation([*weights, *averaged], adam, random)
    for turn in turns(steps, moved, checkpoint, codes, labels, chosen, repr(settings)):
        progress = turn / steps
        rate = cosine(progress, settings.learning_rate, floor=0.01)
        adam.param_groups[0]["lr"] = rate * min(1.0, (turn + 1) / 50)
        clean = codes[chosen[turn]]
        dropped = torch.rand(batch, generator=random) < settings.unconditional
        wanted = labels[chosen[turn]].masked_fill(dropped.to(codes.device), anything)
        noise = torch.randn(clean.shape, generator=random).to(codes.device)
        time = torch.sigmoid(torch.randn(batch, generator=random)).to(codes.device)
        noisy = torch.lerp(clean, noise, time[:, None])
        executor.gradient(net, flow_loss, (noisy, time, wanted, noise - clean))
        nn.utils.clip_grad_norm_(weights, 1.0)
        adam.step()
        decay = min(settings.averaging, (turn + 1) / (turn + 10))
        with torch.no_grad():
            torch._foreach_lerp_(averaged, weights, 1 - decay)
        step((turn + 1) / steps)
    return average
