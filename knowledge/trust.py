"""Trust: how much weight each author's knowledge gets. Local, never published.

Nobody's claim about itself counts. The node starts from what it knows, its private data, and takes in
authors one after another, the most consistent first; those taken in help to judge the rest, so that an
author of classes that this node never saw is judged by third parties. Two things tell against a sample:
it is labelled as a known class and does not look like it, or it is labelled as an unknown class and looks
like a known one. Classes that nobody else shows cannot be judged; a specialist keeps its weight there.
Without private data (the anchor) the start is the author that most others agree with.

"Looks like" is linear discriminant analysis: nearest class mean after the spread within classes is
divided out, in principal components of pixels and random convolutional features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .basis import principal_components
from .data import Dataset
from .models import to_tensor
from .packet import LogitPacket, SamplePacket
from .space import Space

Packets = Mapping[str, tuple[str, SamplePacket]]
"""Packet name (SHA-256 hex) -> (author, packet)."""
Answers = Iterable[tuple[str, LogitPacket]]
"""(author, packet), oldest first: later logits of an author replace its earlier ones."""

DIMENSIONS = 40
PER_CLASS = 64  # samples of one author and class that are looked at
FEWEST = 4  # samples from which a class mean is believed
SAMPLES_FIT = 0.5, 0.7  # shares of consistent samples for weight 0 and for weight 1
ANSWERS_FIT = 0.35, 0.6  # the same for answers that are the label: an honest beginner errs
ROUGHEST = 0.8  # 1 where neighbouring pixels have nothing in common; digits .5, photographs below
EVIDENCE = 4.0  # samples' worth of support below which an author is not yet judged


@dataclass(frozen=True)
class Verdict:
    """``weight`` 0 (not used) to 1 (fully), and why, in words for a log line.

    ``refuted``: labels whose samples do not look like what believed others show; they are not used.
    """

    weight: float
    reason: str
    refuted: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Cloud:
    """One author's samples as points: float32 (n, d), int64 (n,)."""

    points: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Findings:
    """Samples' worth of support for and of conflict with what is already believed."""

    support: float
    conflict: float
    refuted: frozenset[int] = frozenset()

    @property
    def share(self) -> float:
        return self.support / max(1e-9, self.support + self.conflict)


@dataclass(frozen=True)
class Reach:
    """Squared distances from its class mean within which half and nine tenths of a usual author's samples lie."""

    core: float
    most: float


def weigh(
    private: Dataset | None, packets: Packets, answers: Answers, space: Space, *, seed: int
) -> dict[str, Verdict]:
    """Judge every author of a packet or an answer. The caller's own packets are not among them.

    Args:
        private: the node's own data; None for an anchor.
        seed: of the random features; a seed of the node's own keeps liars from preparing for it.
    """
    answers = list(answers)
    noise = _noise(packets)
    plausible = {name: entry for name, entry in packets.items() if entry[0] not in noise}
    clouds, home = _clouds(private, plausible, space, seed)
    verdicts = noise | _grow(clouds, home)
    for author, agreement in _answered(packets, answers, verdicts, space).items():
        factor = _ramp(agreement, *ANSWERS_FIT)
        known = verdicts.get(author, Verdict(1.0, "answers only"))
        if factor < 1 and factor < known.weight:
            verdicts[author] = Verdict(
                factor * known.weight, f"its answers fit the labels for only {agreement:.0%} of the samples"
            )
        else:
            verdicts[author] = known
    return verdicts


