"""Lessons and distillation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled
from meshlore.knowledge.augment import nth_view
from meshlore.knowledge.condense import CondenseSettings, condense
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.lessons import Lessons, assemble
from meshlore.knowledge.metrics import accuracy, personal_accuracy
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket, coarse
from meshlore.knowledge.rollback import hold_out, keep_better
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import fit_classifier
from meshlore.knowledge.trust import Verdict, weigh

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

SPACE = Space((1, 8, 8), ("a", "b", "c"), levels=17)
FULL = Verdict(1.0, "test")


def packet(labels: list[int], counts: list[int], said: list[list[float]] | None = None) -> SamplePacket:
    images = np.full((len(labels), 1, 8, 8), 3, np.uint8)
    images[:, 0, 0, 0] = np.arange(len(labels)) % 17  # no two alike
    return SamplePacket(
        SPACE.id,
        "condensed",
        images,
        np.array(labels, np.int64),
        None if said is None else np.array(said, np.float16),
        np.array(counts, np.int64),
    )


def test_only_authors_with_a_verdict_above_zero_teach() -> None:
    packets = {
        "1" * 64: ("good", packet([0, 1], [5, 5, 0])),
        "2" * 64: ("bad", packet([2], [0, 0, 9])),
        "3" * 64: ("unknown", packet([2], [0, 0, 9])),
    }
    verdicts = {"good": Verdict(0.5, ""), "bad": Verdict(0.0, "")}
    lessons = assemble(packets, [], verdicts, SPACE)
    assert lessons.labels.tolist() == [0, 1]
    assert lessons.weights.tolist() == [0.5, 0.5]
    assert not lessons.targets(2.0).any()


def test_copies_of_one_sample_share_one_weight_and_refuted_classes_have_none() -> None:
    copies = packet([0] * 6 + [1] * 2, [20, 20, 0])
    copies.images[:6] = copies.images[0]
    lessons = assemble({"1" * 64: ("a", copies)}, [], {"a": Verdict(1.0, "", frozenset({1}))}, SPACE)
    assert lessons.weights[:6].tolist() == pytest.approx([1 / 6] * 6)
    assert lessons.weights[6:].tolist() == [0.0, 0.0]


def test_later_answers_replace_earlier_ones() -> None:
    packets = {"1" * 64: ("a", packet([0], [5, 0, 0], [[0, 9, 0]]))}
    newer = LogitPacket(SPACE.id, ("1" * 64,), (np.array([[9, 0, 0]], np.float16),))
    lessons = assemble(packets, [("a", newer)], {"a": FULL}, SPACE)
    assert lessons.targets(1.0)[0, 0] > 0.99


def test_teachers_count_by_the_real_images_behind_them() -> None:
    packets = {
        "1" * 64: ("a", packet([0], [30, 0, 0], [[20, 0, 0]])),
        "2" * 64: ("b", packet([1], [10, 5, 0])),
    }
    other = LogitPacket(SPACE.id, ("1" * 64,), (np.array([[0, 20, 0]], np.float16),))
    lessons = assemble(packets, [("b", other)], {"a": FULL, "b": FULL}, SPACE)
    # by class 0: 30 of 40 images; for class 0 both know what is usual, for class 1 only b does, a by hearsay
    assert lessons.targets(1.0)[0].tolist() == pytest.approx([6 / 13, 7 / 13, 0.0], abs=1e-3)


def test_who_knows_a_class_by_hearsay_is_heard_less_about_it() -> None:
    packets = {
        "1" * 64: ("a", packet([0] * 2, [10, 0, 0], [[20, 20, 0]] * 2)),
        "2" * 64: ("b", packet([1], [10, 10, 0])),
    }
    other = LogitPacket(SPACE.id, ("1" * 64,), (np.array([[20, 0, 0]] * 2, np.float16),))
    target = assemble(packets, [("b", other)], {"a": FULL, "b": FULL}, SPACE).targets(1.0)[0]
    assert target[0] == pytest.approx(0.75 / (0.75 + 0.25 * 0.1 / 1.1), abs=1e-3)


def test_an_anchor_weighs_as_much_as_all_others_and_who_only_answers_hardly_anything() -> None:
    packets = {"1" * 64: ("a", packet([0], [30, 30, 0], [[20, 0, 0]]))}
    above = LogitPacket(SPACE.id, ("1" * 64,), (np.array([[0, 20, 0]], np.float16),))
    said, verdicts = [("b", above)], {"a": FULL, "b": FULL}
    by_anchor = assemble(packets, said, verdicts, SPACE, anchors={"b"})
    assert by_anchor.targets(1.0)[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-3)
    by_anybody = assemble(packets, said, verdicts, SPACE)
    assert by_anybody.targets(1.0)[0, 1] < 0.01


def test_a_boundless_claim_of_images_does_not_drown_the_others() -> None:
    packets = {
        "1" * 64: ("a", packet([0], [30, 0, 0], [[20, 0, 0]])),
        "2" * 64: ("b", packet([0], [20, 0, 0])),
        "3" * 64: ("liar", packet([0], [2**40, 2**40, 0])),
    }
    about = ("1" * 64,)
    others = [
        ("b", LogitPacket(SPACE.id, about, (np.array([[20, 0, 0]], np.float16),))),
        ("liar", LogitPacket(SPACE.id, about, (np.array([[0, 20, 0]], np.float16),))),
    ]
    lessons = assemble(packets, others, {"a": FULL, "b": FULL, "liar": FULL}, SPACE)
    assert lessons.targets(1.0)[0, 1] <= 0.8


def test_a_teacher_that_contradicts_most_labels_of_a_class_is_not_heard_about_it() -> None:
    labels = [0] * 4 + [1] * 4
    honest = [[20.0, 0, 0]] * 4 + [[0, 20.0, 0]] * 4
    turned = np.array([[20.0, 0, 0]] * 4 + [[0, 0, 20.0]] * 4, np.float16)
    packets = {
        "1" * 64: ("a", packet(labels, [10, 10, 0], honest)),
        "2" * 64: ("liar", packet(labels, [10, 10, 0])),
    }
    said = [("liar", LogitPacket(SPACE.id, ("1" * 64, "2" * 64), (turned, turned)))]
    lessons = assemble(packets, said, {"a": FULL, "liar": FULL}, SPACE)
    targets = lessons.targets(1.0)
    assert lessons.weights.tolist() == [1.0] * 16
    assert (targets[:4, 0] > 0.99).all()
    assert (targets[4:8, 1] > 0.99).all()
    assert (targets[8:12, 0] > 0.99).all()
    assert not targets[12:].any()


def test_the_error_of_a_minority_of_a_class_is_still_heard() -> None:
    labels = [0] * 5
    unsure = np.array([[20, 0, 0]] * 3 + [[0, 20, 0]] * 2, np.float16)
    packets = {"1" * 64: ("a", packet(labels, [10, 0, 0])), "2" * 64: ("b", packet([1], [0, 9, 0]))}
    lessons = assemble(packets, [("b", LogitPacket(SPACE.id, ("1" * 64,), (unsure,)))], {"a": FULL, "b": FULL}, SPACE)
    assert lessons.targets(1.0)[4, 1] > 0.99


def test_answers_about_unknown_packets_or_of_a_wrong_length_are_passed_over() -> None:
    packets = {"1" * 64: ("a", packet([0, 0], [5, 0, 0]))}
    odd = LogitPacket(SPACE.id, ("1" * 64, "9" * 64), (np.zeros((3, 3), np.float16), np.zeros((1, 3), np.float16)))
    assert not assemble(packets, [("a", odd)], {"a": FULL}, SPACE).targets(2.0).any()


def test_views_that_were_answered_are_lessons_too_and_share_the_weight_of_their_sample() -> None:
    packets = {"1" * 64: ("a", packet([0, 1], [5, 5, 0]))}
    sure = np.array([[9, 0, 0], [0, 9, 0]], np.float16)
    thrice = LogitPacket(SPACE.id, ("1" * 64,), (np.concatenate([sure, sure, sure]),))
    once = LogitPacket(SPACE.id, ("1" * 64,), (sure,))
    alone = assemble(packets, [("b", once)], {"a": FULL, "b": FULL}, SPACE)
    lessons = assemble(packets, [("b", once), ("c", thrice)], {"a": FULL, "b": FULL, "c": FULL}, SPACE)
    assert (len(alone), len(lessons)) == (2, 6)
    assert lessons.labels.tolist() == [0, 1] * 3
    assert torch.allclose(lessons.weights.view(3, 2).sum(dim=0), alone.weights)
    assert torch.allclose(lessons.targets(1.0).sum(dim=1), torch.ones(6))
    assert torch.equal(lessons.images[:2], alone.images)
    assert torch.equal(lessons.images[2:4], nth_view(alone.images, 1))


def test_a_teacher_that_lies_about_the_views_alone_is_not_heard() -> None:
    packets = {"1" * 64: ("a", packet([0] * 6, [6, 0, 0]))}
    true, false = np.tile(np.array([9, 0, 0], np.float16), (6, 1)), np.tile(np.array([0, 9, 0], np.float16), (6, 1))
    lie = LogitPacket(SPACE.id, ("1" * 64,), (np.concatenate([true, false, false]),))
    assert not assemble(packets, [("c", lie)], {"a": FULL, "c": FULL}, SPACE).targets(1.0).any()


def test_views_are_the_same_on_every_device() -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(nth_view(images, 0), images)
    assert torch.equal(nth_view(images, 2), nth_view(images, 2))
    assert not torch.equal(nth_view(images, 1), nth_view(images, 2))


def test_nothing_trusted_leaves_the_model_as_it_was() -> None:
    lessons = assemble({}, [], {}, SPACE)
    assert len(lessons) == 0
    model = build_model("mlp", SPACE, 0)
    student = distil(model, None, lessons, seed=0)
    assert student is not model
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), student.parameters(), strict=True))


def test_distilling_repeats_with_the_seed_and_leaves_the_model_and_global_randomness_alone() -> None:
    lessons = assemble({"1" * 64: ("a", packet([0, 1, 2], [5, 5, 5]))}, [], {"a": FULL}, SPACE)
    model = build_model("cnn-small", SPACE, 0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    randomness = torch.random.get_rng_state()
    for settings in (DistilSettings(steps=4), replace(DistilSettings.for_anchor(), steps=4)):
        first, again = (distil(model, None, lessons, settings=settings, seed=2) for _ in "ab")
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(randomness, torch.random.get_rng_state())


def test_a_step_that_raises_stops_the_distillation() -> None:
    lessons = assemble({"1" * 64: ("a", packet([0, 1, 2], [5, 5, 5]))}, [], {"a": FULL}, SPACE)

    def stop(fraction: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        distil(build_model("mlp", SPACE, 0), None, lessons, seed=0, step=stop)


def test_taught_beginners_are_heard_about_classes_they_never_saw(halves: tuple[Dataset, Dataset]) -> None:
    lessons, packets = lessons_of(halves)
    learn = halves[0]
    student = fit_classifier(build_model("cnn-small", learn.space, 0), learn, steps=100, seed=0)
    student = distil(student, learn, lessons, settings=DistilSettings(steps=100), seed=0)
    key, (author, other) = "1".zfill(64), packets["1".zfill(64)]
    answer = LogitPacket(learn.space.id, (key,), (coarse(logits(student, other.images, learn.space)),))
    verdicts = {author: FULL, "0": FULL}
    taught = assemble({key: (author, other)}, [("0", answer)], verdicts, learn.space).targets(2.0)
    assert (taught.sum(dim=1) > 0.99).all()


@pytest.fixture(scope="module")
def halves() -> tuple[Dataset, Dataset]:
    digits = load("digits").dataset.subset(np.arange(700))
    first = digits.subset(np.flatnonzero(digits.labels < 5))
    return first, digits.subset(np.flatnonzero(digits.labels >= 5))


def lessons_of(parts: tuple[Dataset, ...]) -> tuple[Lessons, dict[str, tuple[str, SamplePacket]]]:
    packets = {}
    for place, part in enumerate(parts):
        samples = condense(part, settings=CondenseSettings(iterations=25, per_class=25), seed=place)
        packets[f"{place:064x}"] = (
            str(place),
            SamplePacket(part.space.id, "condensed", samples.images, samples.labels, None, part.counts()),
        )
    verdicts = {str(place): FULL for place in range(len(parts))}
    return assemble(packets, [], verdicts, parts[0].space), packets


def test_two_nodes_with_half_the_classes_each_teach_each_other_without_forgetting_home(
    halves: tuple[Dataset, Dataset],
) -> None:
    test = load("digits:test").dataset
    lessons, packets = lessons_of(halves)
    verdicts = weigh(halves[0], {"1".zfill(64): packets["1".zfill(64)]}, [], test.space, seed=0)
    assert verdicts["1"].weight == 1.0
    learn, held = hold_out(halves[0], seed=0)
    before = fit_classifier(build_model("cnn-small", test.space, 0), learn, steps=100, seed=0)
    after = distil(before, learn, lessons, settings=DistilSettings(steps=150), seed=0)
    decision = keep_better(before, after, held, learn.prior())
    answer = logits(after, test.images, test.space)
    at_home = personal_accuracy(logits(before, test.images, test.space), test.labels, learn.prior())
    assert accuracy(answer, test.labels) > 0.9
    assert personal_accuracy(answer, test.labels, learn.prior()) > at_home - 0.02
    assert decision.kept


def test_an_anchor_learns_from_packets_alone(halves: tuple[Dataset, Dataset]) -> None:
    test = load("digits:test").dataset
    lessons, _ = lessons_of(halves)
    settings = replace(DistilSettings.for_anchor(), steps=150)
    model = distil(build_model("cnn-small", test.space, 0), None, lessons, settings=settings, seed=0)
    assert accuracy(logits(model, test.images, test.space), test.labels) > 0.9


def test_poisoned_lessons_are_rolled_back(halves: tuple[Dataset, Dataset]) -> None:
    lessons, _ = lessons_of(halves)
    poisoned = replace(lessons, labels=(lessons.labels + 1) % 10)
    learn, held = hold_out(halves[0], seed=0)
    before = fit_classifier(build_model("mlp", learn.space, 0), learn, steps=150, seed=0)
    after = distil(before, None, poisoned, settings=DistilSettings(steps=100), seed=0)
    assert not keep_better(before, after, held, learn.prior()).kept
