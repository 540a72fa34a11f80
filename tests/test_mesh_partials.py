"""Beginnings of transfers: kept over a kill -9, bounded, and never the reason why a transfer fails."""

from __future__ import annotations

import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from meshlore.mesh.partials import MAX_AGE_S, MAX_PARTIALS, PIECE_BYTES, Partials

from benchmarks.swarm import Swarm
from benchmarks.virtual_time import run

NAMES = [f"{number:064x}" for number in range(100)]


@pytest.fixture(params=["disk", "memory"])
def partials(request: pytest.FixtureRequest, tmp_path: Path) -> Partials:
    return Partials(tmp_path / "partials" if request.param == "disk" else None)


def test_a_beginning_is_there_when_it_is_opened_again_until_it_is_discarded(partials: Partials) -> None:
    first = partials.open(NAMES[0])
    first.append(b"once upon ")
    first.append(b"a time")
    again = partials.open(NAMES[0])
    assert bytes(again.data) == b"once upon a time"
    again.discard()
    assert not partials.open(NAMES[0]).data


def test_there_are_never_more_than_a_few_and_the_oldest_go(partials: Partials) -> None:
    for number, name in enumerate(NAMES):
        partial = partials.open(name)
        partial.append(b"x")
        if partial._path is not None:
            os.utime(partial._path, (number - 1000 + 1.8e9, number - 1000 + 1.8e9))
    kept = [name for name in NAMES[::-1] if partials.open(name).data]
    assert len(kept) <= MAX_PARTIALS
    assert kept[0] == NAMES[-1]


def test_what_is_a_day_old_goes(tmp_path: Path) -> None:
    partials = Partials(tmp_path)
    partials.open(NAMES[0]).append(b"x")
    old = (tmp_path / NAMES[0]).stat().st_mtime - MAX_AGE_S - 1
    os.utime(tmp_path / NAMES[0], (old, old))
    partials.open(NAMES[1])
    assert not (tmp_path / NAMES[0]).exists()


def test_only_the_owner_can_read_it(tmp_path: Path) -> None:
    Partials(tmp_path / "new").open(NAMES[0]).append(b"x")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / NAMES[0]).stat().st_mode & 0o777 == 0o600


def test_a_disk_that_takes_nothing_costs_one_warning_and_not_the_transfer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    partial = Partials(tmp_path / "folder").open(NAMES[0])
    (tmp_path / "folder").rmdir()
    with caplog.at_level(logging.WARNING, "meshlore.mesh"):
        partial.append(b"once ")
        partial.append(b"upon")
    assert bytes(partial.data) == b"once upon"
    assert len(caplog.records) == 1


def test_a_node_that_is_killed_in_the_middle_of_a_transfer_goes_on_with_another_holder(tmp_path: Path) -> None:
    async def story() -> None:
        swarm = Swarm(delay_s=0.2, partials=tmp_path)
        author, holder, victim = await swarm.grow(3)
        await swarm.until(lambda: all(node.neighbours == 2 for node in swarm.nodes), 30)
        swarm.network.cut(holder.mesh.peer_id, victim.mesh.peer_id)
        swarm.publish(author, size_bytes=20 * PIECE_BYTES)
        await swarm.until(lambda: victim.mesh.traffic().blob_bytes_received > 5 * PIECE_BYTES, 60)
        await swarm.kill(victim)
        before = victim.mesh.traffic().blob_bytes_received
        assert not victim.store.blobs
        await swarm.until(swarm.complete, 60)
        await swarm.leave(author)
        swarm.network.heal(holder.mesh.peer_id, victim.mesh.peer_id)
        again = await swarm.start(victim)
        await swarm.until(swarm.complete, 60)
        transferred = before + again.mesh.traffic().blob_bytes_received
        assert transferred <= 21 * PIECE_BYTES
        assert not any((tmp_path / victim.name).iterdir())
        await swarm.stop()

    run(story())


def test_many_transfers_begin_and_end_at_once(partials: Partials) -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def transfer(number: int) -> None:
        partial = partials.open(f"{number:064x}")
        partial.append(b"x")
        partial.discard()

    try:
        with ThreadPoolExecutor(16) as threads:
            list(threads.map(transfer, range(2000)))
    finally:
        sys.setswitchinterval(usual)
