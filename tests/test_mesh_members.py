"""The peer table: states follow from silence, dials from back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.mesh.members import MAX_ADDRESSES, HeartbeatSettings, MemberTable, PeerState, Problem
from meshlore.mesh.reasons import Reason

SETTINGS = HeartbeatSettings()
NODE = frozenset({"node"})


@pytest.fixture
def table() -> MemberTable:
    return MemberTable("me", SETTINGS, lambda: 0.5)


def state_of(table: MemberTable, peer_id: str, now: float) -> PeerState:
    peer = table.peer(peer_id, now)
    assert peer is not None
    return peer.state


def test_a_silent_peer_is_suspect_after_two_beats_and_gone_after_three(table: MemberTable) -> None:
    table.connected("ann", "Ann", NODE, now=0)
    seen = [(now / 4, peer.state) for now in range(33) for peer in table.tick(now / 4)]
    assert [state for _, state in seen] == [PeerState.SUSPECT, PeerState.GONE]
    assert 4 <= seen[0][0] <= 5
    assert 6 <= seen[1][0] <= 7


def test_a_sign_of_life_makes_a_suspect_live_again(table: MemberTable) -> None:
    table.connected("ann", "Ann", NODE, now=0)
    assert [peer.state for peer in table.tick(5)] == [PeerState.SUSPECT]
    table.heard("ann", 5.1)
    assert [peer.state for peer in table.tick(5.2)] == [PeerState.LIVE]


def test_a_broken_connection_makes_a_peer_gone_at_once_and_dialled_soon(table: MemberTable) -> None:
    table.learn("ann", ["/a"], now=0)
    table.connected("ann", "Ann", NODE, now=0)
    assert table.due_dials(100) == []
    table.disconnected("ann", now=100)
    assert state_of(table, "ann", 100) is PeerState.GONE
    assert table.due_dials(100) == []
    assert table.due_dials(101) == [("ann", ("/a",))]


def test_a_peer_that_was_just_heard_is_not_asked(table: MemberTable) -> None:
    table.connected("ann", "Ann", NODE, now=0)
    table.heard("ann", 1.5)
    assert table.due_beats(2.1) == []
    assert table.due_beats(3.6) == ["ann"]
    assert table.due_beats(3.7) == []
    assert table.due_beats(5.7) == ["ann"]


def test_being_frozen_ourselves_makes_nobody_gone(table: MemberTable) -> None:
    table.connected("ann", "Ann", NODE, now=0)
    table.forgive(60)
    assert table.tick(60.5) == []


def test_dials_back_off_up_to_the_longest_delay(table: MemberTable) -> None:
    table.learn("ann", ["/a"], now=0)
    now, gaps = 1, []
    for _ in range(10):
        table.dial_failed("ann", now, refused=False)
        gap = next(gap for gap in range(100) if table.due_dials(now + gap))
        gaps.append(gap)
        now += gap
    assert gaps == sorted(gaps)
    assert gaps[0] < 2
    assert gaps[-1] == pytest.approx(SETTINGS.longest_redial_s, rel=0.3)


def test_a_refusal_is_not_retried_soon(table: MemberTable) -> None:
    table.learn("ann", ["/a"], now=0)
    table.dial_failed("ann", 0, refused=True)
    assert table.due_dials(40) == []
    assert table.due_dials(90) != []


def test_hearsay_does_not_push_out_what_is_known(table: MemberTable) -> None:
    table.introduced("ann", ["/own"], now=0)
    table.learn("ann", [f"/rumour{n}" for n in range(50)], now=0)
    peer = table.peer("ann", 0)
    assert peer is not None
    assert peer.addresses[0] == "/own"
    assert len(peer.addresses) == MAX_ADDRESSES


def test_a_restarted_member_replaces_its_old_addresses(table: MemberTable) -> None:
    table.introduced("ann", ["/old1", "/old2", "/old3"], now=0)
    table.introduced("ann", ["/new"], now=1)
    peer = table.peer("ann", 1)
    assert peer is not None
    assert peer.addresses[0] == "/new"
    assert len(peer.addresses) == 3


def test_members_not_met_for_a_day_are_forgotten_but_bootstrap_peers_are_not(table: MemberTable) -> None:
    table.learn("ann", ["/a"], now=0)
    table.learn("ben", ["/b"], now=0)
    table.keep("ben")
    table.tick(SETTINGS.forget_s + 1)
    assert [peer.peer_id for peer in table.peers(0)] == ["ben"]


def test_we_are_not_a_peer_of_ourselves(table: MemberTable) -> None:
    table.learn("me", ["/a"], now=0)
    assert table.peers(0) == []


def test_a_flood_of_names_does_not_grow_the_table_beyond_its_bound() -> None:
    table = MemberTable("me", HeartbeatSettings(max_peers=10), lambda: 0.5)
    for number in range(1000):
        table.learn(f"peer{number}", ["/a"], now=0)
    assert len(table.peers(0)) == 10


def test_one_informant_cannot_fill_the_table_and_who_was_met_does_not_count() -> None:
    table = MemberTable("me", HeartbeatSettings(max_hearsay=5), lambda: 0.5)
    for number in range(100):
        table.learn(f"peer{number}", ["/a"], now=0, informant="liar")
    assert len(table.peers(0)) == 5
    table.connected("peer0", "Zero", NODE, now=1)
    for name in ("met", "late"):
        table.learn(name, ["/a"], now=1, informant="liar")
    table.learn("other", ["/a"], now=1, informant="ann")
    table.learn("own", ["/a"], now=1)
    assert {peer.peer_id for peer in table.peers(1)} == {*(f"peer{n}" for n in range(5)), "met", "other", "own"}


def test_who_waits_longest_for_a_dial_comes_first(table: MemberTable) -> None:
    for name in ("dead", "live"):
        table.learn(name, ["/a"], now=0)
    table.dial_failed("dead", 0, refused=False)
    assert [peer_id for peer_id, _ in table.due_dials(100)] == ["live", "dead"]


def test_each_address_has_its_turn_to_be_dialled_first(table: MemberTable) -> None:
    table.learn("ann", ["/a", "/b", "/c"], now=0)
    first = []
    for _ in range(4):
        first.append(dict(table.due_dials(1000))["ann"][0])
        table.dial_failed("ann", 0, refused=False)
    assert first == ["/a", "/b", "/c", "/a"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["connect", "drop", "hear", "fail", "learn", "tick"]),
            st.sampled_from(["ann", "ben"]),
            st.floats(0, 10),
        ),
        max_size=60,
    )
)
def test_whatever_happens_a_peer_is_either_connected_or_dialled(events: list[tuple[str, str, float]]) -> None:
    table, now = MemberTable("me", SETTINGS, lambda: 0.5), 0.0
    for what, who, pause_s in events:
        now += pause_s
        match what:
            case "connect":
                table.connected(who, who, NODE, now)
            case "drop":
                table.disconnected(who, now)
            case "hear":
                table.heard(who, now)
            case "fail":
                table.dial_failed(who, now, refused=False)
            case "learn":
                table.learn(who, ["/a"], now)
            case "tick":
                table.tick(now)
    later = dict(table.due_dials(now + 120))
    for peer in table.peers(now):
        assert peer.connected != (peer.peer_id in later) or not peer.addresses


def test_a_problem_lasts_until_the_peer_is_connected_or_says_anew_where_it_is(table: MemberTable) -> None:
    problem = Problem(Reason.CLOSED, "/a", "nobody answers at /a")

    def seen() -> Problem | None:
        peer = table.peer("ann", 0)
        assert peer is not None
        return peer.problem

    table.learn("ann", ["/a"], now=0)
    table.dial_failed("ann", 0, refused=False, problem=problem)
    assert seen() == problem
    table.introduced("ann", ["/b"], now=0)
    assert seen() is None
    table.dial_failed("ann", 0, refused=False, problem=problem)
    table.connected("ann", "Ann", NODE, now=0)
    assert seen() is None
    table.dial_failed("ann", 0, refused=False, problem=problem)
    assert seen() is None, "connected meanwhile by the other side"


def test_who_lives_is_connected_and_not_silent(table: MemberTable) -> None:
    for name in ("cid", "ann", "ben", "dan"):
        table.connected(name, name, NODE, now=0)
    table.learn("eve", ["/e"], now=0)
    table.disconnected("ben", now=1)
    table.parted("dan", now=1)
    assert [peer.peer_id for peer in table.live(1)] == ["ann", "cid"]
    table.heard("cid", 4)
    table.tick(5)
    assert [peer.peer_id for peer in table.live(5)] == ["cid"]
    assert table.peer_ids() == {"ann", "ben", "cid", "dan", "eve"}
