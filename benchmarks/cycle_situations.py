"""The situations of `benchmarks.cycle`: who has which data, who hears whom, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.generators import Generator
from meshlore.knowledge.models import logits
from meshlore.knowledge.partition import partition_classes, partition_dirichlet
from meshlore.knowledge.training import no_step
from meshlore.node.settings import Learning

from .attack_harness import prepare_parts
from .cycle_exchange import (
    Hears,
    Village,
    anchor_generator,
    anchored,
    cut_skill,
    drawn_skill,
    everybody,
    heard,
    ring,
    taught,
    untaught,
)
from .knowledge_cells import Cell, Split, load_split
from .knowledge_generation import oracle_of

ALPHA = 0.1
TAUGHT_NODES, NEW_SAMPLES = 4, 20
RING_NODES = 10
JUDGED = range(0, RING_NODES, 4)
"""Of the ring, who takes the last lesson and is measured: one node with each model."""
DRAWING_NODES, CLASSES_EACH = 5, 2
DRAWN_TO_JUDGE = 50
NEIGHBOURS, ANCHOR = "neighbours", "neighbours and anchor"
CUT, DRAWN = "the same and a skill", "the same and a drawn skill"
ANCHOR_DRAWS = "the anchor draws"
Run = Callable[[int, Split, Learning], dict[str, Any]]


def newcomer(seed: int, split: Split, settings: Learning) -> dict[str, Any]:
    """A node with few samples of all classes joins nodes that have taught each other, and is heard by them then."""
    train, test, _ = load_split("digits", seed, split)
    order = np.random.default_rng(seed).permutation(len(train))
    few, rest = train.subset(order[:NEW_SAMPLES]), train.subset(order[NEW_SAMPLES:])
    parts = [rest.subset(part) for part in partition_dirichlet(rest.labels, TAUGHT_NODES, ALPHA, seed)]
    start, new, old = untaught(prepare_parts([*parts, few], test, seed, settings)), TAUGHT_NODES, range(TAUGHT_NODES)
    all_hear = everybody(len(parts) + 1)

    def before(place: int) -> frozenset[int]:
        return all_hear(place) - {new}

    first = taught(start, before, old)
    anchor = anchored(start, old, settings).anchor
    alone = taught(first, before, old)
    with_anchor = taught(replace(first, anchor=anchor), before, old)
    skill = drawn_skill(with_anchor, anchor_generator(with_anchor))

    def welcomed(village: Village) -> Village:
        """Those who were there learn what the newcomer has published."""
        if village.anchor is not None:
            village = anchored(village, range(new + 1), settings)
        return taught(village, all_hear, old)

    joined = {
        NEIGHBOURS: taught(alone, all_hear, [new]),
        ANCHOR: taught(with_anchor, all_hear, [new]),
        DRAWN: taught(with_anchor, all_hear, [new], skill),
    }
    again = {NEIGHBOURS: welcomed(joined[NEIGHBOURS]), ANCHOR: welcomed(joined[ANCHOR])}
    again[DRAWN] = replace(again[ANCHOR], classifiers=joined[DRAWN].classifiers)
    last = {
        NEIGHBOURS: taught(again[NEIGHBOURS], all_hear, [new]),
        ANCHOR: taught(again[ANCHOR], all_hear, [new]),
        DRAWN: taught(again[DRAWN], all_hear, [new], skill),
    }
    return {way: _by_lesson([start, joined[way], last[way]], [new]) for way in joined}


def sparse_ring(seed: int, split: Split, settings: Learning) -> dict[str, Any]:
    """Ten nodes with two neighbours each: packets go on from neighbour to neighbour, so everybody hears all."""
    return _ring(seed, split, settings, everybody(RING_NODES), DRAWN)


def direct_ring(seed: int, split: Split, settings: Learning) -> dict[str, Any]:
    """The same nodes if they learned from the packets of their two neighbours only, which no setting makes them do."""
    return _ring(seed, split, settings, ring(RING_NODES), CUT)


def drawing(seed: int, split: Split, settings: Learning) -> dict[str, Any]:
    """A node with two classes draws the other eight; an oracle trained on all real training data says how well."""
    train, test, _ = load_split("digits", seed, split)
    parts = [train.subset(part) for part in partition_classes(train.labels, DRAWING_NODES, CLASSES_EACH, seed)]
    start = untaught(prepare_parts(parts, test, seed, settings))
    above = anchored(start, range(DRAWING_NODES), settings)
    learner, others = start.ground.learners[0], everybody(DRAWING_NODES)(0)
    foreign = np.setdiff1d(np.arange(train.space.num_classes), parts[0].labels)
    oracle = oracle_of(Cell("digits", "two-classes", DRAWING_NODES, seed, "drawing", split))

    def judged(generator: Generator | None) -> list[float]:
        if generator is None:
            return [0.0] * len(foreign)
        labels = np.repeat(foreign, DRAWN_TO_JUDGE)
        said = logits(oracle, generator.sample(labels, seed=seed), train.space).argmax(axis=1)
        return [float((said[labels == label] == label).mean()) for label in foreign]

    alone, from_packets = judged(learner.fit_generator([], {}, no_step)), anchor_generator(above)
    material = {
        NEIGHBOURS: heard(start, others),
        ANCHOR: heard(above, others),
        DRAWN: [*heard(above, others), *drawn_skill(above, from_packets)(0)],
    }
    drawn = {way: judged(learner.fit_generator(entries, {}, no_step)) for way, entries in material.items()}
    drawn[ANCHOR_DRAWS] = judged(from_packets)
    return {way: {"means": [_mean(alone), _mean(each)], "worst": min(each)} for way, each in drawn.items()}


SITUATIONS: Mapping[str, Run] = {
    "new node": newcomer,
    "ring": sparse_ring,
    "ring, direct neighbours' packets only": direct_ring,
    "drawing foreign classes": drawing,
}


@lru_cache(maxsize=1)
def _at_home(seed: int, split: Split, settings: Learning) -> Village:
    """Both rings begin alike."""
    train, test, _ = load_split("digits", seed, split)
    parts = [train.subset(part) for part in partition_dirichlet(train.labels, RING_NODES, ALPHA, seed)]
    return untaught(prepare_parts(parts, test, seed, settings))


def _ring(seed: int, split: Split, settings: Learning, hears: Hears, skill: str) -> dict[str, Any]:
    start, places = _at_home(seed, split, settings), range(RING_NODES)
    first = taught(start, hears, places)
    below = replace(first, anchor=anchored(start, places, settings).anchor)
    fetched = cut_skill(below, hears) if skill == CUT else drawn_skill(below, anchor_generator(below))
    last = {
        NEIGHBOURS: taught(first, hears, JUDGED),
        ANCHOR: taught(below, hears, JUDGED),
        skill: taught(below, hears, JUDGED, fetched),
    }
    return {way: _by_lesson([start, first, village], JUDGED) for way, village in last.items()}


def _by_lesson(villages: Sequence[Village], places: Sequence[int]) -> dict[str, Any]:
    """Accuracy over all classes alike: the mean over nodes after each lesson, and the worst node's after the last."""
    found = [[_accuracy(village, place) for place in places] for village in villages]
    return {"means": [_mean(each) for each in found], "worst": min(found[-1])}


def _accuracy(village: Village, place: int) -> float:
    test: Dataset = village.ground.test
    return float(metrics.global_accuracy(logits(village.classifiers[place], test.images, test.space), test.labels))


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
