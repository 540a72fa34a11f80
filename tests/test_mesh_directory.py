"""Who listens where, and whether two devices answer to one name."""

from __future__ import annotations

import pytest
from meshlore.mesh.directory import DOUBLE_S, Directory
from meshlore.mesh.messages import Introduction
from meshlore.mesh.records import AddressRecord, issue_record
from meshlore.security.identity import Identity

ME, ANN = Identity.generate(), Identity.generate()


@pytest.fixture
def directory() -> Directory:
    return Directory(ME.peer_id, ME.sign, lambda: [f"/ip4/10.0.0.1/tcp/1/p2p/{ME.peer_id}"], wall=lambda: 1_000.0)


def record(issued: float, instance: str = "started1", who: Identity = ANN) -> AddressRecord:
    address = f"/ip4/10.0.0.2/tcp/{int(issued) or 1}/p2p/{who.peer_id}"
    return issue_record(who.peer_id, [address], instance.encode(), who.sign, issued)


def said(issued: float, instance: str = "started1", time_s: int = 1_000) -> Introduction:
    return Introduction(record(issued, instance), time_s, frozenset())


def test_each_start_has_an_instance_of_its_own() -> None:
    instances = {Directory(ME.peer_id, ME.sign, list).own_record().instance for _ in range(5)}
    assert len(instances) == 5


def test_the_own_record_stays_the_same_until_the_addresses_change_or_an_hour_is_over() -> None:
    port, now = [1], [1_000.0]
    mine = Directory(ME.peer_id, ME.sign, lambda: [f"/ip4/10.0.0.1/tcp/{port[0]}/p2p/{ME.peer_id}"], lambda: now[0])
    first = mine.own_record()
    now[0] += 3_599
    assert mine.own_record() == first
    now[0] += 1
    second = mine.own_record()
    assert second.issued == 4_600
    port[0] = 2
    assert mine.own_record().addresses != second.addresses
    now[0] = 1_000
    assert mine.own_record().issued == 1_000, "a clock that was set back counts at once"


def test_who_introduces_itself_says_which_records_it_holds(directory: Directory) -> None:
    directory.introduced(said(10), 0)
    assert directory.introduction().known == {record(10).mark, directory.own_record().mark}


def test_of_two_records_passed_on_the_newer_counts(directory: Directory) -> None:
    assert directory.heard_of(record(20), 0)
    assert not directory.heard_of(record(10), 0)
    assert not directory.heard_of(record(20), 0)
    assert directory.record_of(ANN.peer_id) == record(20)
    assert directory.heard_of(record(30), 0)


def test_what_a_peer_says_itself_counts_more_than_any_date(directory: Directory) -> None:
    directory.heard_of(record(2_000_000_000), 0)
    directory.introduced(said(10), 0)
    assert directory.record_of(ANN.peer_id) == record(10)


def test_the_difference_of_two_clocks_is_seen_first_hand_only(directory: Directory) -> None:
    directory.heard_of(record(10), 0)
    assert directory.ahead_s(ANN.peer_id) is None
    directory.introduced(said(10, time_s=400), 0)
    assert directory.ahead_s(ANN.peer_id) == 600


def test_a_node_that_restarts_again_and_again_is_no_double(directory: Directory) -> None:
    for number in range(20):
        news = said(10 + number, f"start{number:03}")
        assert not directory.introduced(news, number)
        assert not directory.introduced(news, number)
        assert directory.double_of(news.record, number) is None


def test_an_instance_that_comes_back_after_another_is_a_double_and_each_is_shown_the_other(
    directory: Directory,
) -> None:
    original, copy = said(10, "original"), said(11, "thecopy1")
    assert not directory.introduced(original, 0)
    assert not directory.introduced(copy, 1)
    assert directory.introduced(original, 2), "this is news"
    assert directory.double_of(original.record, 2) == copy.record
    assert not directory.introduced(copy, 3), "and now no more"
    assert directory.double_of(copy.record, 3) == original.record


def test_a_double_that_is_stopped_is_forgotten(directory: Directory) -> None:
    original, copy = said(10, "original"), said(11, "thecopy1")
    for now, introduction in enumerate([original, copy, original]):
        directory.introduced(introduction, now)
    directory.introduced(original, 100)
    assert directory.double_of(original.record, 2 + DOUBLE_S) == copy.record
    assert directory.double_of(original.record, 3 + DOUBLE_S) is None


def test_a_record_in_our_own_name_that_we_never_made_is_our_double(directory: Directory) -> None:
    assert not directory.heard_of(directory.own_record(), 0)
    assert directory.double(0) is None
    copy = record(5, "thecopy1", who=ME)
    assert directory.heard_of(copy, 0), "this is news"
    assert not directory.heard_of(copy, 1), "and now no more"
    assert directory.double(1) == copy
    assert directory.double(2 + DOUBLE_S) is None


def test_who_is_no_longer_known_is_forgotten(directory: Directory) -> None:
    directory.introduced(said(10), 0)
    directory.keep({ANN.peer_id})
    assert directory.record_of(ANN.peer_id) is not None
    directory.keep(set())
    assert directory.record_of(ANN.peer_id) is None
    assert directory.ahead_s(ANN.peer_id) is None
