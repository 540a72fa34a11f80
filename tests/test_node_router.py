"""Routing: the order in which nodes are asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import DecodeError
from meshlore.knowledge.space import Space
from meshlore.node.router import Candidate, Competence, route


def node(name, classify, *, generate=(), load=0, hop="peer", rtt_s=0.0, latency_s=0.0):
    competence = Competence(tuple(classify), tuple(generate), load, latency_s=latency_s)
    return Candidate(name, name, hop, competence, rtt_s)


def order(candidates, **how):
    return [c.name for c in route("classify", how.pop("classes", None), candidates, **how)]


def test_the_most_competent_comes_first():
    assert order([node("a", [0.5, 0.5]), node("b", [0.9, 0.9])]) == ["b", "a"]


def test_home_wins_among_equals_and_a_specialist_wins_for_its_class():
    home, expert = node("home", [0.9, 0.2], hop="here"), node("expert", [0.9, 0.9])
    assert order([expert, home], classes={0: 1.0}) == ["home", "expert"]
    assert order([expert, home], classes={1: 1.0}) == ["expert", "home"]
    assert order([expert, home], classes={0: 0.97, 1: 0.03}) == ["home", "expert"]
    assert order([expert, home], classes={0: 0.5, 1: 0.5}) == ["expert", "home"]


def test_samples_stay_here_unless_another_is_better_by_as_much_as_is_set():
    home, expert = node("home", [0.9], hop="here"), node("expert", [0.98])
    assert order([expert, home]) == ["expert", "home"]
    assert order([expert, home], leave_for=0.1) == ["home", "expert"]
    assert order([node("expert", [1.0]), node("home", [0.6], hop="here")], leave_for=1.0)[0] == "home"


def test_a_node_that_is_good_enough_gives_its_work_away_only_when_others_are_much_sooner():
    expert = node("expert", [0.9], rtt_s=0.01)
    assert order([expert, node("home", [0.9], hop="here", load=40, latency_s=0.01)])[0] == "home"
    assert order([expert, node("home", [0.9], hop="here", load=60, latency_s=0.01)])[0] == "expert"


def test_load_and_distance_decide_among_equals():
    assert order([node("busy", [0.9], load=5), node("free", [0.9])]) == ["free", "busy"]
    assert order([node("far", [0.9], rtt_s=1.0), node("near", [0.9], rtt_s=0.01)]) == ["near", "far"]
    assert order([node("slow", [0.9], latency_s=0.5), node("quick", [0.9], latency_s=0.01)]) == ["quick", "slow"]
    assert order([node("best", [0.92], load=9, latency_s=0.1), node("good", [0.9])]) == ["good", "best"]
    assert order([node("best", [0.98], load=9, latency_s=0.1), node("worse", [0.9])]) == ["best", "worse"]


def test_an_anchor_is_spared_where_a_peer_is_as_good_and_as_soon():
    anchor = node("anchor", [0.92], hop="anchor", rtt_s=0.001)
    assert order([anchor, node("peer", [0.9], rtt_s=0.003)]) == ["peer", "anchor"]
    assert order([anchor, node("peer", [0.9], rtt_s=0.003, load=20, latency_s=0.01)]) == ["anchor", "peer"]
    assert order([anchor, node("peer", [0.8])]) == ["anchor", "peer"]


def test_equal_work_spreads_over_equal_nodes():
    loads = {"a": 0, "b": 0, "c": 0}
    for _ in range(30):
        best = order([node(name, [0.9], load=load, latency_s=0.02) for name, load in loads.items()])[0]
        loads[best] += 1
    assert set(loads.values()) == {10}


def test_who_failed_is_not_asked_again():
    assert order([node("a", [0.9]), node("b", [0.8])], failed={"a": "gone"}) == ["b"]


def test_where_narrows_the_choice():
    nodes = [node("home", [0.5], hop="here"), node("a", [0.9])]
    assert order(nodes, where="here") == ["home"]
    assert order(nodes, where="a") == ["a"]
    assert order(nodes, where="nobody") == []


def test_nobody_without_the_ability_is_asked():
    assert route("generate", {0: 1.0}, [node("a", [0.9])]) == []
    assert order([node("a", [0.0])]) == []


SPACE = Space((1, 8, 8), ("a", "b", "c"))
qualities = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(qualities, qualities, st.integers(0, 1000))
def test_a_competence_survives_the_wire(classify, generate, load):
    sent = Competence(tuple(classify), tuple(generate), load, latency_s=load / 1000)
    got = Competence.from_map(sent.to_map(), SPACE)
    assert (got.load, got.latency_s) == (load, load / 1000)
    assert all(abs(a - b) <= 0.005 + 1e-9 for a, b in zip(sent.classify, got.classify, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"classify": b"\xff\x00\x00"},
        {"generate": b"\x01"},
        {"load": -1},
        {"latency_s": -0.1},
        {"latency_s": float("nan")},
        {"more": 1},
    ],
)
def test_a_malformed_competence_is_refused(change):
    with pytest.raises(DecodeError):
        Competence.from_map(Competence((1.0,) * 3, (1.0,) * 3).to_map() | change, SPACE)
