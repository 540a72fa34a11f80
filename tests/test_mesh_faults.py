"""One named fault at a time: during it nothing breaks, and two minutes after it everybody holds everything."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter

import pytest
from meshlore.mesh.logs import LINES_AT_ONCE, NoFlood
from meshlore.mesh.partials import PIECE_BYTES

from benchmarks.faults import Fault, broken
from benchmarks.swarm import Swarm
from benchmarks.virtual_time import run

FAULT_S = 20.0
HEALED_S = 120.0
NODES = 9


@pytest.mark.parametrize("fault", Fault)
def test_after_the_fault_every_live_node_holds_every_packet(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    size_bytes = 3 * PIECE_BYTES if fault is Fault.CUT_TRANSFERS else 500

    async def story() -> None:
        swarm = Swarm()
        await swarm.grow(NODES)
        await swarm.until(lambda: all(node.neighbours >= 6 for node in swarm.nodes), 30)
        swarm.publish(swarm.nodes[0], size_bytes)
        async with broken(fault, swarm):
            for node in swarm.nodes[1:4]:
                swarm.publish(node, size_bytes)
            await asyncio.sleep(FAULT_S)
        assert await swarm.until(swarm.complete, HEALED_S) < HEALED_S
        for node in swarm.nodes:
            assert all(hashlib.sha256(data).hexdigest() == name for name, data in node.store.blobs.items())
            assert max(node.store.arrivals.values(), default=0) <= 1, "nothing is kept twice"
        await swarm.until(lambda: all(node.neighbours >= 6 for node in swarm.nodes), HEALED_S)
        await swarm.stop()
        assert len(asyncio.all_tasks()) == 1

    with caplog.at_level(logging.INFO, "meshlore.mesh"):
        run(story())
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    lines = Counter(record.getMessage() for record in caplog.records)
    assert max(lines.values(), default=0) <= 2 * LINES_AT_ONCE


def test_a_line_that_repeats_is_held_back_and_then_says_how_often_it_would_have_come() -> None:
    now = [0.0]
    no_flood = NoFlood(lambda: now[0])

    def passes(text: str) -> str | None:
        record = logging.LogRecord("meshlore.mesh", logging.INFO, "", 0, "%s is gone", (text,), None)
        return record.getMessage() if no_flood.filter(record) else None

    assert [passes("ann") for _ in range(LINES_AT_ONCE)] == ["ann is gone"] * LINES_AT_ONCE
    assert [passes("ann") for _ in range(100)] == [None] * 100
    assert passes("ben") == "ben is gone"
    now[0] = 61.0
    assert passes("ann") == "ann is gone (and 100 times more since)"
    assert passes("ann") is None
