"""Lessons: what trusted packets say, laid out for a student."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .augment import nth_view
from .data import Images, Labels
from .models import to_images, to_tensor
from .packet import SamplePacket, views_answered
from .space import Space
from .trust import FEWEST, Answers, Packets, Verdict

MOST = 64  # samples of one author and class that count
MOST_CLAIMED = 4  # times the usual claim; an honest specialist hardly exceeds it, a liar gains little
HEEDED = 0.5  # share of a class's samples for which a teacher must say the label
HEARSAY = 0.05  # what a teacher's word counts for a class that it knows from others' samples alone


@dataclass(frozen=True)
class Said:
    """What one teacher answered about one view of the samples of one packet.

    Attributes:
        first: the place of the view's first sample among the lessons.
        logits: float16 (n_i, k).
        shares: float32 (n_i,): how much this teacher counts; those of a sample sum to 1, or to 0.
        competence: float32 (k,): how much its word for or against each class counts.
    """

    first: int
    logits: NDArray[np.float16]
    shares: Tensor
    competence: Tensor


@dataclass(frozen=True)
class Lessons:
    """Samples to learn from.

    Attributes:
        images: float32 (n, c, h, w) in [-1, 1].
        labels: int64 (n,).
        weights: float32 (n,) in 0..1: the trust in the author.
        classes: k, the number of classes.
        said: the teachers' answers, as they came in their packets.
    """

    images: Tensor
    labels: Tensor
    weights: Tensor
    classes: int
    said: tuple[Said, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, temperature: float) -> Tensor:
        """What the teachers say together: softened probabilities, float32 (n, k); zero rows where nobody answered.

        The probability of a class is the mean over the teachers, each by its competence for that class.
        """
        said_so, heard = torch.zeros(len(self), self.classes), torch.zeros(len(self), self.classes)
        for said in self.said:
            softened = torch.softmax(torch.from_numpy(said.logits.astype(np.float32)) / temperature, dim=-1)
            block, counts = slice(said.first, said.first + len(softened)), said.shares[:, None] * said.competence
            said_so[block] += softened * counts
            heard[block] += counts
        mean = said_so / heard.clamp(min=1e-6)
        return mean / mean.sum(dim=1, keepdim=True).clamp(min=1e-6)

    def about(self, classes: Collection[int] | None) -> Lessons:
        """The lessons in which only these classes count; None: all."""
        if classes is None:
            return self
        wanted = torch.isin(self.labels, torch.tensor(sorted(classes), dtype=torch.int64))
        return replace(self, weights=self.weights * wanted)

    def as_samples(self, space: Space) -> tuple[Images, Labels, NDArray[np.float32]]:
        """Images uint8 (n, c, h, w), labels int64 (n,) and weights float32 (n,): what a generator learns from."""
        return to_images(self.images, space), self.labels.numpy(), self.weights.numpy()


def assemble(
    packets: Packets,
    answers: Answers,
    verdicts: Mapping[str, Verdict],
    space: Space,
    *,
    anchors: Collection[str] = (),
) -> Lessons:
    """Lessons of every packet whose author is trusted; an author without a verdict is not.

    Where teachers answered about views of its samples, the views are lessons too, and share the samples' weight.

    Who answered for a sample counts by the real images of its class that it learned from, and its word for each
    other class by those of that class. One of the ``anchors``, which have no images, counts as much as all others
    together; anybody else that published no counts knows by hearsay. A teacher that contradicts most labels of a class
    is not heard about that class.
    """
    trusted = {
        name: (author, packet)
        for name, (author, packet) in sorted(packets.items())
        if len(packet.labels) and author in verdicts and verdicts[author].weight > 0
    }
    newest: dict[str, dict[str, NDArray[np.float16]]] = {name: {} for name in trusted}
    for name, (author, packet) in trusted.items():
        if packet.logits is not None:
            newest[name][author] = packet.logits
    for author, answer in answers:
        if author in verdicts and verdicts[author].weight > 0:
            for name, logits in zip(answer.about, answer.logits, strict=True):
                if name in trusted and views_answered(logits, len(trusted[name][1].labels), space.num_classes):
                    newest[name][author] = logits
    if not trusted:
        nothing = torch.zeros(0)
        return Lessons(torch.zeros(0, *space.shape), nothing.long(), nothing, space.num_classes, ())
    counts, usual = _counts(trusted, space)
    counts |= dict.fromkeys(anchors, torch.stack(list(counts.values())).sum(dim=0))
    heeded = _heeded(trusted, newest, verdicts, space)
    said: list[Said] = []
    images: list[Tensor] = []
    labels: list[Labels] = []
    weights: list[NDArray[np.float32]] = []
    for name, (author, packet) in trusted.items():
        n = len(packet.labels)
        seen = max([len(answers) // n for answers in newest[name].values()], default=1)
        shown = to_tensor(packet.images, space)
        for view in range(seen):
            block = slice(view * n, (view + 1) * n)
            heard = {who: answers[block] for who, answers in newest[name].items() if len(answers) >= block.stop}
            said += _said(sum(len(part) for part in labels), packet.labels, heard, counts, usual, heeded, verdicts)
            images.append(nth_view(shown, view))
            labels.append(packet.labels)
            weights.append(_weights(packet, verdicts[author], space) / np.float32(seen))
    return Lessons(
        torch.cat(images),
        torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        torch.from_numpy(np.concatenate(weights)),
        space.num_classes,
        tuple(said),
    )


def _weights(packet: SamplePacket, verdict: Verdict, space: Space) -> NDArray[np.float32]:
    """What each sample weighs: copies share one weight, a class counts for ``MOST`` samples at most, and what was
    refuted counts for nothing."""
    flat = packet.images.reshape(len(packet.labels), -1)
    _, copy_of, copies = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    weights = verdict.weight / copies[copy_of.ravel()]
    mass = np.bincount(packet.labels, weights=weights, minlength=space.num_classes)
    weights *= np.minimum(1.0, MOST * verdict.weight / np.maximum(mass, 1e-6))[packet.labels]
    weights[np.isin(packet.labels, sorted(verdict.refuted))] = 0.0
    return weights.astype(np.float32)


def _counts(trusted: Packets, space: Space) -> tuple[dict[str, Tensor], Tensor]:
    """Real images behind each author's knowledge, float32 (k,): the most that one packet of its claims; and the
    usual number, float32 (k,).

    Nobody can check a claim, so that none counts for more than ``MOST_CLAIMED`` times the (lower) median of
    those who claim the class.
    """
    counts: dict[str, Tensor] = {}
    for author, packet in trusted.values():
        claimed = torch.from_numpy(np.asarray(packet.class_counts)).float()
        known = counts.get(author, torch.zeros(space.num_classes))
        counts[author] = torch.maximum(known, claimed)
    claims = torch.stack(list(counts.values()))
    usual = torch.where(claims > 0, claims, torch.nan).nanmedian(dim=0).values.nan_to_num(0.0)
    return {author: torch.minimum(count, MOST_CLAIMED * usual) for author, count in counts.items()}, usual


def _heeded(
    trusted: Packets,
    newest: Mapping[str, Mapping[str, NDArray[np.float16]]],
    verdicts: Mapping[str, Verdict],
    space: Space,
) -> dict[str, Tensor]:
    """For each teacher bool (k,): False for classes where it contradicts most labels of believed authors.

    Its own samples say nothing about it. A beginner is not heard about classes that it does not know yet.
    """
    right: dict[str, NDArray[np.int64]] = {}
    total: dict[str, NDArray[np.int64]] = {}
    none = np.zeros(space.num_classes, np.int64)
    for name, (author, packet) in trusted.items():
        for teacher, logits in newest[name].items():
            hits = np.zeros(0, np.int64)
            judged = hits
            if teacher != author and verdicts[author].weight > 0.5:
                judged = np.resize(packet.labels, len(logits))
                hits = judged[logits.argmax(axis=1) == judged]
            right[teacher] = right.get(teacher, none) + np.bincount(hits, minlength=space.num_classes)
            total[teacher] = total.get(teacher, none) + np.bincount(judged, minlength=space.num_classes)
    return {
        teacher: torch.from_numpy((total[teacher] < FEWEST) | (right[teacher] > HEEDED * total[teacher]))
        for teacher in total
    }


def _said(
    first: int,
    labels: Labels,
    logits: Mapping[str, NDArray[np.float16]],
    counts: Mapping[str, Tensor],
    usual: Tensor,
    heeded: Mapping[str, Tensor],
    verdicts: Mapping[str, Verdict],
) -> list[Said]:
    """What was answered about one packet, with shares that sum to 1 over its teachers.

    Competence ends at the usual number of images, so that nobody gains by claiming more.
    """
    of = torch.from_numpy(labels.astype(np.int64))
    shares, competence = {}, {}
    for teacher in sorted(logits):
        learned = counts.get(teacher, torch.zeros_like(usual))
        shares[teacher] = learned[of].clamp(min=1) * verdicts[teacher].weight * heeded[teacher][of]
        competence[teacher] = HEARSAY + torch.minimum(learned, usual) / usual.clamp(min=1)
    total = sum(shares.values(), torch.zeros(len(of))).clamp(min=1e-6)
    return [Said(first, logits[teacher], share / total, competence[teacher]) for teacher, share in shares.items()]
