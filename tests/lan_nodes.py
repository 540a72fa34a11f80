"""Nodes for tests, each a process in a network namespace of its own, all on one local network."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meshlore.security.membership import Credentials
from namespaces import IP, LocalNetwork

EVERYWHERE = "/ip4/0.0.0.0/tcp/0"
NODE = """
import asyncio, json, sys
from pathlib import Path
from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.lan import LanDiscovery
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.mesh.reachability import Reachability
from meshlore.security.membership import Credentials

async def main(home, listen, lan, bootstrap):
    credentials = Credentials.load(Path(home))
    transport = Libp2pTransport(credentials, [listen])
    mesh = Mesh(transport, store=MemoryStore())
    reachability = Reachability(transport, mesh)
    discovery = LanDiscovery(credentials.mesh_id, mesh.own_record, mesh.heard_of)
    await mesh.start(bootstrap)
    running = [asyncio.create_task(reachability.run())]
    if lan == "on":
        running.append(asyncio.create_task(discovery.run()))
    while not any(task.done() for task in running):
        peers = {peer.name: await transport.is_direct(peer.peer_id) for peer in mesh.peers() if peer.connected}
        print(json.dumps({
            "peers": sorted(peers),
            "relayed": sorted(name for name, direct in peers.items() if not direct),
            "known": sorted(peer.peer_id for peer in mesh.peers()),
            "addresses": mesh.addresses(),
            "lan": discovery.state,
            "reach": reachability.state,
        }), flush=True)
        await asyncio.sleep(0.1)
    for task in running:
        task.result()

asyncio.run(main(*sys.argv[1:4], sys.argv[4:]))
"""


class Node:
    """``said`` is what it printed last: whom it is connected to, and how it is seen."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: dict[str, Any] = {}
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.said = json.loads(line)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading


class Lan:
    """Starts nodes on one local network, with their homes below ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.network = LocalNetwork()
        self._folder = folder
        self._nodes: list[Node] = []

    async def start(
        self,
        name: str,
        credentials: Credentials,
        *,
        listen: str = EVERYWHERE,
        discovery: str = "on",
        bootstrap: Sequence[str] = (),
    ) -> Node:
        namespace, home = self.network.device(name), self._folder / name
        await asyncio.to_thread(credentials.save, home)
        process = await asyncio.create_subprocess_exec(
            *(IP, "netns", "exec", namespace, sys.executable, "-c", NODE, str(home), listen, discovery, *bootstrap),
            stdout=asyncio.subprocess.PIPE,
        )
        self._nodes.append(Node(process))
        return self._nodes[-1]

    async def close(self) -> None:
        for node in self._nodes:
            await node.end()
        self.network.close()


async def until(condition: Callable[[], object], timeout_s: float = 90) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)
