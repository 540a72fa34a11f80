"""What can go wrong, by name: one at a time in the tests, seeded sequences of them in `benchmarks.churn`.

`broken` does a fault to a `Swarm` for a while. Whatever it was, afterwards every live node holds every packet,
and none came twice but what was cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import StrEnum

from meshlore.errors import StateError

from .swarm import Swarm, SwarmNode

CUT_EVERY_S = 0.3
CLAIMS = 50


class Fault(StrEnum):
    """One way in which a device or a network fails."""

    KILL = "kill"
    """A process ends without a word, as by kill -9 or a power cut, and starts again later."""
    FREEZE = "freeze"
    """A process stops answering and hangs up on nobody, as under SIGSTOP or when a laptop's lid is closed."""
    RESTART = "restart"
    """A process ends politely and starts again."""
    PARTITION = "partition"
    """The network falls into two halves; each goes on by itself."""
    LOSS = "loss"
    """One message in five never arrives."""
    SLOW_LINKS = "slow links"
    """Every message takes a second each way."""
    CUT_TRANSFERS = "cut transfers"
    """Connections break in the middle of transfers, again and again."""
    LEFT_AUTHOR = "left author"
    """An author leaves for good as soon as one other has what it published."""
    WRONG_BYTES = "wrong bytes"
    """Holders, the nodes that came last, send something else than what they announced."""
    FALSE_CLAIM = "false claim"
    """A member announces what it does not have."""
    FULL_DISK = "full disk"
    """A node can keep nothing."""
    LOST_STORE = "lost store"
    """A node starts again with nothing."""


@asynccontextmanager
async def broken(fault: Fault, swarm: Swarm) -> AsyncIterator[None]:
    """The fault is there inside the block and over after it."""
    async with _FAULTS[fault](swarm):
        yield


@asynccontextmanager
async def _kill(swarm: Swarm) -> AsyncIterator[None]:
    victims = _some(swarm)
    for victim in victims:
        await swarm.kill(victim)
    yield
    for victim in victims:
        await swarm.start(victim)


@asynccontextmanager
async def _restart(swarm: Swarm) -> AsyncIterator[None]:
    victims = _some(swarm)
    for victim in victims:
        await swarm.leave(victim)
    yield
    for victim in victims:
        await swarm.start(victim)


@asynccontextmanager
async def _lost_store(swarm: Swarm) -> AsyncIterator[None]:
    victims = _some(swarm)
    for victim in victims:
        await swarm.kill(victim)
    yield
    for victim in victims:
        await swarm.start(victim, swarm.new_store())


@asynccontextmanager
async def _freeze(swarm: Swarm) -> AsyncIterator[None]:
    victims = _some(swarm)
    for victim in victims:
        swarm.network.freeze(victim.mesh.peer_id)
    yield
    for victim in victims:
        swarm.network.thaw(victim.mesh.peer_id)


@asynccontextmanager
async def _partition(swarm: Swarm) -> AsyncIterator[None]:
    half = len(swarm.nodes) // 2
    one, other = swarm.nodes[:half], swarm.nodes[half:]
    swarm.part(one, other)
    yield
    swarm.heal(one, other)


@asynccontextmanager
async def _loss(swarm: Swarm) -> AsyncIterator[None]:
    swarm.network.loss = 0.2
    yield
    swarm.network.loss = 0.0


@asynccontextmanager
async def _slow_links(swarm: Swarm) -> AsyncIterator[None]:
    before, swarm.network.delay_s = swarm.network.delay_s, 1.0
    yield
    swarm.network.delay_s = before


@asynccontextmanager
async def _cut_transfers(swarm: Swarm) -> AsyncIterator[None]:
    async def cut_for_ever() -> None:
        while True:
            await asyncio.sleep(CUT_EVERY_S)
            one, other = (node.mesh.peer_id for node in swarm.random.sample(swarm.nodes, 2))
            swarm.network.cut(one, other)
            swarm.network.heal(one, other)

    before, swarm.network.delay_s = swarm.network.delay_s, 0.1
    cutting = asyncio.create_task(cut_for_ever())
    yield
    cutting.cancel()
    swarm.network.delay_s = before


@asynccontextmanager
async def _left_author(swarm: Swarm) -> AsyncIterator[None]:
    author = swarm.random.choice(swarm.nodes)
    name = swarm.publish(author)
    await swarm.until(lambda: sum(name in node.store.blobs for node in swarm.nodes) > 1, 60)
    await swarm.leave(author)
    yield


@asynccontextmanager
async def _wrong_bytes(swarm: Swarm) -> AsyncIterator[None]:
    victims = swarm.nodes[-len(swarm.nodes) // 3 :]
    for victim in victims:
        victim.store.serves = lambda data: data[::-1]
    yield
    for victim in victims:
        victim.store.serves = bytes


@asynccontextmanager
async def _false_claim(swarm: Swarm) -> AsyncIterator[None]:
    liar = swarm.random.choice(swarm.nodes)
    liar.store.claims = {swarm.random.randbytes(32).hex(): 1000 for _ in range(CLAIMS)}
    yield
    liar.store.claims = {}


@asynccontextmanager
async def _full_disk(swarm: Swarm) -> AsyncIterator[None]:
    victims = _some(swarm)
    for victim in victims:
        victim.store.refuses = StateError("no space left on the device", "make room")
    yield
    for victim in victims:
        victim.store.refuses = None


def _some(swarm: Swarm) -> list[SwarmNode]:
    return swarm.random.sample(swarm.nodes, len(swarm.nodes) // 3)


_FAULTS: dict[Fault, Callable[[Swarm], AbstractAsyncContextManager[None]]] = {
    Fault.KILL: _kill,
    Fault.FREEZE: _freeze,
    Fault.RESTART: _restart,
    Fault.PARTITION: _partition,
    Fault.LOSS: _loss,
    Fault.SLOW_LINKS: _slow_links,
    Fault.CUT_TRANSFERS: _cut_transfers,
    Fault.LEFT_AUTHOR: _left_author,
    Fault.WRONG_BYTES: _wrong_bytes,
    Fault.FALSE_CLAIM: _false_claim,
    Fault.FULL_DISK: _full_disk,
    Fault.LOST_STORE: _lost_store,
}
