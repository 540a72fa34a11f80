"""Attacks on the exchange of knowledge, as behaviours of a node: what a liar publishes in place of the truth.

    python -m benchmarks.attacks [--quick] [--json] [--out FILE]    # the figures: see attack_report.py

Label flip and noise are Biggio et al. (arXiv 1206.6389) and Shejwalkar et al. (arXiv 2108.10241) brought to
samples; the least likely class is the Loss Maximization Attack and a class chosen by its similarity the Class
Prior Attack of Roux et al. (ICLR 2025, arXiv 2402.12265), whose CPA takes the least similar class: here it is the
most similar one, which is harder to see, and ``similar=False`` is theirs. Triggers are BadNets (arXiv 1708.06733)
and the clean-label variant of Turner et al. (arXiv 1912.02771); free riders Fraboni et al. (arXiv 2006.11901).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from numpy.typing import NDArray

from .liar import Attack, Consistent, Scene, derangement, noise_like, one_hot, relabelled, with_others


@dataclass(frozen=True)
class LabelFlip(Consistent):
    """Every class under the name of another. Those who share ``plot`` flip alike."""

    plot: int | None = None

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        rng = scene.rng if self.plot is None else np.random.default_rng(self.plot)
        return relabelled(packet, derangement(scene.classes, rng)[packet.labels])


@dataclass(frozen=True)
class Noise(Consistent):
    """Samples of noise; ``smooth`` noise has the roughness of pictures."""

    smooth: int = 0

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        return replace(packet, images=noise_like(packet.images, scene, self.smooth), logits=None)


@dataclass(frozen=True)
class LeastLikely(Consistent):
    """LMA: each sample under the class that its classifier finds the least likely."""

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        return relabelled(packet, scene.opinion(packet).argmin(axis=1))


@dataclass(frozen=True)
class MostConfusable(Consistent):
    """CPA: each class under the name of the class that its classifier takes it for most often, but for itself.

    ``similar=False``: the least similar class, as in the paper.
    """

    similar: bool = True

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        said = scene.opinion(packet).astype(np.float64)
        chosen = packet.labels.copy()
        for label in np.unique(packet.labels):
            likeness = said[packet.labels == label].mean(axis=0)
            likeness[label] = -np.inf if self.similar else np.inf
            chosen[packet.labels == label] = likeness.argmax() if self.similar else likeness.argmin()
        return relabelled(packet, chosen)


@dataclass(frozen=True)
class ProbeAware(Consistent):
    """Honest about the classes that its victim holds, so that the victim's own data find no fault; it flips the
    others among themselves. ``reach``: how many samples of others it re-signs beside its own, a little changed."""

    victim: frozenset[int]
    plot: int | None = None
    reach: int = 0

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        rng = scene.rng if self.plot is None else np.random.default_rng(self.plot)
        packet = with_others(packet, scene, self.reach)
        rest = np.array([label for label in range(scene.classes) if label not in self.victim])
        said = np.arange(scene.classes)
        if len(rest) > 1:
            said[rest] = rest[derangement(len(rest), rng)]
        return relabelled(packet, said[packet.labels])


@dataclass(frozen=True)
class ClassSwap(Consistent):
    """Takes everybody's samples, jittered and ``times`` over, and swaps ``classes`` of them: most of it is true."""

    plot: int = 0
    times: int = 1
    classes: int = 2

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        packet = with_others(packet, scene, 4096, self.times)
        swapped = np.random.default_rng(self.plot).permutation(scene.classes)[: self.classes]
        said = np.arange(scene.classes)
        said[swapped] = np.roll(swapped, 1)
        return relabelled(packet, said[packet.labels])


@dataclass(frozen=True)
class Backdoor(Consistent):
    """A bright patch in the lower right corner that is to mean ``target``.

    Half of its samples are stamped and called the target class. ``clean_label``: only samples that are of that
    class are stamped, so that no label is wrong.
    """

    target: int = 0
    clean_label: bool = False
    side_fraction: float = 0.25

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket:
        if self.clean_label:
            of_target = packet.labels == self.target
            return replace(
                packet,
                images=np.where(
                    of_target[:, None, None, None], self.stamp(packet.images, scene.learner.space.levels), packet.images
                ),
            )
        chosen = np.flatnonzero(packet.labels != self.target)
        chosen = scene.rng.permutation(chosen)[: max(1, len(packet) // 2)]
        images = np.concatenate([packet.images, self.stamp(packet.images[chosen], scene.learner.space.levels)])
        labels = np.concatenate([packet.labels, np.full(len(chosen), self.target)])
        return relabelled(replace(packet, images=images), labels)

    def stamp(self, images: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
        """Triggered copies of images, uint8 (n, c, h, w)."""
        stamped = images.copy()
        rows, columns = (max(1, round(side * self.side_fraction)) for side in images.shape[-2:])
        stamped[..., -rows:, -columns:] = levels - 1
        return stamped


@dataclass(frozen=True)
class FreeRider(Consistent):
    """Publishes what cost it nothing: the samples of whoever published most, re-signed, or smooth noise."""

    copies: bool = True

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None:
        known = scene.samples_seen()
        if self.copies and known:
            return replace(max(known, key=len), logits=None)
        return replace(packet, images=noise_like(packet.images, scene, 2), logits=None)


@dataclass(frozen=True)
class LyingAnswers(Consistent):
    """Honest samples; the answers about them name the least likely class (LMA) or the second most likely one.

    ``share``: of the samples, whole classes together, that are answered wrongly: less escapes a coarse look.
    """

    least: bool = True
    share: float = 1.0

    def answers(self, packet: LogitPacket, about: Sequence[SamplePacket], scene: Scene) -> LogitPacket:
        parts = []
        for part in about:
            said = scene.opinion(part).astype(np.float64)
            said[np.arange(len(part)), part.labels] = np.inf if self.least else -np.inf
            wrong = said.argmin(axis=1) if self.least else said.argmax(axis=1)
            counts = np.bincount(part.labels, minlength=scene.classes)
            order = np.argsort(counts)
            bad = order[np.cumsum(counts[order]) <= self.share * len(part)]
            parts.append(one_hot(np.where(np.isin(part.labels, bad), wrong, part.labels), scene.classes))
        return replace(packet, logits=tuple(parts))


@dataclass(frozen=True)
class Inflated(Consistent):
    """Another attack with claims of a billion images behind every class."""

    of: Attack = field(default_factory=Consistent)

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None:
        lie = self.of.samples(packet, scene)
        return None if lie is None else replace(lie, class_counts=np.full(scene.classes, 10**9, np.int64))


@dataclass(frozen=True)
class Then(Consistent):
    """Two attacks, the second on what the first one made."""

    first: Attack = field(default_factory=Consistent)
    second: Attack = field(default_factory=Consistent)

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None:
        lie = self.first.samples(packet, scene)
        return None if lie is None else self.second.samples(lie, scene)


if __name__ == "__main__":
    import sys

    from .attack_report import main

    sys.exit(main())
