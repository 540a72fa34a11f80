"""Token buckets."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from meshlore.security.limits import KeyedBuckets, TokenBucket, WaitingRoom


def test_a_bucket_allows_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate_per_s=2, burst=3)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s(100.0) == 0.5
    assert [bucket.take(100.5), bucket.take(100.5)] == [True, False]


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = TokenBucket(rate_per_s=10, burst=2)
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(3)] == [True, True, False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(rate_per_s=1, burst=1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


def test_a_cost_above_the_burst_is_never_allowed() -> None:
    assert TokenBucket(rate_per_s=1, burst=2).wait_s(0.0, cost=3) == float("inf")


@given(st.lists(st.floats(0, 5), max_size=50), st.floats(0.1, 10), st.integers(1, 10))
def test_no_more_than_burst_plus_rate_passes(gaps_s: list[float], rate_per_s: float, burst: int) -> None:
    bucket, now, passed = TokenBucket(rate_per_s, burst), 0.0, 0
    for gap_s in gaps_s:
        now += gap_s
        passed += bucket.take(now)
    assert passed <= burst + rate_per_s * now + 1e-6


def test_keys_do_not_pay_for_each_other() -> None:
    buckets = KeyedBuckets(rate_per_s=1, burst=1, max_keys=10)
    assert buckets.take("a", 0.0)
    assert buckets.take("b", 0.0)
    assert not buckets.take("a", 0.0)


def test_memory_is_bounded_and_the_quietest_key_is_forgotten() -> None:
    buckets = KeyedBuckets(rate_per_s=1, burst=1, max_keys=2)
    buckets.take("quiet", 0.0)
    buckets.take("loud", 0.0)
    buckets.take("quiet", 0.1)
    for number in range(1000):
        buckets.take("loud", 0.2)
        buckets.take(number, 0.2)
    assert len(buckets) == 2
    assert not buckets.take("loud", 0.3)


@pytest.mark.parametrize(("rate_per_s", "burst", "max_keys"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_figures_that_allow_nothing_are_refused(rate_per_s: float, burst: float, max_keys: int) -> None:
    with pytest.raises(ValueError, match=r"allows|at least"):
        KeyedBuckets(rate_per_s, burst, max_keys)


def test_a_full_waiting_room_puts_out_the_longest_waiting_of_whoever_takes_most_of_it() -> None:
    room, out = WaitingRoom(4), []
    crowd = [partial(out.append, f"crowd-{number}") for number in range(4)]
    ann, ben = partial(out.append, "ann"), partial(out.append, "ben")
    room.enter("1.1.1.1", ann)
    for leave in crowd:
        room.enter("6.6.6.6", leave)
    assert out == ["crowd-0"]
    room.enter("2.2.2.2", ben)
    assert out == ["crowd-0", "crowd-1"]
    assert len(room) == 4


def test_who_left_the_waiting_room_is_not_put_out_and_a_lost_place_is_not_given_back_twice() -> None:
    room, out = WaitingRoom(1), []
    first, second = partial(out.append, "first"), partial(out.append, "second")
    room.enter("1.1.1.1", first)
    room.leave(first)
    room.enter("1.1.1.1", second)
    assert out == []
    room.enter("2.2.2.2", first)
    assert out == ["second"]
    room.leave(second)
    assert len(room) == 1
    with pytest.raises(ValueError, match="place"):
        WaitingRoom(0)
