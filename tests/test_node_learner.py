"""What one device learns from others, and when it goes back on it."""

from dataclasses import replace

import numpy as np
import pytest
from meshlore.knowledge import metrics
from meshlore.knowledge.models import logits
from meshlore.knowledge.rollback import Decision
from meshlore.knowledge.space import Space
from meshlore.node import learner as subject
from meshlore.node.learner import MORE_PRIVATE, Learner
from meshlore.node.library import Entry
from meshlore.node.private_learner import PrivateLearner
from meshlore.node.settings import Learning
from meshlore.node.skills import Skills
from meshlore.node.taught import Taught
from village import SPACE, digits

QUICK = Learning(samples_per_class=4, classifier_steps=20, condense_steps=5, distil_steps=5)


@pytest.fixture
def lesson() -> Entry:
    author = Learner(SPACE, "node", "", digits("123"), QUICK, 1)
    return Entry("1" * 64, "ben", "ben", 1, 0.0, author.condense(lambda _: None))


def decisions(*kept: bool):
    left = list(kept)
    return lambda *_, **__: Decision(left.pop(0), 0.9, 0.8, 1, 5, "as the test says")


@pytest.mark.parametrize(
    ("kept", "tries", "taught"), [((True,), 1, True), ((False, True), 2, True), ((False, False), 2, False)]
)
@pytest.mark.parametrize("private", [False, True], ids=["open", "under differential privacy"])
def test_what_is_worse_at_home_is_tried_once_more_with_more_private_data(
    monkeypatch, lesson, kept, tries, taught, private
):
    batches, distil = [], subject.distil

    def watched(*arguments, settings, **more):
        batches.append(settings.private_batch)
        return distil(*arguments, settings=replace(settings, steps=2), **more)

    monkeypatch.setattr(subject, "distil", watched)
    monkeypatch.setattr(subject, "keep_better", decisions(*kept))
    node = Learner(SPACE, "node", "", digits("01"), QUICK, 0)
    if private:
        node = PrivateLearner(SPACE, "node", "", digits("01"), QUICK, 0, paid=lambda _: None, epsilon=4.0)
    before = node.train(lambda _: None)
    outcome = node.distil(before, None, [lesson], {}, turn=0, step=lambda _: None)
    if private:  # the public classifier comes first, from packets alone
        assert batches.pop(0) == 0
    assert batches == [32, MORE_PRIVATE][:tries]
    assert outcome.kept is taught
    assert (outcome.classifier is before) is not taught


def test_a_refinement_is_judged_beside_whom_the_device_asks_at_home_as_well(monkeypatch, lesson):
    asked = []

    def watched(known, student, *_, beside):
        asked.append(beside)
        return Decision(True, 0.8, 0.9, 5, 1, "as the test says")

    monkeypatch.setattr(subject, "keep_better", watched)
    node = Learner(SPACE, "node", "", digits("01"), QUICK, 0)
    alone = node.train(lambda _: None)
    first = node.distil(alone, None, [lesson], {}, turn=0, step=lambda _: None).classifier
    node.distil(first, None, [lesson], {}, turn=1, step=lambda _: None, refines=True, beside=first)
    assert asked == [None, first]


def test_the_expert_is_the_classifier_before_any_refinement():
    untaught, taught, expert = (Learner(SPACE, "node", "", None, QUICK, seed).fresh() for seed in range(3))
    assert Skills(taught, untaught).expert_of_next is taught
    assert Skills(taught, untaught, expert=expert).expert_of_next is expert


def test_the_same_packets_are_weighed_once_until_the_private_data_change(monkeypatch, lesson):
    weighings, weigh = [], subject.weigh
    monkeypatch.setattr(subject, "weigh", lambda *arguments, **more: weighings.append(1) or weigh(*arguments, **more))
    node = Learner(SPACE, "node", "", digits("01"), QUICK, 0)
    first = node.weigh([lesson], {})
    assert node.weigh([lesson], {"ben": 0.5})["ben"].weight == first["ben"].weight / 2
    assert len(weighings) == 1
    node.add_private(digits("1"))
    node.weigh([lesson], {})
    node.weigh([replace(lesson, name="2" * 64)], {})
    part = replace(lesson.packet, images=lesson.packet.images[:4], labels=lesson.packet.labels[:4])
    node.weigh([replace(lesson, name="2" * 64, packet=part)], {})
    assert len(weighings) == 4


LARGE = Space((1, 28, 28), SPACE.classes)


@pytest.mark.parametrize(
    ("role", "space", "refinements", "kept", "first", "refines", "due"),
    [
        ("node", LARGE, 1, True, True, False, True),
        ("node", LARGE, 1, False, True, False, True),  # what it knows nobody else does
        ("node", LARGE, 1, False, False, False, False),
        ("node", LARGE, 1, True, False, False, True),
        ("node", LARGE, 1, True, False, True, False),
        ("anchor", SPACE, 1, True, True, False, True),
        ("anchor", SPACE, 1, False, True, False, False),
        ("anchor", LARGE, 1, True, True, False, False),  # it does not know what all together know
        ("anchor", LARGE, 1, True, False, True, True),
        ("anchor", LARGE, 0, True, True, False, True),  # it learns from no answers
    ],
)
def test_after_which_lessons_others_hear_answers(role, space, refinements, kept, first, refines, due):
    learner = Learner(space, role, "", None, Learning(refinements=refinements), 0)
    taught = Taught(learner.fresh(), kept, "as the test says")
    assert learner.has_news(taught, first=first, refines=refines) is due


def test_who_has_one_class_alone_learns_the_others_in_one_lesson():
    teachers = [Learner(SPACE, "node", "", digits(classes), QUICK, place) for place, classes in enumerate(("01", "12"))]
    lessons = [
        Entry(f"{place:064x}", f"t{place}", f"t{place}", 1, 0.0, teacher.condense(lambda _: None))
        for place, teacher in enumerate(teachers)
    ]
    brief = QUICK.model_copy(update={"classifier_steps": 60, "distil_steps": 15})
    node = Learner(SPACE, "node", "cnn-medium", digits("3").subset(np.arange(20)), brief, 140)
    taught = node.distil(node.train(lambda _: None), None, lessons, {}, turn=0, step=lambda _: None)
    probe = digits("012")
    assert metrics.accuracy(logits(taught.classifier, probe.images, SPACE), probe.labels) > 0.8
