"""How often trio lets others run meanwhile: for the sentinels of what upstream makes take a turn."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def turns_of_others(work: Callable[[], Awaitable[object]], times: int) -> int:
    """How often another task runs while ``work`` is done so many times."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        for _ in range(times):
            await work()
        nursery.cancel_scope.cancel()
    return turns
