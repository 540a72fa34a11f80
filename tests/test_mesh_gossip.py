"""What to pull from whom: one at a time per blob, spread over holders, elsewhere after a failure."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.mesh.gossip import Gossip, GossipSettings

BLOBS = [f"{n:02x}" * 32 for n in range(20)]


@pytest.fixture
def gossip() -> Gossip:
    return Gossip(GossipSettings(), random.Random(0).random)


def test_one_blob_is_pulled_from_one_holder_at_a_time(gossip: Gossip) -> None:
    for peer_id in ("ann", "ben", "cid"):
        gossip.holds(peer_id, [(BLOBS[0], 10)], set(), 0)
    assert len(gossip.next_pulls(set(), 0)) == 1
    assert gossip.next_pulls(set(), 1) == []


def test_no_more_pulls_run_at_once_than_allowed(gossip: Gossip) -> None:
    gossip.holds("ann", [(name, 10) for name in BLOBS], set(), 0)
    assert len(gossip.next_pulls(set(), 0)) == 2
    gossip.finished(BLOBS[0])
    assert len(gossip.next_pulls({BLOBS[0]}, 0)) == 1


def test_pulls_are_spread_over_holders(gossip: Gossip) -> None:
    for peer_id in ("ann", "ben"):
        gossip.holds(peer_id, [(name, 10) for name in BLOBS], set(), 0)
    assert {pull.peer_id for pull in gossip.next_pulls(set(), 0)} == {"ann", "ben"}


def test_after_a_failure_another_holder_is_asked_at_once_and_the_same_one_later(gossip: Gossip) -> None:
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 0)
    (first,) = gossip.next_pulls(set(), 0)
    gossip.failed(first.name, 0)
    assert gossip.next_pulls(set(), 0.1) == []
    gossip.holds("ben", [(BLOBS[0], 10)], set(), 0)
    (second,) = gossip.next_pulls(set(), 0.2)
    assert second.peer_id == "ben"
    gossip.failed(second.name, 0.2)
    assert gossip.next_pulls(set(), 0.3) == []
    assert gossip.next_pulls(set(), 10)


def test_a_holder_that_does_not_have_it_after_all_is_not_asked_again(gossip: Gossip) -> None:
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 0)
    gossip.next_pulls(set(), 0)
    gossip.missing(BLOBS[0])
    assert gossip.next_pulls(set(), 1000) == []


def test_what_the_store_refused_is_pulled_from_nobody_for_a_while(gossip: Gossip) -> None:
    for peer_id in ("ann", "ben"):
        gossip.holds(peer_id, [(BLOBS[0], 10)], set(), 0)
    gossip.next_pulls(set(), 0)
    gossip.rejected(BLOBS[0], 0)
    assert gossip.next_pulls(set(), 60) == []
    assert gossip.next_pulls(set(), 3600)


def test_a_peer_with_several_faults_is_not_asked_any_more(gossip: Gossip) -> None:
    gossip.holds("liar", [(name, 10) for name in BLOBS], set(), 0)
    asked = 0
    while pulls := gossip.next_pulls(set(), 0):
        asked += len(pulls)
        for pull in pulls:
            gossip.misdelivered(pull.name, 0)
    assert asked <= 4


def test_faults_are_forgiven_after_a_while(gossip: Gossip) -> None:
    gossip.holds("ann", [(name, 10) for name in BLOBS], set(), 0)
    for _ in range(4):
        for pull in gossip.next_pulls(set(), 0):
            gossip.rejected(pull.name, 0)
    assert gossip.next_pulls(set(), 599) == []
    assert gossip.next_pulls(set(), 601)


def test_what_only_this_node_refuses_is_set_aside_and_its_holder_is_not_blamed(gossip: Gossip) -> None:
    gossip.holds("ann", [(name, 10) for name in BLOBS], set(), 0)
    asked: list[str] = []
    while pulls := gossip.next_pulls(set(), 0):
        for pull in pulls:
            asked.append(pull.name)
            gossip.set_aside(pull.name, 0)
    assert sorted(asked) == BLOBS
    assert gossip.next_pulls(set(), 599) == []
    assert gossip.next_pulls(set(), 601)


def test_what_cannot_be_kept_is_tried_ever_less_often_and_from_nobody_meanwhile(gossip: Gossip) -> None:
    for peer_id in ("ann", "ben"):
        gossip.holds(peer_id, [(BLOBS[0], 10)], set(), 0)
    tried = []
    for now in range(3600):
        for pull in gossip.next_pulls(set(), now):
            tried.append(now)
            gossip.put_off(pull.name, now)
    assert tried[:4] == [0, 3, 9, 21]
    assert len(tried) < 15


def test_a_holder_whose_transfers_break_is_asked_ever_less_often_until_it_comes_back(gossip: Gossip) -> None:
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 0)
    tried = []
    for now in range(3600):
        for pull in gossip.next_pulls(set(), now):
            tried.append(now)
            gossip.failed(pull.name, now)
    assert len(tried) < 15
    gossip.forget("ann")
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 3600)
    assert gossip.next_pulls(set(), 3600)


def test_names_that_are_here_or_set_aside_leave_room_for_new_ones() -> None:
    gossip = Gossip(GossipSettings(max_names_per_peer=3), lambda: 0.5)
    gossip.holds("ann", [(name, 10) for name in BLOBS[:3]], set(), 0)
    for pull in gossip.next_pulls(set(BLOBS[:2]), 0):
        gossip.set_aside(pull.name, 0)
    gossip.holds("ann", [(name, 10) for name in BLOBS[3:]], set(BLOBS[:2]), 1)
    assert set(gossip.known_of("ann")) == set(BLOBS[3:6])


def test_a_blob_that_nobody_will_be_asked_for_soon_is_not_waited_for(gossip: Gossip) -> None:
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 0)
    assert gossip.lacking(set(), 0) == 1
    gossip.next_pulls(set(), 0)
    assert gossip.lacking(set(), 0) == 1
    gossip.misdelivered(BLOBS[0], 0)
    assert gossip.lacking(set(), 0) == 0


def test_a_peer_that_left_is_not_asked(gossip: Gossip) -> None:
    gossip.holds("ann", [(BLOBS[0], 10)], set(), 0)
    gossip.forget("ann")
    assert gossip.next_pulls(set(), 0) == []


def test_too_large_blobs_and_endless_lists_are_ignored() -> None:
    gossip = Gossip(GossipSettings(max_blob_bytes=100, max_names_per_peer=5), lambda: 0.5)
    gossip.holds("ann", [(name, 10) for name in BLOBS], set(), 0)
    assert len(gossip.known_of("ann")) == 5
    gossip.holds("ben", [(BLOBS[9], 101)], set(), 0)
    assert BLOBS[9] not in {pull.name for pull in gossip.next_pulls(set(BLOBS[:5]), 0)}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["ok", "failed", "missing", "rejected", "aside", "off", "tick", "leave"]),
            st.integers(0, 5),
        ),
        max_size=80,
    )
)
def test_whatever_happens_pulls_stay_bounded_and_unique(events: list[tuple[str, int]]) -> None:
    gossip = Gossip(GossipSettings(), random.Random(1).random)
    mine: set[str] = set()
    running: dict[str, str] = {}
    for now, (what, number) in enumerate(events):
        peer_id, name = f"peer{number % 3}", BLOBS[number]
        gossip.holds(peer_id, [(name, 10)], mine, now)
        if what == "leave":
            gossip.forget(peer_id)
        elif what != "tick" and name in running:
            del running[name]
            if what == "ok":
                mine.add(name)
                gossip.finished(name)
            elif what == "missing":
                gossip.missing(name)
            elif what == "failed":
                gossip.failed(name, now)
            elif what == "aside":
                gossip.set_aside(name, now)
            elif what == "off":
                gossip.put_off(name, now)
            else:
                gossip.rejected(name, now)
        for pull in gossip.next_pulls(mine, now):
            assert pull.name not in running
            assert pull.name not in mine
            running[pull.name] = pull.peer_id
        assert len(running) <= 2
