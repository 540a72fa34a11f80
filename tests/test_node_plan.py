"""The plan: which action follows from which situation."""

from dataclasses import replace

import pytest
from meshlore.node.plan import (
    Distil,
    PeerView,
    Publish,
    PublishLogits,
    Situation,
    Stage,
    Train,
    TrainGenerator,
    Wait,
    plan,
    stage_of,
)

PUBLISHED = PeerView("node", Stage.PUBLISHED)
TAUGHT = PeerView("node", Stage.TAUGHT)
LEARNING = PeerView("node", Stage.LEARNING)

fresh = Situation(role="node")
out = replace(fresh, trained=True, published=True)
with_news = replace(out, samples=frozenset({"a", "b"}), peers=(PUBLISHED, PUBLISHED))
taught = replace(
    out,
    samples=frozenset({"a", "b"}),
    taught_by=frozenset({"a", "b"}),
    generator_taught_by=frozenset(),
    peers=(TAUGHT, TAUGHT),
)


@pytest.mark.parametrize(
    ("situation", "action"),
    [
        (fresh, Train()),
        (replace(fresh, trained=True), Publish()),
        (with_news, Distil(frozenset({"a", "b"}), refines=False)),
        (replace(with_news, peers=(PUBLISHED, LEARNING)), TrainGenerator(frozenset())),
        (replace(with_news, peers=(PUBLISHED, LEARNING), waited_s=99), Distil(with_news.samples, refines=False)),
        (replace(with_news, missing=1, generator_taught_by=frozenset()), Wait(settled=False, at_most_s=20.0)),
        (replace(taught, logits_due=True), PublishLogits()),
        (replace(taught, logits=frozenset({"l"})), Distil(frozenset({"a", "b", "l"}), refines=True)),
        (
            replace(taught, logits=frozenset({"l"}), peers=(TAUGHT, PUBLISHED), waited_s=5),
            Wait(settled=False, at_most_s=15.0),
        ),
        (replace(taught, logits=frozenset({"l"}), refined=1), TrainGenerator(frozenset({"a", "b"}))),
        (replace(taught, generator_taught_by=frozenset({"a", "b"})), Wait(settled=True)),
        (
            replace(taught, logits_due=True, to_unlearn=frozenset({"eve"})),
            Distil(frozenset({"a", "b"}), refines=False, anew=True),
        ),
        (
            replace(taught, logits_due=True, generator_to_unlearn=frozenset({"eve"})),
            TrainGenerator(frozenset({"a", "b"}), anew=True),
        ),
    ],
)
def test_the_first_rule_that_applies_decides(situation, action):
    assert plan(situation) == action


def test_a_node_alone_settles_after_its_first_generator():
    assert plan(replace(out, generator_taught_by=frozenset())) == Wait(settled=True)


def test_an_anchor_never_trains_on_private_data_and_publishes_nothing_before_it_was_taught():
    anchor = Situation(role="anchor")
    assert plan(anchor) == Wait(settled=True)
    assert stage_of(anchor) == Stage.PUBLISHED
    assert plan(replace(anchor, samples=frozenset({"a"}), peers=(PUBLISHED,))) == Distil(
        frozenset({"a"}), refines=False
    )


def test_a_packet_that_comes_late_starts_a_new_round():
    late = replace(taught, samples=frozenset({"a", "b", "c"}), refined=1)
    assert plan(late) == Distil(frozenset({"a", "b", "c"}), refines=False)


@pytest.mark.parametrize(
    ("peers", "refined", "unheard", "again"),
    [
        ((TAUGHT, TAUGHT), 1, True, True),
        ((TAUGHT, TAUGHT), 1, False, False),  # better answers of those that were heard
        ((TAUGHT, PUBLISHED), 1, True, False),  # another one is late, too
        ((TAUGHT, TAUGHT), 2, True, False),
    ],
)
@pytest.mark.parametrize("waited_s", [0, 99])
def test_a_neighbour_that_answered_late_is_heard_once_all_have_answered(peers, refined, unheard, again, waited_s):
    known = replace(taught, generator_taught_by=taught.samples, peers=peers, waited_s=waited_s)
    late = replace(known, logits=frozenset({"l"}), refined=refined, unheard=unheard)
    lesson = Distil(frozenset({"a", "b", "l"}), refines=True)
    assert plan(late) == (lesson if again else Wait(settled=True))


def test_whoever_nobody_has_anything_to_teach_is_not_waited_for():
    silent = replace(out, peers=(PUBLISHED, TAUGHT))
    assert stage_of(silent) == stage_of(Situation(role="anchor", peers=silent.peers)) == Stage.TAUGHT
    for waits in (
        replace(silent, missing=1),
        replace(silent, samples=frozenset({"a"})),
        replace(silent, peers=(PUBLISHED, LEARNING)),
        replace(silent, peers=()),
    ):
        assert stage_of(waits) == Stage.PUBLISHED


def test_stages_follow_the_cycle():
    assert [stage_of(s) for s in (fresh, out, replace(taught, logits_due=True), taught)] == [0, 1, 1, 2]
