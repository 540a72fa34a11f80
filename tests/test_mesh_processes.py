"""Real processes on loopback: kill -9, SIGSTOP, restart on the same port."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from meshlore.errors import PeerGone
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.members import Peer, PeerState
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.security.membership import Credentials

NODE = """
import asyncio, json, sys
from pathlib import Path
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.security.membership import Credentials

async def main(home, listen, blob):
    store = MemoryStore()
    mesh = Mesh(Libp2pTransport(Credentials.load(Path(home)), [listen]), store=store)
    async def slow(caller, body):
        await asyncio.sleep(60)
    mesh.serve("slow", slow)
    name = store.put(blob.encode())
    await mesh.start()
    print(json.dumps({"address": mesh.addresses()[0], "blob": name}), flush=True)
    await asyncio.sleep(120)

asyncio.run(main(*sys.argv[1:]))
"""


class Node:
    """One mesh in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, address: str, blob: str) -> None:
        self.process, self.address, self.blob = process, address, blob
        self.peer_id = address.rpartition("/")[2]

    @classmethod
    async def start(cls, home: Path, listen: str = "/ip4/127.0.0.1/tcp/0") -> Node:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", NODE, str(home), listen, "a blob of the other process", stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        async with asyncio.timeout(30):
            said = json.loads(await process.stdout.readline())
        return cls(process, said["address"], said["blob"])

    async def kill(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def until(condition: Callable[[], object], timeout_s: float) -> float:
    started = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_another_process_is_killed_returns_on_its_port_and_is_frozen(
    tmp_path: Path, new_member: Callable[..., Credentials]
) -> None:
    home = tmp_path / "other"
    new_member("other").save(home)
    node = await Node.start(home)
    store = MemoryStore()
    mesh = Mesh(Libp2pTransport(new_member("me")), store=store)

    def other() -> Peer:
        return next(peer for peer in mesh.peers() if peer.peer_id == node.peer_id)

    try:
        await mesh.start([node.address])
        await until(lambda: node.blob in store.blobs, 5)

        waiting = asyncio.create_task(mesh.request(node.peer_id, "slow", {}, 30))
        await asyncio.sleep(0.2)
        os.kill(node.process.pid, signal.SIGKILL)
        killed = time.monotonic()
        with pytest.raises(PeerGone):
            await waiting
        await until(lambda: other().state is PeerState.GONE, 5)
        assert time.monotonic() - killed < 1.5
        await node.kill()

        listen = node.address.rpartition("/p2p/")[0]
        node = await Node.start(home, listen)
        assert node.address.startswith(listen)
        await until(lambda: other().state is PeerState.LIVE, 8)

        os.kill(node.process.pid, signal.SIGSTOP)
        assert await until(lambda: other().state is PeerState.GONE, 10) <= 8.5
        os.kill(node.process.pid, signal.SIGCONT)
        await until(lambda: other().state is PeerState.LIVE, 8)

        os.kill(node.process.pid, signal.SIGSTOP)
        started = time.monotonic()
        await mesh.stop()
        assert time.monotonic() - started < 3
    finally:
        await node.kill()
        await mesh.stop()
