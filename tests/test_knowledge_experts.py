"""The mixture of experts: who shares an expert, what is trained again, and what a part of it knows."""

from __future__ import annotations

from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from meshlore.errors import ModelError
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.distil import DistilSettings
from meshlore.knowledge.experts import Mixture, Origin, Shard, alike, build_gate, learn_mixture
from meshlore.knowledge.lessons import Lessons
from meshlore.knowledge.models import build_model, logits, to_tensor
from meshlore.knowledge.sources import load

DIGITS, TEST = load("digits").dataset, load("digits:test").dataset
SPACE = DIGITS.space
MODEL = "mlp"
BRIEF = DistilSettings(steps=120, private_batch=0, lesson_batch=32)

torch.set_num_threads(1)


def lessons(data: Dataset) -> Lessons:
    labels = torch.from_numpy(data.labels)
    return Lessons(to_tensor(data.images, SPACE), labels, torch.ones(len(labels)), SPACE.num_classes, ())


@lru_cache
def shard(classes: str, name: str = "", edition: str = "0") -> Shard:
    chosen = DIGITS.subset(np.flatnonzero(np.isin(DIGITS.labels, [int(label) for label in classes]))[:150])
    sources = frozenset(letter.encode() * 32 for letter in name or classes[:1])
    return Shard(lessons(chosen), Origin(sources, edition.encode() * 32))


def learned(previous: Mixture, *shards: Shard) -> Mixture:
    together = [part.lessons for part in shards]
    everything = Lessons(
        torch.cat([part.images for part in together]),
        torch.cat([part.labels for part in together]),
        torch.cat([part.weights for part in together]),
        SPACE.num_classes,
        (),
    )
    fresh = partial(build_model, MODEL, SPACE, 0)
    gate = partial(build_gate, MODEL, SPACE, seed=0)
    return learn_mixture(previous, shards, everything, fresh, gate, settings=BRIEF, seed=0)


@pytest.fixture(scope="module")
def mixture() -> Mixture:
    return learned(Mixture.untaught(SPACE), shard("0123"), shard("4567"), shard("89"))


def accuracy(model: torch.nn.Module, classes: str) -> float:
    per_class = metrics.per_class_accuracy(logits(model, TEST.images, SPACE), TEST.labels)
    return float(per_class[[int(label) for label in classes]].mean())


@pytest.mark.parametrize(
    ("counts", "most", "groups"),
    [
        ({}, 3, []),
        ({"a": [9, 0, 0], "b": [0, 9, 0], "c": [8, 1, 0]}, 3, [["a", "c"], ["b"]]),
        ({"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 4, 5]}, 2, [["a"], ["b", "c"]]),
        ({"a": [9, 0, 0], "b": [0, 9, 0], "c": [0, 0, 9]}, 3, [["a"], ["b"], ["c"]]),
        ({"a": [3, 3, 3], "b": [300, 310, 290]}, 3, [["a", "b"]]),
        ({"a": [0, 0, 0], "b": [1, 0, 0]}, 1, [["a", "b"]]),
    ],
)
def test_authors_of_like_classes_share_an_expert(counts, most, groups):
    assert alike({author: np.array(count) for author, count in counts.items()}, most) == groups


def test_the_gate_finds_who_knows_and_the_mixture_knows_all(mixture):
    assert accuracy(mixture, "0123456789") > 0.8
    assert all(accuracy(expert, "0123456789") < 0.5 for expert in mixture.experts)
    assert logits(mixture, TEST.images[:5], SPACE).shape == (5, 10)


def test_untaught_it_prefers_nothing():
    assert not logits(Mixture.untaught(SPACE), TEST.images[:2], SPACE).any()
    assert len(Mixture.untaught(SPACE).part([0]).experts) == 0


def test_only_the_expert_whose_shard_changed_is_trained(mixture):
    more = learned(mixture, shard("0123"), shard("4567", name="4x"), shard("89"))
    assert more.experts[0] is mixture.experts[0]
    assert more.experts[2] is mixture.experts[2]
    assert more.experts[1] is not mixture.experts[1]


def test_an_expert_goes_on_where_nothing_was_lost_and_else_begins_anew(mixture, monkeypatch):
    from meshlore.knowledge import experts

    starts = []
    monkeypatch.setattr(experts, "distil", lambda start, *_, **__: starts.append(start) or start)
    gained, answered, lost = shard("4567", name="4x"), shard("4567", edition="1"), shard("4567", name="x")
    for changed in (gained, answered, lost):
        learned(mixture, shard("0123"), changed, shard("89"))
    assert starts[:2] == [mixture.experts[1]] * 2
    assert starts[2] not in list(mixture.experts)


def test_what_a_shard_alone_taught_is_gone_with_it(mixture):
    rest = learned(mixture, shard("0123"), shard("89"))
    assert accuracy(rest, "4567") < 0.05
    assert accuracy(rest, "012389") > 0.8
    assert not rest.taught[:, 4:8].any()


def test_a_part_is_smaller_and_as_good_at_its_task(mixture):
    part = mixture.part([8, 9])
    assert len(part.experts) == 1
    assert sum(p.numel() for p in part.parameters()) < 0.5 * sum(p.numel() for p in mixture.parameters())
    assert accuracy(part, "89") >= accuracy(mixture, "89")
    assert len(mixture.part([3, 8]).experts) == 2
    assert accuracy(mixture.part([3, 8]), "38") > 0.7


def test_it_comes_back_from_its_state_and_knows_what_it_was_made_of(mixture):
    back = Mixture.from_state(mixture.state_dict(), MODEL, SPACE, 0)
    assert np.array_equal(logits(back, TEST.images[:9], SPACE), logits(mixture, TEST.images[:9], SPACE))
    assert back.origins == mixture.origins
    empty = Mixture.from_state(Mixture.untaught(SPACE).state_dict(), MODEL, SPACE, 0)
    assert len(empty.experts) == 0
    with pytest.raises(ModelError, match="no mixture"):
        Mixture.from_state(mixture.state_dict(), "mlp-large", SPACE, 0)
    with pytest.raises(ModelError, match="no mixture"):
        Mixture.from_state(build_model(MODEL, SPACE, 0).state_dict(), MODEL, SPACE, 0)


def test_it_takes_up_classes_that_it_never_answers_with(mixture):
    space = SPACE.grown(["ten"])
    grown = mixture.grown(MODEL, SPACE, space, 0)
    said = logits(grown, TEST.images[:50], space)
    assert said.shape == (50, 11)
    assert np.array_equal(said.argmax(axis=1), logits(mixture, TEST.images[:50], SPACE).argmax(axis=1))
