"""Lessons: what trusted packets say, laid out for a student."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .data import Images, Labels
from .models import to_images, to_tensor
from .packet import SamplePacket
from .space import Space
from .trust import Answers, Packets, Verdict


@dataclass(frozen=True)
class Lessons:
    """Samples to learn from.

    Attributes:
        images: float32 (n, c, h, w) in [-1, 1].
        labels: int64 (n,).
        weights: float32 (n,) in 0..1: the trust in the author.
        logits: float32 (n, teachers, k): what up to ``teachers`` teachers answered.
        shares: float32 (n, teachers): how much each teacher counts; rows sum to 1, or to 0 where nobody answered.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    logits: Tensor
    shares: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, temperature: float) -> Tensor:
        """The teachers' mean softened probabilities, float32 (n, k); zero rows where nobody answered."""
        probabilities = torch.softmax(self.logits / temperature, dim=-1)
        return (probabilities * self.shares[..., None]).sum(dim=1)

    def as_samples(self, space: Space) -> tuple[Images, Labels, NDArray[np.float32]]:
        """Images uint8 (n, c, h, w), labels int64 (n,) and weights float32 (n,): what a generator learns from."""
        return to_images(self.images, space), self.labels.numpy(), self.weights.numpy()


def assemble(packets: Packets, answers: Answers, verdicts: Mapping[str, Verdict], space: Space) -> Lessons:
    """Lessons of every packet whose author is trusted; an author without a verdict is not.

    Who answered for a sample counts by the real images of its class that it learned from. An author that
    published no counts (the anchor) counts as much as all others together.
    """
    trusted = {
        name: (author, packet)
        for name, (author, packet) in packets.items()
        if len(packet.labels) and author in verdicts and verdicts[author].weight > 0
    }
    newest: dict[str, dict[str, np.ndarray]] = {name: {} for name in trusted}
    for name, (author, packet) in trusted.items():
        if packet.logits is not None:
            newest[name][author] = packet.logits
    for author, answer in answers:
        if author in verdicts and verdicts[author].weight > 0:
            for name, said in zip(answer.about, answer.logits, strict=True):
                if name in trusted and said.shape == (len(trusted[name][1].labels), space.num_classes):
                    newest[name][author] = said
    counts = _counts(trusted, space)
    teachers = max([1, *(len(said) for said in newest.values())])
    parts = [
        _one(author, packet, newest[name], counts, teachers, verdicts, space)
        for name, (author, packet) in sorted(trusted.items())
    ]
    if not parts:
        return Lessons(
            torch.zeros(0, *space.shape),
            torch.zeros(0, dtype=torch.long),
            torch.zeros(0),
            torch.zeros(0, 1, space.num_classes),
            torch.zeros(0, 1),
        )
    return Lessons(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _counts(trusted: Packets, space: Space) -> dict[str, Tensor]:
    """Real images behind each author's knowledge, float32 (k,): the most that one packet of its claims."""
    counts: dict[str, Tensor] = {}
    for author, packet in trusted.values():
        claimed = torch.from_numpy(np.asarray(packet.class_counts)).float()
        known = counts.get(author, torch.zeros(space.num_classes))
        counts[author] = torch.maximum(known, claimed)
    return counts


def _one(
    author: str,
    packet: SamplePacket,
    said: Mapping[str, np.ndarray],
    counts: Mapping[str, Tensor],
    teachers: int,
    verdicts: Mapping[str, Verdict],
    space: Space,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    size = len(packet.labels)
    labels = torch.from_numpy(packet.labels.astype(np.int64))
    logits = torch.zeros(size, teachers, space.num_classes)
    shares = torch.zeros(size, teachers)
    for place, (teacher, answer) in enumerate(sorted(said.items())):
        logits[:, place] = torch.from_numpy(answer.astype(np.float32))
        learned = counts.get(teacher)
        if learned is None or not bool(learned.any()):
            learned = torch.stack(list(counts.values())).sum(dim=0)
        shares[:, place] = learned[labels].clamp(min=1) * verdicts[teacher].weight
    shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=1e-6)
    weights = torch.full((size,), float(verdicts[author].weight))
    return to_tensor(packet.images, space), labels, weights, logits, shares