def _noise(packets: Packets) -> dict[str, Verdict]:
    """Authors whose images are noise: neighbouring pixels of a median image hardly correlate."""
    rough: dict[str, list[np.ndarray]] = {}
    for author, packet in packets.values():
        images = packet.images.astype(np.float32)
        across = np.square(np.diff(images, axis=3)).mean(axis=(1, 2, 3))
        down = np.square(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
        uncorrelated = 4 * images.var(axis=(1, 2, 3)) + 1e-6
        rough.setdefault(author, []).append((across + down) / uncorrelated)
    medians = {author: float(np.median(np.concatenate(values))) for author, values in rough.items()}
    return {
        author: Verdict(0.0, f"its images look like noise (roughness {median:.2f} of 1)")
        for author, median in medians.items()
        if median > ROUGHEST
    }


def _grow(clouds: Mapping[str, Cloud], home: Cloud | None) -> dict[str, Verdict]:
    """Take authors in one by one; see the text at the top of this file."""
    reach = _reach([*clouds.values(), *([home] if home else [])])
    believed = [home] if home else []
    waiting = dict(clouds)
    verdicts: dict[str, Verdict] = {}
    standing = _standing(clouds, reach)
    while waiting:
        found = {author: _compare(cloud, believed, reach) for author, cloud in waiting.items()}
        judged = [author for author, finding in found.items() if finding.support + finding.conflict >= EVIDENCE]
        rank = {author: (found[author].share, standing[author], author) for author in judged}
        fits = [author for author in judged if found[author].share > SAMPLES_FIT[0]]
        if fits:
            author = max(fits, key=rank.__getitem__)
        elif len(judged) < len(waiting):
            # nobody believed so far says anything about these: the one most supported by its peers is next
            rest = [author for author in waiting if author not in judged]
            author = max(rest, key=lambda name: (standing[name], name))
            found[author] = Findings(1.0, 0.0)
        else:
            for author in judged:
                verdicts[author] = Verdict(0.0, _reason(found[author]))
            break
        cloud = waiting.pop(author)
        unjudged = author not in judged
        weight = _ramp(found[author].share, *SAMPLES_FIT)
        verdicts[author] = Verdict(
            weight,
            "nobody else shows its classes" if unjudged and believed else _reason(found[author]),
            found[author].refuted,
        )
        if weight > 0.5:
            sound = ~torch.isin(cloud.labels, torch.tensor(sorted(found[author].refuted), dtype=torch.long))
            believed.append(Cloud(cloud.points[sound], cloud.labels[sound]))
    return verdicts


def _compare(subject: Cloud, believed: list[Cloud], reach: Reach) -> Findings:
    if not believed:
        return Findings(0.0, 0.0)
    points = torch.cat([cloud.points for cloud in believed])
    labels = torch.cat([cloud.labels for cloud in believed])
    counts = torch.bincount(labels, minlength=int(max(labels.max(), subject.labels.max())) + 1)
    known = torch.where(counts >= FEWEST)[0]
    if len(known) == 0:
        return Findings(0.0, 0.0)
    means = torch.stack([points[labels == label].mean(dim=0) for label in known.tolist()])
    # the mean of few points lies off the truth by about spread / count
    away = torch.cdist(subject.points, means).square() - (reach.core / counts[known])[None]
    distance, nearest = away.min(dim=1)
    near = distance < 1.6 * reach.most
    shared = torch.isin(subject.labels, known)
    agrees = (known[nearest] == subject.labels) & near
    support = float((shared & agrees).sum())
    conflict = float((shared & ~agrees).sum())
    refuted = {
        label
        for label in set(subject.labels[shared].tolist())
        if counts[label] >= 2 * FEWEST
        and (here := subject.labels == label).sum() >= FEWEST
        and agrees[here].float().mean() < SAMPLES_FIT[0]
    }
    # a class that nobody believed shows, and most of it lies in the core of classes that they do show
    for label in sorted(set(subject.labels[~shared].tolist())):
        away_from_all = distance[subject.labels == label]
        inside = (away_from_all < reach.core).float().mean()
        if len(away_from_all) >= FEWEST and bool(inside > 0.3):
            conflict += len(away_from_all)
            refuted.add(label)
    return Findings(support, conflict, frozenset(refuted))


def _standing(clouds: Mapping[str, Cloud], reach: Reach) -> dict[str, float]:
    """Net support of each author by all others, one by one."""
    standing = {}
    for author, cloud in clouds.items():
        findings = [_compare(cloud, [other], reach) for name, other in clouds.items() if name != author]
        standing[author] = sum(
            1.0 if finding.share > SAMPLES_FIT[0] else -1.0
            for finding in findings
            if finding.support + finding.conflict >= EVIDENCE
        )
    return standing


def _answered(
    packets: Packets, answers: list[tuple[str, LogitPacket]], verdicts: Mapping[str, Verdict], space: Space
) -> dict[str, float]:
    """For each author with logits: the share of samples where its answer is the label.

    Answers are held against its own packets and those of believed authors.
    """
    right: dict[str, float] = {}
    total: dict[str, float] = {}
    own = [(author, name, packet.logits) for name, (author, packet) in packets.items() if packet.logits is not None]
    later = [
        (author, name, said)
        for author, answer in answers
        for name, said in zip(answer.about, answer.logits, strict=True)
    ]
    newest = {(author, name): said for author, name, said in [*own, *later]}
    for (author, name), said in newest.items():
        if name not in packets or said.shape != (len(packets[name][1].labels), space.num_classes):
            continue
        owner, packet = packets[name]
        if owner != author and (owner not in verdicts or verdicts[owner].weight <= 0.5):
            continue
        right[author] = right.get(author, 0.0) + float((said.argmax(axis=1) == packet.labels).sum())
        total[author] = total.get(author, 0.0) + len(packet.labels)
    return {author: right[author] / total[author] for author in total if total[author]}


def _clouds(
    private: Dataset | None, packets: Packets, space: Space, seed: int
) -> tuple[dict[str, Cloud], Cloud | None]:
    """Every author's samples, and the private ones, as points whose spread within classes is round."""
    rng = np.random.default_rng(seed)
    images: dict[str, list[np.ndarray]] = {}
    labels: dict[str, list[np.ndarray]] = {}
    for _, (author, packet) in sorted(packets.items()):
        images.setdefault(author, []).append(packet.images)
        labels.setdefault(author, []).append(packet.labels)
    sources = [(author, np.concatenate(images[author]), np.concatenate(labels[author])) for author in images]
    if private is not None and len(private):
        sources.append(("", private.images, private.labels))
    thinned = [(author, *_thin(pictures, truth, rng)) for author, pictures, truth in sources]
    thinned = [entry for entry in thinned if len(entry[2])]
    if not thinned:
        return {}, None
    features = _features(to_tensor(np.concatenate([entry[1] for entry in thinned]), space), seed)
    directions, _ = principal_components(features - features.mean(dim=0), DIMENSIONS)
    points = (features - features.mean(dim=0)) @ directions
    split = torch.split(points, [len(entry[2]) for entry in thinned])
    clouds = {
        entry[0]: Cloud(part, torch.from_numpy(entry[2]).long()) for entry, part in zip(thinned, split, strict=True)
    }
    whiten = _whitening(list(clouds.values()))
    clouds = {author: Cloud(cloud.points @ whiten, cloud.labels) for author, cloud in clouds.items()}
    home = clouds.pop("", None)
    return clouds, home


def _thin(images: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        # copies of one image are one piece of evidence
        _, first = np.unique(images[members].reshape(len(members), -1), axis=0, return_index=True)
        chosen.append(rng.permutation(members[first])[:PER_CLASS])
    places = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return images[places], labels[places].astype(np.int64)


def _features(images: Tensor, seed: int) -> Tensor:
    """float32 (n, d): coarse pixels beside two layers of random convolutions, both at unit mean variance."""
    random = torch.Generator().manual_seed(seed)
    coarse = F.adaptive_avg_pool2d(images, (min(images.shape[-2], 8), min(images.shape[-1], 8)))
    small = F.adaptive_avg_pool2d(images, (min(images.shape[-2], 16), min(images.shape[-1], 16)))
    weight = torch.randn(32, images.shape[1], 3, 3, generator=random) / (3 * images.shape[1] ** 0.5)
    hidden = F.relu(F.conv2d(small, weight, padding=1))
    hidden = F.adaptive_avg_pool2d(hidden, (4, 4)).flatten(1)
    parts = [coarse.flatten(1), hidden]
    return torch.cat([part / part.var(dim=0, correction=0).sum().clamp(min=1e-6).sqrt() for part in parts], dim=1)


def _whitening(clouds: list[Cloud]) -> Tensor:
    """(d, d) map after which the spread within a class of one author is about the identity."""
    width = clouds[0].points.shape[1]
    scatters = []
    for cloud in clouds:
        centred = [
            cloud.points[cloud.labels == label] - cloud.points[cloud.labels == label].mean(dim=0)
            for label in sorted(set(cloud.labels.tolist()))
        ]
        rows = torch.cat(centred)
        freedom = max(1, len(rows) - len(centred))
        scatters.append((rows.T @ rows / freedom, freedom))
    # mixed-up labels spread a class; who does that must not blur the picture for the others
    usual = float(np.median([float(scatter.trace()) for scatter, _ in scatters]))
    tight = [(scatter, freedom) for scatter, freedom in scatters if float(scatter.trace()) <= 1.3 * usual]
    total = sum(freedom for _, freedom in tight)
    within = torch.stack([scatter * (freedom / total) for scatter, freedom in tight]).sum(dim=0)
    within = within + (0.1 * within.diagonal().mean() + 1e-6) * torch.eye(width)
    variance, axes = torch.linalg.eigh(within)
    whitening: Tensor = axes / variance.clamp(min=1e-6).sqrt()
    return whitening


def _reach(clouds: list[Cloud]) -> Reach:
    each = []
    for cloud in clouds:
        away = []
        for label in sorted(set(cloud.labels.tolist())):
            own = cloud.points[cloud.labels == label]
            if len(own) >= FEWEST:
                correction = len(own) / (len(own) - 1)
                away.append((own - own.mean(dim=0)).square().sum(dim=1) * correction)
        if away:
            each.append(torch.quantile(torch.cat(away), torch.tensor([0.5, 0.9])))
    if not each:
        return Reach(DIMENSIONS, 1.5 * DIMENSIONS)
    core, most = torch.stack(each).median(dim=0).values.tolist()
    return Reach(core, most)


def _ramp(share: float, nothing: float, everything: float) -> float:
    return float(np.clip((share - nothing) / (everything - nothing), 0.0, 1.0))


def _reason(finding: Findings) -> str:
    total = finding.support + finding.conflict
    return f"{finding.share:.0%} of {total:.0f} comparable samples fit"
