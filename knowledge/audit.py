"""Does a publication tell whose records are behind it? Two attacks on what a node publishes.

Membership inference as in LiRA (Carlini et al., S&P 2022, arXiv 2112.03570): many publications of random halves
of a pool; for each record, Gaussians of what an attacker sees when it is in and when it is out. And the audit in
one run (Steinke, Nasr & Jagielski, NeurIPS 2023, arXiv 2305.08846): canaries are in or out by coin toss, and how
well that can be guessed from one publication bounds epsilon from below.

Attacks can show a leak, never its absence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .data import Dataset
from .distil import DistilSettings, distil
from .lessons import assemble
from .models import build_model, default_model, logits
from .packet import SamplePacket
from .private import SENSITIVITY, Statistics, exact_sums, record_vectors
from .training import Step, no_step
from .trust import Verdict

Publish = Callable[[Dataset, int], SamplePacket | None]
"""Publishes a data set with a seed: samples with the author's answers; None when it publishes nothing."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ATTACK_STEPS = 120
RATES = (0.01, 0.001)
GUESSED = (0.1, 0.25, 0.5, 1.0)  # shares of the canaries that are guessed about; the best counts, at a price
CONFIDENCE = 0.95
SEEN = 2  # features per record


@dataclass(frozen=True)
class Leak:
    """How well members are told from others; 0.5 and the false-positive rate itself mean not at all.

    Attributes:
        auc: area under the curve, of the better of both attacks.
        tpr: true-positive rates at the false-positive rates `RATES`.
        online, offline: area under the curve with and without publications that hold the record.
        publications, records: how many were made, and how many records were attacked in each.
        samples: how many the smallest publication held; 0: nothing was published.
    """

    auc: float
    tpr: tuple[float, ...]
    online: float
    offline: float
    publications: int
    records: int
    samples: int


@dataclass(frozen=True)
class Bound:
    """``epsilon`` is at least that with confidence 95%.

    ``right`` of ``guesses`` were right, of ``canaries``; ``samples`` were published.
    """

    epsilon: float
    right: int
    guesses: int
    canaries: int
    samples: int = 0


def membership(
    pool: Dataset, rest: Dataset, publish: Publish, *, publications: int, seed: int, step: Step = no_step
) -> Leak:
    """Attack publications of ``rest`` and random halves of a pool; each in turn is the victim, the others are shadows.

    Args:
        pool: records to attack, at least 4.
        publications: at least 4; more make the Gaussians sharper.
    """
    random = np.random.default_rng(seed)
    inside = np.array([_half(len(pool), random) for _ in range(publications)])
    seen, samples = np.zeros((publications, len(pool), SEEN)), []
    for run in range(publications):
        packet = publish(_joined(rest, pool, inside[run]), seed + run)
        samples.append(0 if packet is None else len(packet))
        seen[run] = observe(packet, pool, seed + run)
        step((run + 1) / publications)
    truth, scores = inside.ravel(), {"online": _online(seen, inside), "offline": _offline(seen, inside)}
    areas = {name: area_under_curve(score.ravel(), truth) for name, score in scores.items()}
    best = max(areas, key=lambda name: areas[name])
    rates = tuple(true_positive_rate(scores[best].ravel(), truth, rate) for rate in RATES)
    return Leak(areas[best], rates, areas["online"], areas["offline"], publications, len(pool), min(samples))


