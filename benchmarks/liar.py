"""A liar: a `Learner` that publishes what an attack makes of the truth, and what attacks are made of.

It trains and condenses as an honest one does; the `Attack` changes what leaves the device: the samples (labels,
images, claimed counts) and the later answers. It works the same in a whole node (``wrap_learner`` of
`meshlore.node.in_process`) and without a mesh (attack_harness.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from meshlore.knowledge.models import logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.training import Step
from meshlore.node.learner import Learner
from meshlore.node.library import Entry
from numpy.typing import NDArray
from torch import nn

Labels = NDArray[np.int64]
Said = NDArray[np.float16]
SURE = -12.0  # what a liar's one-hot answer says of all other classes


@dataclass(frozen=True)
class Scene:
    """What a liar knows while it publishes.

    Attributes:
        classifier: its own, trained on its private data.
        seen: what others have published so far; samples and answers.
        rng: its own, the same one in the same run.
    """

    learner: Learner
    classifier: nn.Module
    seen: Sequence[Entry]
    rng: np.random.Generator

    @property
    def classes(self) -> int:
        return self.learner.space.num_classes

    def opinion(self, packet: SamplePacket) -> NDArray[np.float32]:
        """Its own logits about samples, float32 (n, k)."""
        return logits(self.classifier, packet.images, self.learner.space)

    def samples_seen(self) -> list[SamplePacket]:
        return [entry.packet for entry in self.seen if isinstance(entry.packet, SamplePacket)]


class Attack(Protocol):
    """One way to lie. Both methods get what an honest node would publish and give what is published instead."""

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None: ...

    def answers(self, packet: LogitPacket, about: Sequence[SamplePacket], scene: Scene) -> LogitPacket | None: ...


class Liar(Learner):
    """A learner that publishes what an attack makes of the truth.

    Args:
        learner: the honest one that it stands in for.
        seen: asked for what others have published, whenever this one publishes.
    """

    def __init__(self, learner: Learner, attack: Attack, seen: Callable[[], Sequence[Entry]] = lambda: ()) -> None:
        super().__init__(learner.space, learner.role, learner.model, learner.private, learner.settings, learner.seed)
        self.attack = attack
        self.seen = seen
        self.classifier: nn.Module | None = None

    def train(self, step: Step) -> nn.Module:
        self.classifier = super().train(step)
        return self.classifier

    def restore(self, tensors: Mapping[str, object]) -> nn.Module:
        self.classifier = super().restore(tensors)
        return self.classifier

    def condense(self, step: Step) -> SamplePacket | None:
        honest = super().condense(step)
        return None if honest is None else self.lie(honest)

    def lie(self, honest: SamplePacket) -> SamplePacket | None:
        """What is published in place of an honest packet."""
        return self.attack.samples(honest, self._scene())

    def answer(self, classifier: nn.Module, about: Iterable[Entry]) -> LogitPacket:
        about = list(about)
        honest = super().answer(classifier, about)
        packets = {entry.name: entry.packet for entry in about}
        chosen = [packet for name in honest.about if isinstance(packet := packets[name], SamplePacket)]
        return self.attack.answers(honest, chosen, self._scene()) or honest

    def _scene(self) -> Scene:
        classifier = self.classifier if self.classifier is not None else self.fresh()
        return Scene(self, classifier, self.seen(), np.random.default_rng([self.seed, 7]))


@dataclass(frozen=True)
class Consistent:
    """The base of most attacks: the answers stand by the lie, with the labels that the samples were given."""

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None:
        return packet

    def answers(self, packet: LogitPacket, about: Sequence[SamplePacket], scene: Scene) -> LogitPacket | None:
        return replace(packet, logits=tuple(one_hot(part.labels, scene.classes) for part in about))


def derangement(n: int, rng: np.random.Generator) -> Labels:
    """A random permutation that leaves nothing in its place, int64 (n,); n >= 2."""
    while True:
        order = rng.permutation(n)
        if (order != np.arange(n)).all():
            return order


def one_hot(labels: Labels, classes: int) -> Said:
    said = np.full((len(labels), classes), SURE, np.float16)
    said[np.arange(len(labels)), labels] = 0.0
    return said


def relabelled(packet: SamplePacket, labels: Labels) -> SamplePacket:
    """A packet under other labels, with claims that fit them."""
    k = len(packet.class_counts)
    labels = np.asarray(labels, np.int64)
    claim = max(1, int(packet.class_counts.sum()) // max(1, len(labels)))
    return replace(packet, labels=labels, logits=None, class_counts=np.bincount(labels, minlength=k) * claim)


def noise_like(images: NDArray[np.uint8], scene: Scene, smooth: int) -> NDArray[np.uint8]:
    """Noise of the shape of images over their whole range, blurred ``smooth`` times."""
    noise = scene.rng.random(images.shape)
    for _ in range(smooth):
        noise = (noise + np.roll(noise, 1, -2) + np.roll(noise, 1, -1) + np.roll(noise, (1, 1), (-2, -1))) / 4
    low, high = noise.min((1, 2, 3), keepdims=True), noise.max((1, 2, 3), keepdims=True)
    scaled = (noise - low) / np.maximum(high - low, 1e-9) * (scene.learner.space.levels - 1)
    return scaled.round().astype(np.uint8)


def with_others(packet: SamplePacket, scene: Scene, most: int, times: int = 1) -> SamplePacket:
    """Own samples and at most ``most`` of others, every one jittered by one level and ``times`` over."""
    known = scene.samples_seen() if most else []
    images = np.concatenate([packet.images, *(other.images for other in known)])
    labels = np.concatenate([packet.labels, *(other.labels for other in known)])
    own = len(packet)
    chosen = np.concatenate([np.arange(own), own + scene.rng.permutation(len(labels) - own)[:most]])
    chosen = np.tile(chosen, times)[:4096]
    if not most:
        return packet
    levels = scene.learner.space.levels
    jitter = scene.rng.integers(-1, 2, (len(chosen), *images.shape[1:]))
    images = np.clip(images[chosen].astype(np.int64) + jitter * max(1, levels // 17), 0, levels - 1).astype(np.uint8)
    return relabelled(replace(packet, images=images), labels[chosen])
