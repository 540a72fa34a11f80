"""What our transport costs: requests and blobs over meshlore, over bare libp2p, and over asyncio TCP.

    python -m benchmarks.wire [--json] [--quick]

Every server runs in a process of its own on loopback; the three take turns within one run, so the
ratios hold even where absolute figures do not. Bare libp2p is a stock host (Noise, Yamux) with the
workarounds of `mesh/upstream.py` that change speed, and no membership, frames, bridge or hashing.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAYLOAD_BYTES = 1024
LENGTH_BYTES = 4
Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    requests: int = 400
    blob_bytes: int = 16 << 20
    blobs: int = 4
    rounds: int = 3


QUICK = Plan(requests=100, blob_bytes=4 << 20, blobs=2, rounds=2)


@dataclass(frozen=True)
class Client:
    """One connected client: what one request and one blob are, to be called again and again."""

    request: Step
    blob: Step


@asynccontextmanager
async def over_meshlore(address: str, plan: Plan, home: Path) -> AsyncIterator[Client]:
    from meshlore.mesh.host import Libp2pTransport
    from meshlore.security.membership import Credentials

    transport = Libp2pTransport(Credentials.load(home / "client"))
    await transport.start(_Service())
    peer_id = await transport.connect(address, 5)
    name = hashlib.sha256(bytes(plan.blob_bytes)).hexdigest()

    async def request() -> None:
        await transport.request(peer_id, "echo", {"data": bytes(PAYLOAD_BYTES)}, timeout_s=10)

    async def blob() -> None:
        await transport.fetch(peer_id, name, size_limit_bytes=plan.blob_bytes, timeout_s=60)

    yield Client(request, blob)
    await transport.stop()


async def serve_meshlore(plan: Plan, home: Path) -> None:
    from meshlore.mesh.host import Libp2pTransport
    from meshlore.security.membership import Credentials

    transport = Libp2pTransport(Credentials.load(home / "server"))
    await transport.start(_Service(bytes(plan.blob_bytes)))
    print(transport.addresses()[0], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await transport.stop()


class _Service:
    def __init__(self, data: bytes = b"") -> None:
        self._data = data

    async def handle(self, _caller: object, _kind: str, body: dict[str, Any]) -> dict[str, Any]:
        return body

    def blob(self, _name: str) -> bytes | None:
        return self._data

    def on_connected(self, peer_id: str) -> None: ...

    def on_disconnected(self, peer_id: str) -> None: ...


@asynccontextmanager
async def over_libp2p(address: str, plan: Plan, _home: Path) -> AsyncIterator[Client]:
    """A trio client in a thread; each step is timed from asyncio as a user of it would have to call it."""
    import trio
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from meshlore.mesh.bridge import Bridge
    from multiaddr import Multiaddr

    bridge = Bridge()
    await bridge.start()
    started, ended = asyncio.Event(), asyncio.Event()
    host, streams = _bare_host(), {}

    async def run() -> None:
        target = info_from_p2p_addr(Multiaddr(address))
        async with host.run([]):
            await host.connect(target)
            for kind in ("/echo", "/blob"):
                streams[kind] = await host.new_stream(target.peer_id, [kind])
            bridge.post(started.set)
            await stop.wait()

    async def ask(kind: str, question: bytes, size: int) -> None:
        await streams[kind].write(question)
        await _read_from(streams[kind], size)

    async def new_event() -> trio.Event:
        return trio.Event()

    stop = await bridge.call(new_event)
    running = asyncio.create_task(bridge.call(run))
    running.add_done_callback(lambda _: (started.set(), ended.set()))
    await started.wait()
    yield Client(
        lambda: bridge.call(ask, "/echo", bytes(PAYLOAD_BYTES), PAYLOAD_BYTES),
        lambda: bridge.call(ask, "/blob", b"?", plan.blob_bytes),
    )
    await bridge.stop()
    await asyncio.wait([running])


def serve_libp2p(plan: Plan) -> None:
    import trio
    from multiaddr import Multiaddr

    data = bytes(plan.blob_bytes)

    async def echo(stream: Any) -> None:
        while True:
            await stream.write(await _read_from(stream, PAYLOAD_BYTES))

    async def blob(stream: Any) -> None:
        while True:
            await _read_from(stream, 1)
            await stream.write(data)

    async def main() -> None:
        from meshlore.mesh import upstream

        host = _bare_host()
        async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            host.set_stream_handler("/echo", upstream.safe_handler(echo))
            host.set_stream_handler("/blob", upstream.safe_handler(blob))
            print(host.get_addrs()[0], flush=True)
            await trio.to_thread.run_sync(sys.stdin.read)
            os._exit(0)  # it has no graceful end

    trio.run(main)


def _bare_host() -> Any:
    from meshlore.mesh import upstream  # isort: skip
    import libp2p
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
    from libp2p.custom_types import TProtocol
    from libp2p.security.noise.transport import Transport
    from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID

    upstream.patch_yamux()
    key_pair = create_new_key_pair()
    noise = Transport(key_pair, noise_privkey=new_x25519().private_key)
    muxer = {TProtocol(PROTOCOL_ID): upstream.MeshYamux}
    return libp2p.new_host(key_pair=key_pair, sec_opt={upstream.NOISE: noise}, muxer_opt=muxer)


async def _read_from(stream: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.read(min(65536, size - len(data)))
    return bytes(data)


@asynccontextmanager
async def over_tcp(address: str, plan: Plan, _home: Path) -> AsyncIterator[Client]:
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)

    async def ask(question: bytes, size: int) -> None:
        writer.write(len(question).to_bytes(LENGTH_BYTES, "big") + question)
        await writer.drain()
        await reader.readexactly(size)

    yield Client(lambda: ask(bytes(PAYLOAD_BYTES), PAYLOAD_BYTES), lambda: ask(b"?", plan.blob_bytes))
    writer.close()


async def serve_tcp(plan: Plan) -> None:
    data = bytes(plan.blob_bytes)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
                question = await reader.readexactly(size)
                writer.write(data if question == b"?" else question)
                await writer.drain()
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


ROADS = {"meshlore": over_meshlore, "libp2p": over_libp2p, "asyncio TCP": over_tcp}


async def measure(plan: Plan) -> dict[str, dict[str, float]]:
    """Per road: p50 and p99 of idle requests of 1 KiB (ms), and blob speed (MB/s), rounds in turn."""
    latencies: dict[str, list[float]] = {road: [] for road in ROADS}
    speeds: dict[str, list[float]] = {road: [] for road in ROADS}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _make_members(home)
        for _ in range(plan.rounds):
            for road, over in ROADS.items():
                async with _server(road, plan, home) as address, over(address, plan, home) as client:
                    await client.request()
                    for _ in range(plan.requests):
                        latencies[road].append(await _timed(client.request))
                    await client.blob()
                    for _ in range(plan.blobs):
                        speeds[road].append(plan.blob_bytes / 1e6 / await _timed(client.blob))
    return {
        road: {
            "request_p50_ms": round(1e3 * statistics.quantiles(latencies[road], n=100)[49], 3),
            "request_p99_ms": round(1e3 * statistics.quantiles(latencies[road], n=100)[98], 3),
            "blob_mb_per_s": round(statistics.median(speeds[road]), 1),
        }
        for road in ROADS
    }


async def _timed(step: Step) -> float:
    started = time.perf_counter()
    await step()
    return time.perf_counter() - started


def _make_members(home: Path) -> None:
    from meshlore.security.identity import Identity
    from meshlore.security.membership import Credentials, found_mesh

    founder = found_mesh(home / "server", "benchmark", "server", {}, ["node"], now=time.time())
    identity = Identity.generate()
    if founder.root is None:
        raise RuntimeError("a founder holds the root")
    key = identity.hpke_public_key
    certificate = founder.root.issue(identity.peer_id, "client", ["node"], key, time.time())
    Credentials(identity, founder.charter, certificate, founder.keyring).save(home / "client")


@asynccontextmanager
async def _server(road: str, plan: Plan, home: Path) -> AsyncIterator[str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.wire", "--serve", road, str(plan.blob_bytes), str(home),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def serve(road: str, plan: Plan, home: Path) -> None:
    """The server process; ends when its standard input does."""
    if road == "meshlore":
        asyncio.run(serve_meshlore(plan, home))
    elif road == "libp2p":
        serve_libp2p(plan)
    else:
        asyncio.run(serve_tcp(plan))


def show(figures: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("over", "request p50 ms", "p99 ms", "blob MB/s", title="loopback, one process each side")
    for road, row in figures.items():
        table.add_row(road, *(f"{row[key]:g}" for key in ("request_p50_ms", "request_p99_ms", "blob_mb_per_s")))
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.wire", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        road, blob_bytes, home = arguments.serve
        return serve(road, Plan(blob_bytes=int(blob_bytes)), Path(home))
    plan = QUICK if arguments.quick else Plan()
    figures = asyncio.run(measure(plan))
    if arguments.json:
        print(json.dumps({"payload_bytes": PAYLOAD_BYTES, "blob_bytes": plan.blob_bytes, "roads": figures}))
    else:
        show(figures)
    return None


if __name__ == "__main__":
    main()