def observe(packet: SamplePacket | None, records: Dataset, seed: int) -> Floats:
    """What an attacker sees of records in a publication, (n, 2): closeness to a sample of their class, and how sure
    a model that was taught by the publication is of their class (log odds)."""
    if packet is None:
        return np.zeros((len(records), SEEN))
    flat, samples = (_flat(part, records) for part in (records.images, packet.images))
    closeness = np.full(len(records), -math.log(math.sqrt(flat.shape[1])))
    for label in np.unique(packet.labels):
        own, theirs = np.flatnonzero(records.labels == label), samples[packet.labels == label]
        if len(own):
            squares = (flat[own] ** 2).sum(1)[:, None] - 2 * flat[own] @ theirs.T + (theirs**2).sum(1)
            closeness[own] = -np.log(np.sqrt(np.maximum(squares.min(axis=1), 0)) + 1e-2)
    lessons = assemble({"it": ("author", packet)}, [], {"author": Verdict(1.0, "attacked")}, records.space)
    settings = DistilSettings(steps=ATTACK_STEPS, private_batch=0, learning_rate=3e-3)
    fresh = build_model(default_model(records.space, "node"), records.space, seed)
    said = logits(distil(fresh, None, lessons, settings=settings, seed=seed), records.images, records.space)
    own_logit = said[np.arange(len(said)), records.labels].astype(np.float64)
    others = said.astype(np.float64)
    others[np.arange(len(said)), records.labels] = -np.inf
    top = others.max(axis=1, keepdims=True)
    return np.stack([closeness, own_logit - top[:, 0] - np.log(np.exp(others - top).sum(axis=1))], axis=1)


def one_run(
    base: Dataset, canaries: Dataset, publish: Publish, *, delta: float, seed: int, step: Step = no_step
) -> Bound:
    """A lower bound of epsilon from one publication of ``base`` with each canary in it by coin toss."""
    random = np.random.default_rng(seed)
    inside = random.random(len(canaries)) < 0.5
    packet = publish(_joined(base, canaries, inside), seed)
    step(0.5)
    seen = observe(packet, canaries, seed)
    step(1.0)
    ranks = np.argsort(np.argsort(seen, axis=0), axis=0).mean(axis=1)
    # closeness alone is the sharper one where copies leak, the mean where answers do
    bounds = [guess(score, inside, delta, tries=2) for score in (seen[:, 0], ranks)]
    return replace(max(bounds, key=lambda bound: bound.epsilon), samples=0 if packet is None else len(packet))


def one_run_statistics(
    base: Dataset, canaries: Dataset, take: Callable[[Dataset], Statistics], *, delta: float, seed: int
) -> Bound:
    """The same for noisy statistics, seen as they are: what is published is made from them and tells no more.

    The attacker knows everything but the coin tosses, and solves for them by least squares.
    """
    random = np.random.default_rng(seed)
    inside = random.random(len(canaries)) < 0.5
    noisy = take(_joined(base, canaries, inside)).sums
    vectors = record_vectors(canaries)
    rest = (noisy - exact_sums(base))[canaries.labels] / SENSITIVITY
    scores = np.zeros(len(canaries))
    for label in np.unique(canaries.labels):
        own = canaries.labels == label
        matrix = vectors[own]
        # ridge: coins have variance 1/4
        gram = matrix @ matrix.T + 4.0 * np.eye(len(matrix))
        scores[own] = np.linalg.solve(gram, matrix @ (rest[own][0] - 0.5 * matrix.sum(axis=0)))
    return guess(scores, inside, delta, tries=1)


