"""Whom to be neighbours with: few, the useful ones and some by chance; never too many, never stuck."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from meshlore.mesh.overlay import HALF_LIFE_S, Neighbour, Overlay, OverlaySettings, Usefulness

SETTINGS = OverlaySettings(target=6, most=12, by_chance=2, shuffle_s=30)
MEMBERS = [f"member{number}" for number in range(40)]


def overlay(seed: int = 0) -> Overlay:
    return Overlay(SETTINGS, random.Random(seed).random, now=0)


def worth_of(peer_id: str) -> float:
    return float(peer_id.removeprefix("member"))


def links(count: int, since: float = 0) -> dict[str, Neighbour]:
    return {peer_id: Neighbour(worth_of(peer_id), since) for peer_id in MEMBERS[:count]}


def test_who_has_no_neighbour_dials_the_most_useful_and_those_due_longest_among_equals() -> None:
    assert overlay().dials(MEMBERS, 0, 0, worth_of, now=0) == MEMBERS[:-13:-1]
    assert overlay().dials(MEMBERS, 0, 0, lambda _: 0.0, now=0) == MEMBERS[:12]


def test_some_are_dialled_by_chance() -> None:
    chosen = [peer for seed in range(50) for peer in overlay(seed).dials(MEMBERS, 5, 0, worth_of, now=0)]
    useful = sum(peer in MEMBERS[-2:] for peer in chosen)
    assert 0.5 < useful / len(chosen) < 0.9


def test_dials_under_way_count() -> None:
    assert overlay().dials(MEMBERS, 4, 4, worth_of, now=0) == []
    assert len(overlay().dials(MEMBERS, 4, 3, worth_of, now=0)) == 1


def test_with_neighbours_enough_one_more_is_met_by_chance_now_and_then() -> None:
    chooser, met = overlay(), []
    for now in range(600):
        if chosen := chooser.dials(MEMBERS, 6, 0, worth_of, now):
            met += chosen
            chooser.met(now)
    assert 14 <= len(met) <= 40
    assert len(set(met)) > 8


def test_a_newcomer_meets_members_by_chance_more_often() -> None:
    chooser, met = overlay(), []
    for now in range(120):
        if chooser.dials(MEMBERS, 6, 0, worth_of, now):
            met.append(now)
            chooser.met(now)
    assert sum(now < 20 for now in met) >= 3
    assert sum(now >= 60 for now in met) <= 4


def test_who_is_dead_is_soon_followed_by_another_one() -> None:
    chooser = overlay()
    tried = [peer for now in range(100, 130) for peer in chooser.dials(MEMBERS, 6, 0, worth_of, now)]
    assert 8 <= len(tried) <= 15


def test_more_members_are_wanted_until_there_are_neighbours_and_others_in_their_place() -> None:
    assert overlay().lacks(neighbours=5, known=100)
    assert overlay().lacks(neighbours=6, known=29)
    assert not overlay().lacks(neighbours=6, known=30)


def test_with_too_many_neighbours_the_least_useful_go_but_for_some_by_chance() -> None:
    assert overlay().partings(links(12, since=0), now=1) == []
    parted = overlay().partings(links(13), now=0)
    kept = set(MEMBERS[:13]) - set(parted)
    assert len(kept) == 6
    assert set(MEMBERS[9:13]) <= kept


def test_with_more_than_enough_the_least_useful_goes_now_and_then_but_no_newcomer() -> None:
    chooser = overlay()
    assert {peer for now in range(100) for peer in chooser.partings(links(9), now)} == {"member0"}
    assert [peer for now in range(100, 300) for peer in chooser.partings(links(9, since=now), now)] == []
    assert [peer for now in range(300, 600) for peer in chooser.partings(links(8), now)] == []


@given(st.integers(0, 40), st.integers(0, 12), st.integers(0, 40), st.floats(0, 1000), st.integers(0, 5))
def test_whatever_the_situation_the_choice_is_bounded_and_among_the_due(
    neighbours: int, dialling: int, due: int, now: float, seed: int
) -> None:
    chooser = overlay(seed)
    chosen = chooser.dials(MEMBERS[:due], neighbours, dialling, worth_of, now)
    assert len(chosen) == len(set(chosen)) <= max(1, 12 - 2 * neighbours - dialling)
    assert set(chosen) <= set(MEMBERS[:due])
    parted = chooser.partings(links(neighbours), now)
    assert len(parted) == len(set(parted))
    assert neighbours <= 12 or neighbours - len(parted) == 6
    assert neighbours > 6 or parted == []


def test_who_brought_something_is_useful_and_less_so_as_time_passes() -> None:
    usefulness = Usefulness()
    assert usefulness.of("ann", 0) == 0
    usefulness.brought("ann", 0)
    assert usefulness.of("ann", 0) == 0.5
    usefulness.brought("ann", 0)
    assert 0.5 < usefulness.of("ann", 0) < 1
    assert usefulness.of("ann", HALF_LIFE_S) == 0.5
    for number in range(5000):
        usefulness.brought(f"member{number}", 1)
    assert usefulness.of("ann", 1) == 0


@given(st.integers(0, 20), st.integers(0, 20), st.floats(0, 100, allow_nan=False), st.integers(0, 2**16), st.booleans())
def test_who_may_not_dial_or_part_would_choose_nobody(
    neighbours: int, dialling: int, now: float, seed: int, known: bool
) -> None:
    chooser = overlay(seed)
    may_dial, may_part = chooser.may_dial(neighbours, dialling, now), chooser.may_part(neighbours, now)
    chosen = chooser.dials(MEMBERS if known else [], neighbours, dialling, worth_of, now)
    assert bool(chosen) == (may_dial and known)
    assert may_part or not chooser.partings(links(neighbours), now)
