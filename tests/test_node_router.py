"""Routing: the order in which nodes are asked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import DecodeError
from meshlore.knowledge.space import Space
from meshlore.node.router import Candidate, Competence, route


def node(name, classify, *, generate=(), load=0, hop="peer", rtt_s=0.0):
    return Candidate(name, name, hop, Competence(tuple(classify), tuple(generate), load), rtt_s)


def order(candidates, **how):
    return [c.name for c in route("classify", how.pop("classes", None), candidates, **how)]


def test_the_most_competent_comes_first():
    assert order([node("a", [0.5, 0.5]), node("b", [0.9, 0.9])]) == ["b", "a"]


def test_home_wins_among_equals_and_a_specialist_wins_for_its_class():
    home, expert = node("home", [0.9, 0.2], hop="here"), node("expert", [0.9, 0.9])
    assert order([expert, home], classes=[0]) == ["home", "expert"]
    assert order([expert, home], classes=[1]) == ["expert", "home"]


def test_load_and_distance_decide_among_equals():
    assert order([node("busy", [0.9], load=5), node("free", [0.9])]) == ["free", "busy"]
    assert order([node("far", [0.9], rtt_s=1.0), node("near", [0.9], rtt_s=0.01)]) == ["near", "far"]


def test_who_failed_is_not_asked_again():
    assert order([node("a", [0.9]), node("b", [0.8])], failed={"a": "gone"}) == ["b"]


def test_where_narrows_the_choice():
    nodes = [node("home", [0.5], hop="here"), node("a", [0.9])]
    assert order(nodes, where="here") == ["home"]
    assert order(nodes, where="a") == ["a"]
    assert order(nodes, where="nobody") == []


def test_nobody_without_the_ability_is_asked():
    assert route("generate", [0], [node("a", [0.9])]) == []
    assert order([node("a", [0.0])]) == []


SPACE = Space((1, 8, 8), ("a", "b", "c"))
qualities = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@given(qualities, qualities, st.integers(0, 1000))
def test_a_competence_survives_the_wire(classify, generate, load):
    sent = Competence(tuple(classify), tuple(generate), load)
    got = Competence.from_map(sent.to_map(), SPACE)
    assert got.load == load
    assert all(abs(a - b) <= 0.005 + 1e-9 for a, b in zip(sent.classify, got.classify, strict=True))


@pytest.mark.parametrize("change", [{"classify": b"\xff\x00\x00"}, {"generate": b"\x01"}, {"load": -1}, {"more": 1}])
def test_a_malformed_competence_is_refused(change):
    with pytest.raises(DecodeError):
        Competence.from_map(Competence((1.0,) * 3, (1.0,) * 3).to_map() | change, SPACE)
