"""Idle sockets from ten addresses, held open as long as the host lets them, while honest members connect."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from meshlore.mesh.host import Libp2pTransport
from meshlore.mesh.memory import MemoryStore
from meshlore.mesh.mesh import Mesh
from meshlore.mesh.transport import Body, Caller, TransportLimits
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, found_mesh

from .figures import Figure

ADDRESSES = tuple(f"127.0.0.{number}" for number in range(2, 12))
MAX_P99_S = 2.0
OPENING_AT_ONCE = 64
REOPEN_S = 20.0
HONEST = 8


@dataclass
class Flood:
    """What the attacker counts."""

    opened: int = 0
    open_now: int = 0
    most_open: int = 0


class Quiet:
    """A service that does nothing."""

    async def handle(self, caller: Caller, kind: str, body: Body) -> Body:
        return {}

    def blob(self, name: str) -> bytes | None:
        return None

    def on_connected(self, peer_id: str) -> None: ...

    def on_disconnected(self, peer_id: str) -> None: ...


def measure_sockets(sockets: int, connects: int) -> list[Figure]:
    """p99 of ``connects`` honest connects while ``sockets`` idle ones knock."""
    with tempfile.TemporaryDirectory(prefix="meshlore-sockets-") as name:
        folder = Path(name)
        founder = found_mesh(folder / "host", "target", "host", {}, ["node"], now=time.time())
        with _host(folder / "host") as address:
            alone, flooded, flood = asyncio.run(_measure(founder, address, sockets, connects))
    return [
        Figure(
            "sockets",
            "honest connect, p99",
            _p99(flooded),
            most=MAX_P99_S,
            unit="s",
            note=f"median {statistics.median(flooded):.2f} s; without the flood {statistics.median(alone):.2f} s",
        ),
        Figure("sockets", "honest connects that failed", connects - len(flooded), most=0, unit=f"of {connects}"),
        Figure(
            "sockets",
            "idle sockets opened",
            flood.opened,
            least=sockets,
            note=f"from {len(ADDRESSES)} addresses; at most {flood.most_open} open at once",
        ),
    ]


def serve(home: str) -> int:
    """The host under attack, in a process of its own; ends when its standard input does."""
    asyncio.run(_serve(Path(home)))
    return 0


async def _serve(home: Path) -> None:
    # the honest members of this benchmark come back far more often than members do
    transport = Libp2pTransport(Credentials.load(home), limits=TransportLimits(members_per_s=100, members_burst=1000))
    mesh = Mesh(transport, store=MemoryStore())
    await mesh.start()
    print(mesh.addresses()[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await mesh.stop()


@contextlib.contextmanager
def _host(home: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.security", "--serve", str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("no pipes")
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


async def _measure(
    founder: Credentials, address: str, sockets: int, connects: int
) -> tuple[list[float], list[float], Flood]:
    members = [Libp2pTransport(_member(founder, f"honest-{number}")) for number in range(HONEST)]
    for member in members:
        await member.start(Quiet())
    host, port = "127.0.0.1", int(address.split("/")[4])
    alone = await _connect(members, address, min(20, connects))
    flood, gate = Flood(), asyncio.Semaphore(OPENING_AT_ONCE)
    idle = [
        asyncio.create_task(_idle(ADDRESSES[number % len(ADDRESSES)], host, port, flood, gate))
        for number in range(sockets)
    ]
    while flood.opened < sockets:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    flooded = await _connect(members, address, connects)
    for task in idle:
        task.cancel()
    await asyncio.wait(idle)
    for member in members:
        await member.stop()
    return alone, flooded, flood


async def _connect(members: list[Libp2pTransport], address: str, connects: int) -> list[float]:
    """Seconds per connect that worked, one after the other, each member in its turn."""
    took, host = [], address.rpartition("/")[2]
    for number in range(connects):
        member = members[number % len(members)]
        started = time.monotonic()
        with contextlib.suppress(Exception):
            await member.connect(address, 10)
            took.append(time.monotonic() - started)
            async with asyncio.timeout(5):
                await member.disconnect(host)
                while member.connected():  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
    return took


async def _idle(source: str, host: str, port: int, flood: Flood, gate: asyncio.Semaphore) -> None:
    """One socket that says nothing; opened again a while after the host has closed it."""
    while True:
        try:
            async with gate:
                reader, writer = await asyncio.open_connection(host, port, local_addr=(source, 0))
        except OSError:
            await asyncio.sleep(REOPEN_S)
            continue
        flood.opened += 1
        flood.open_now += 1
        flood.most_open = max(flood.most_open, flood.open_now)
        try:
            with contextlib.suppress(OSError):
                while await reader.read(4096):
                    continue
        finally:
            flood.open_now -= 1
            writer.close()
        await asyncio.sleep(REOPEN_S)


def _member(founder: Credentials, name: str) -> Credentials:
    identity = Identity.generate()
    if founder.root is None:
        raise RuntimeError("a founder holds the root")
    certificate = founder.root.issue(identity.peer_id, name, ["node"], identity.hpke_public_key, time.time())
    return Credentials(identity, founder.charter, certificate, founder.keyring)


def _p99(values: list[float]) -> float:
    return sorted(values)[max(0, -(-99 * len(values) // 100) - 1)] if values else float("inf")
