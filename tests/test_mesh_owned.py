"""Background work: one of a kind at a time, errors end in the log, and the next may start from within the last."""

from __future__ import annotations

import asyncio
import logging

import pytest
from meshlore.errors import PeerGone, StateError
from meshlore.mesh.owned import OwnedTasks


async def test_the_same_work_is_not_started_twice_at_once() -> None:
    tasks, started = OwnedTasks(), []

    async def work(number: int) -> None:
        started.append(number)
        await asyncio.sleep(0.05)

    for number in range(3):
        tasks.once("dial", "ann", work, number)
    tasks.once("dial", "ben", work, 7)
    assert len(tasks.under_way("dial")) == 2
    await asyncio.sleep(0.1)
    assert started == [0, 7]
    assert not tasks.under_way("dial")


async def test_whoever_the_work_wakes_can_start_the_same_again() -> None:
    tasks, woken, runs = OwnedTasks(), asyncio.Event(), []

    async def work() -> None:
        runs.append(1)
        woken.set()

    tasks.once("pull", "blob", work)
    await woken.wait()
    tasks.once("pull", "blob", work)
    await asyncio.sleep(0.01)
    assert len(runs) == 2


async def test_errors_end_in_the_log_and_not_in_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    tasks = OwnedTasks()

    async def fail(error: Exception) -> None:
        raise error

    with caplog.at_level(logging.WARNING, "meshlore.mesh"):
        for error in (PeerGone("quiet"), StateError("disk full"), RuntimeError("a bug")):
            tasks.once("save", str(error), fail, error)
        await asyncio.sleep(0.01)
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]


async def test_cancelling_all_ends_also_what_had_not_begun() -> None:
    tasks = OwnedTasks()
    tasks.once("beat", "ann", asyncio.sleep, 60)
    await asyncio.wait(tasks.cancel_all(), timeout=1)
    assert not tasks.under_way("beat")