def guess(scores: Floats, inside: Mask, delta: float, *, tries: int) -> Bound:
    """Guess the highest scores in and the lowest out; the best bound over `GUESSED`, corrected for the choice."""
    order, best = np.argsort(scores, kind="stable"), Bound(0.0, 0, 0, len(scores))
    for share in GUESSED:
        half = max(1, int(share * len(scores)) // 2)
        right = int(inside[order[-half:]].sum() + (~inside[order[:half]]).sum())
        risk = (1 - CONFIDENCE) / (len(GUESSED) * tries)
        epsilon = least_epsilon(len(scores), 2 * half, right, delta, risk)
        if epsilon > best.epsilon or not best.guesses:
            best = Bound(epsilon, right, 2 * half, len(scores))
    return best


def least_epsilon(canaries: int, guesses: int, right: int, delta: float, risk: float) -> float:
    """The largest epsilon that so many right guesses refute at this risk (theorem 5.2 of Steinke et al.)."""
    if _p_value(canaries, guesses, right, 0.0, delta) > risk:
        return 0.0
    low, high = 0.0, 1.0
    while _p_value(canaries, guesses, right, high, delta) <= risk and high < 32:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_value(canaries, guesses, right, middle, delta) <= risk else (low, middle)
    return low


def area_under_curve(scores: Floats, truth: Mask) -> float:
    """The chance that a member scores above a non-member, ties counting half."""
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    members = int(truth.sum())
    return float((ranks[truth].sum() - members * (members + 1) / 2) / (members * (len(truth) - members)))


def true_positive_rate(scores: Floats, truth: Mask, false_positive_rate: float) -> float:
    """The share of members above the threshold that so few non-members exceed."""
    others = np.sort(scores[~truth])[::-1]
    threshold = others[min(len(others) - 1, int(false_positive_rate * len(others)))]
    return float((scores[truth] > threshold).mean())


def mislabelled(records: Dataset, seed: int) -> Dataset:
    """Records with a wrong label each: canaries that nothing else in the data speaks for."""
    random = np.random.default_rng(seed)
    present = np.flatnonzero(records.counts())
    places = np.searchsorted(present, records.labels)
    wrong = present[(places + random.integers(1, max(2, len(present)), len(records))) % len(present)]
    return Dataset(records.space, records.images, wrong.astype(np.int64))


def _online(seen: Floats, inside: Mask) -> Floats:
    """Log-likelihood ratio of in against out, each run judged by the others; variances shared by all records."""
    scores = np.zeros(inside.shape)
    for run in range(len(inside)):
        others = np.arange(len(inside)) != run
        for feature in range(seen.shape[2]):
            values, member = seen[others, :, feature], inside[others]
            mean_in, mean_out = _mean(values, member), _mean(values, ~member)
            spread_in, spread_out = _spread(values, member, mean_in), _spread(values, ~member, mean_out)
            now = seen[run, :, feature]
            ratio = _log_density(now, mean_in, spread_in) - _log_density(now, mean_out, spread_out)
            scores[run] += np.where(member.any(axis=0) & (~member).any(axis=0), ratio, 0.0)
    return scores


def _offline(seen: Floats, inside: Mask) -> Floats:
    """How unusual a record looks for one that is out: one-sided, summed over features."""
    scores = np.zeros(inside.shape)
    for run in range(len(inside)):
        others = np.arange(len(inside)) != run
        for feature in range(seen.shape[2]):
            values, out = seen[others, :, feature], ~inside[others]
            mean = _mean(values, out)
            scores[run] += np.where(out.any(axis=0), (seen[run, :, feature] - mean) / _spread(values, out, mean), 0.0)
    return scores


def _mean(values: Floats, chosen: Mask) -> Floats:
    mean: Floats = (values * chosen).sum(axis=0) / np.maximum(chosen.sum(axis=0), 1)
    return mean


def _spread(values: Floats, chosen: Mask, mean: Floats) -> float:
    freedom = max(1, int(chosen.sum()) - values.shape[1])
    return math.sqrt(float((((values - mean) ** 2) * chosen).sum()) / freedom + 1e-9)


def _log_density(values: Floats, mean: Floats, spread: float) -> Floats:
    density: Floats = -0.5 * ((values - mean) / spread) ** 2 - math.log(spread)
    return density


def _p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """How likely so many right guesses are if the publication is (epsilon, delta) private, at most."""
    chances = _binomial(guesses, 1 / (1 + math.exp(-epsilon)))
    below = np.cumsum(chances[:right][::-1])
    steepest = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, float(chances[right:].sum()) + steepest * delta * 2 * canaries)


def _binomial(n: int, chance: float) -> Floats:
    """The probabilities of 0 to n successes."""
    hits = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways = factorials[n] - factorials - factorials[::-1]
    probabilities: Floats = np.exp(ways + hits * math.log(chance) + (n - hits) * math.log1p(-chance))
    return probabilities


def _joined(base: Dataset, canaries: Dataset, inside: Mask) -> Dataset:
    return Dataset(
        base.space,
        np.concatenate([canaries.images[inside], base.images]),
        np.concatenate([canaries.labels[inside], base.labels]),
    )


def _half(count: int, random: np.random.Generator) -> Mask:
    chosen = np.zeros(count, bool)
    chosen[random.permutation(count)[: count // 2]] = True
    return chosen


def _flat(images: NDArray[np.uint8], records: Dataset) -> Floats:
    values: Floats = images.reshape(len(images), -1).astype(np.float64) / (records.space.levels - 1)
    return values
