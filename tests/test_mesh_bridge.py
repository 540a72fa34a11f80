"""The portal between asyncio and trio: errors, cancellation and stopping, in both directions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

import pytest
import trio
import trio.lowlevel
from meshlore.errors import Cancelled
from meshlore.mesh.bridge import Bridge


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    bridge = Bridge("test-trio")
    await bridge.start()
    yield bridge
    await bridge.stop()


async def test_a_result_and_an_exception_come_back(bridge: Bridge) -> None:
    async def double(number: int) -> int:
        await trio.lowlevel.checkpoint()
        return 2 * number

    async def fail() -> None:
        raise ValueError("no")

    assert await bridge.call(double, 21) == 42
    with pytest.raises(ValueError, match="no"):
        await bridge.call(fail)
    assert await bridge.call(double, 1) == 2


async def test_a_system_exit_over_there_does_not_stop_anything_here(bridge: Bridge) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(RuntimeError, match="SystemExit"):
        await bridge.call(leave)
    assert await bridge.call(trio.sleep, 0) is None


async def test_cancelling_a_call_cancels_the_work(bridge: Bridge) -> None:
    cancelled = threading.Event()

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await bridge.call(work)
    assert cancelled.is_set()


async def test_the_way_back_carries_results_errors_and_cancellation(bridge: Bridge) -> None:
    ended = asyncio.Event()

    async def here(number: int) -> int:
        await asyncio.sleep(0)
        if number < 0:
            raise KeyError("negative")
        return number + 1

    async def endless() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def give_up() -> str:
        with trio.move_on_after(0.05):
            await bridge.call_asyncio(endless)
        return "gave up"

    assert await bridge.call(bridge.call_asyncio, here, 1) == 2
    with pytest.raises(KeyError):
        await bridge.call(bridge.call_asyncio, here, -1)
    assert await bridge.call(give_up) == "gave up"
    async with asyncio.timeout(2):
        await ended.wait()


async def test_stopping_ends_calls_in_flight_and_the_thread() -> None:
    bridge = Bridge("test-trio-stop")
    await bridge.start()
    call = asyncio.create_task(bridge.call(trio.sleep, 60))
    await asyncio.sleep(0.05)
    started = time.monotonic()
    await bridge.stop()
    with pytest.raises(Cancelled):
        await call
    assert time.monotonic() - started < 1
    assert "test-trio-stop" not in {thread.name for thread in threading.enumerate()}


async def test_a_stopped_bridge_refuses_calls_and_stops_again_quietly() -> None:
    bridge = Bridge()
    await bridge.start()
    await bridge.stop()
    with pytest.raises(Cancelled):
        await bridge.call(trio.sleep, 0)
    await bridge.stop()


async def test_two_bridges_live_in_one_loop(bridge: Bridge) -> None:
    other = Bridge()
    await other.start()
    await asyncio.gather(bridge.call(trio.sleep, 0.01), other.call(trio.sleep, 0.01))
    await other.stop()


async def test_many_calls_at_once_all_come_back(bridge: Bridge) -> None:
    async def echo(number: int) -> int:
        await trio.sleep(0.001)
        return number

    assert await asyncio.gather(*(bridge.call(echo, n) for n in range(300))) == list(range(300))
