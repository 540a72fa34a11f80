"""What liars do, and what honest nodes make of it: whole attacks on small meshes of digits."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from meshlore.benchmarks.attack_harness import Ground, Silent, prepare, prepare_parts, published, run, verdicts_of
from meshlore.benchmarks.attacks import (
    Backdoor,
    ClassSwap,
    FreeRider,
    LabelFlip,
    LeastLikely,
    LyingAnswers,
    MostConfusable,
    Noise,
    ProbeAware,
)
from meshlore.benchmarks.liar import Attack, Liar, Scene
from meshlore.knowledge.packet import SamplePacket
from meshlore.knowledge.sources import load
from meshlore.node.settings import Learning

torch.set_num_threads(1)

QUICK = Learning(samples_per_class=10, classifier_steps=60, condense_steps=10, distil_steps=60)
LIARS = (1, 3)


@cache
def ground() -> Ground:
    """Five nodes; classes overlap."""
    return prepare(load("digits").dataset, load("digits:test").dataset, "dirichlet 0.5", 5, 1, QUICK)


def truth(place: int) -> SamplePacket:
    packet = ground().packets[place]
    assert packet is not None
    return packet


def lie(attack: Attack, place: int = 1) -> SamplePacket:
    entry = published(ground(), {place: attack})[place].packet
    assert isinstance(entry, SamplePacket)
    return entry


def test_each_attack_is_judged_by_itself() -> None:
    """Nodes remember what they made of packets, by their names."""
    about = [verdicts_of(ground(), {1: attack}, 0)[1] for attack in (LabelFlip(), Noise(), LabelFlip())]
    assert about[0] == about[2] != about[1]


def test_a_label_flip_names_every_class_after_another_and_plotters_flip_alike() -> None:
    assert (lie(LabelFlip()).labels != truth(1).labels).all()
    assert np.array_equal(lie(LabelFlip()).images, truth(1).images)
    both = published(ground(), dict.fromkeys(LIARS, LabelFlip(plot=4)))
    renamed = [dict(zip(truth(p).labels.tolist(), both[p].packet.labels.tolist(), strict=True)) for p in LIARS]  # type: ignore[union-attr]
    assert all(renamed[0][label] == renamed[1][label] for label in renamed[0].keys() & renamed[1].keys())


def test_noise_keeps_labels_and_smooth_noise_is_smoother() -> None:
    rough, smooth = lie(Noise()), lie(Noise(smooth=2))
    assert np.array_equal(rough.labels, truth(1).labels)
    assert np.abs(np.diff(smooth.images.astype(int))).mean() < np.abs(np.diff(rough.images.astype(int))).mean()


def test_lma_takes_the_least_likely_class_and_cpa_one_other_class_for_each() -> None:
    scene = Scene(ground().learners[1], ground().classifiers[1], (), np.random.default_rng(0))
    assert np.array_equal(lie(LeastLikely()).labels, scene.opinion(truth(1)).argmin(axis=1))
    said = lie(MostConfusable())
    for label in np.unique(truth(1).labels):
        assert len(set(said.labels[truth(1).labels == label].tolist()) - {int(label)}) == 1


def test_a_probe_aware_liar_is_honest_about_what_its_victim_holds() -> None:
    victim = frozenset({0, 2, 4, 6})
    said, true = lie(ProbeAware(victim)).labels, truth(1).labels
    spared = np.isin(true, sorted(victim))
    assert np.array_equal(said[spared], true[spared])
    assert (said[~spared] != true[~spared]).all()


def test_a_backdoor_stamps_a_corner() -> None:
    said = lie(Backdoor(target=0))
    added = said.images[len(truth(1)) :]
    assert (added[..., -2:, -2:] == 16).all()
    assert (said.labels[len(truth(1)) :] == 0).all()
    clean = lie(Backdoor(target=int(truth(1).labels[0]), clean_label=True))
    assert np.array_equal(clean.labels, truth(1).labels)
    assert (clean.images[0, :, -2:, -2:] == 16).all()


def test_a_free_rider_resigns_the_largest_packet_or_invents_something() -> None:
    largest = max((truth(place) for place in (0, 2, 3, 4)), key=len)
    assert np.array_equal(lie(FreeRider()).images, largest.images)
    assert len(lie(FreeRider(copies=False))) == len(truth(1))


def test_a_liar_stands_in_for_the_learner_of_a_node() -> None:
    liar = Liar(ground().learners[1], LabelFlip(plot=2))
    classifier = liar.train(lambda _fraction: None)
    packet = liar.condense(lambda _fraction: None)
    assert packet is not None
    assert not set(packet.labels[:3].tolist()) & set(truth(1).labels[:3].tolist())
    assert classifier is liar.classifier


ATTACKS: dict[str, dict[int, Attack]] = {
    "label flip": dict.fromkeys(LIARS, LabelFlip(plot=0)),
    "noise": dict.fromkeys(LIARS, Noise()),
    "least likely": dict.fromkeys(LIARS, LeastLikely()),
    "most confusable": dict.fromkeys(LIARS, MostConfusable()),
    "probe-aware": dict.fromkeys(LIARS, ProbeAware(frozenset({0, 1, 2}), plot=0)),
    "backdoor": dict.fromkeys(LIARS, Backdoor(target=0)),
    "free rider": dict.fromkeys(LIARS, FreeRider()),
    "swap": dict.fromkeys(LIARS, ClassSwap(times=3)),
    "lying answers": dict.fromkeys(LIARS, LyingAnswers()),
}


@cache
def without_liars() -> float:
    return run(ground(), dict.fromkeys(LIARS, Silent()), judged=[0]).after[0]


@pytest.mark.parametrize("name", list(ATTACKS))
def test_two_liars_of_five_cost_an_honest_node_at_most_six_points(name: str) -> None:
    outcome = run(ground(), ATTACKS[name], judged=[0])
    assert outcome.after[0] >= without_liars() - 0.06
    assert outcome.after[0] > outcome.before[0]
    assert outcome.at_home[0] >= outcome.at_home_before[0] - 0.02
    assert outcome.refused == 0


def test_a_trigger_hardly_works() -> None:
    for attack in (Backdoor(target=0), Backdoor(target=0, clean_label=True)):
        triggered = run(ground(), dict.fromkeys(LIARS, attack), judged=[0]).triggered
        assert triggered is not None
        assert triggered < 0.25


def test_copies_of_others_samples_get_no_weight_and_who_made_them_keeps_it() -> None:
    attacks: dict[int, Attack] = dict.fromkeys(LIARS, FreeRider())
    for judge in (0, 2):
        verdicts = verdicts_of(ground(), attacks, judge)
        assert all(verdicts[place].weight == 1.0 for place in (0, 2, 4) if place != judge)
        # whoever copies the judge itself cannot be seen from the others' packets
        original = max((place for place in (0, 2, 4)), key=lambda place: len(truth(place)))
        if judge != original:
            assert all(verdicts[place].weight == 0.0 for place in LIARS)


def test_clean_runs_refuse_nobody_and_lose_no_class() -> None:
    for judge in range(5):
        for verdict in verdicts_of(ground(), {}, judge).values():
            assert verdict.weight == 1.0
            assert verdict.refuted == frozenset()


def test_a_specialist_of_rare_classes_keeps_its_weight_under_attack() -> None:
    digits = load("digits").dataset
    common = [np.flatnonzero(np.isin(digits.labels, range(8)))[place::4] for place in range(4)]
    rare = [np.flatnonzero(digits.labels == label)[:12] for label in (8, 9)]
    parts = [digits.subset(indices) for indices in [*common, np.concatenate(rare)]]
    mesh = prepare_parts(parts, digits, 0, QUICK)
    for attack in (LabelFlip(plot=1), ProbeAware(frozenset({0, 1, 2}), plot=1), LeastLikely()):
        verdict = verdicts_of(mesh, {1: attack, 2: attack}, 0)[4]
        assert verdict.weight == 1.0
        assert verdict.refuted == frozenset()
