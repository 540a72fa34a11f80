"""Anti-entropy: whatever two nodes hold, a few comparisons tell one all that the other has."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from meshlore.errors import DecodeError
from meshlore.mesh import messages
from meshlore.mesh.reconcile import BUCKET_DIGEST_BYTES, BUCKETS, Answer, bucket_digests, bucket_of, compare


def blobs(numbers: set[int]) -> dict[str, int]:
    return {hashlib.sha256(str(number).encode()).hexdigest(): number + 1 for number in numbers}


def test_equal_sets_cost_one_small_message_in_any_order() -> None:
    names = blobs(set(range(1000)))
    shuffled = dict(random.Random(1).sample(sorted(names.items()), len(names)))
    assert bucket_digests(names) == bucket_digests(shuffled)
    assert len(bucket_digests(names)) == BUCKETS * BUCKET_DIGEST_BYTES
    assert compare(names, bucket_digests(shuffled), max_names=512, chance=0.0) == Answer([], frozenset(), frozenset())


def test_names_spread_over_all_buckets() -> None:
    assert {bucket_of(name) for name in blobs(set(range(1000)))} == set(range(BUCKETS))


HELD = st.sets(st.integers(0, 300), max_size=60)


@given(HELD, HELD, st.integers(1, 40), st.integers(0, 1000))
@example({50}, {128, 122, 282}, 1, 0)  # the part that is told must not depend on the bucket
def test_whatever_two_nodes_hold_comparing_ever_again_tells_all_that_is_lacking(
    one: set[int], other: set[int], max_names: int, seed: int
) -> None:
    dice, mine, theirs = random.Random(seed), blobs(one), blobs(other)
    for _ in range(2000):
        answer = compare(theirs, bucket_digests(mine), max_names=max_names, chance=dice.random())
        assert len(answer.have) <= max_names
        assert answer.told <= answer.differ
        for bucket in set(range(BUCKETS)) - answer.differ:
            in_bucket = [{n for n in held if bucket_of(n) == bucket} for held in (mine, theirs)]
            assert in_bucket[0] == in_bucket[1]
        mine |= dict(answer.have)
        if mine.keys() >= theirs.keys():
            break
    assert mine.items() >= theirs.items()


@given(st.sets(st.integers(0, 300)), st.sets(st.integers(0, 300)))
def test_a_comparison_travels_unchanged(one: set[int], other: set[int]) -> None:
    digests = bucket_digests(blobs(one))
    assert messages.read_sync(messages.sync_body(digests)) == digests
    answer = compare(blobs(other), digests, max_names=512, chance=0.1)
    assert messages.read_sync_answer(messages.sync_answer_body(answer)) == answer


@pytest.mark.parametrize(
    "change",
    [
        {"differ": -1},
        {"differ": 1 << BUCKETS},
        {"differ": 1, "told": 3},
        {"told": None},
        {"have": [[b"short", 1]]},
        {"have": [[bytes(32), 1]] * (messages.MAX_NAMES + 1)},
        {"more": 1},
    ],
)
def test_a_malformed_answer_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(DecodeError):
        messages.read_sync_answer({"have": [], "differ": 0, "told": 0} | change)


def test_digests_of_the_wrong_length_are_refused() -> None:
    with pytest.raises(DecodeError):
        messages.read_sync({"buckets": bytes(BUCKETS)})
