"""The three roads that `wire` compares: meshlore, bare libp2p, and asyncio TCP. Each has a server and a client.

Bare libp2p is a stock host (Noise, Yamux) with the workarounds of `mesh/upstream.py` that change its speed, and no
membership, frames, hashing or budgets; its server answers in trio, and its client is called from asyncio, as a user
of it would have to. Where `AT_ONCE` requests are under way at once, it and TCP have a stream each for them.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAYLOAD_BYTES = 1024
LENGTH_BYTES = 4
AT_ONCE = 8
Step = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Client:
    """One connected client: what one request and one blob are, to be called again and again."""

    request: Step
    blob: Step


class Training:
    """A thread that trains a small network, as a node does while it serves."""

    def __init__(self) -> None:
        self._wanted, self._begun = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Returns when it trains."""
        self._wanted.set()
        self._begun.clear()
        self._thread = threading.Thread(target=self._train)
        self._thread.start()
        self._begun.wait()

    def stop(self) -> None:
        self._wanted.clear()
        if self._thread is not None:
            self._thread.join()

    def _train(self) -> None:
        import torch

        torch.set_num_threads(1)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 28 * 28, 10)
        )
        optimizer = torch.optim.Adam(model.parameters())
        images, labels = torch.rand(32, 1, 28, 28), torch.randint(10, (32,))
        while self._wanted.is_set():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            self._begun.set()


def obey_orders() -> None:
    """A server's other side, until its standard input ends: "train", "rest", "cpu". The answer is its CPU seconds."""
    training = Training()
    for order in sys.stdin:
        if order == "train\n":
            training.start()
        elif order == "rest\n":
            training.stop()
        print(time.process_time(), flush=True)
    training.stop()


@asynccontextmanager
async def over_meshlore(address: str, blob_bytes: int, home: Path) -> AsyncIterator[Client]:
    from meshlore.mesh.host import Libp2pTransport
    from meshlore.security.membership import Credentials

    transport = Libp2pTransport(Credentials.load(home / "client"))
    await transport.start(_Service())
    peer_id = await transport.connect(address, 5)
    name = hashlib.sha256(bytes(blob_bytes)).hexdigest()

    async def request() -> None:
        await transport.request(peer_id, "echo", {"data": bytes(PAYLOAD_BYTES)}, timeout_s=10)

    async def blob() -> None:
        await transport.fetch(peer_id, name, size_limit_bytes=blob_bytes, timeout_s=60)

    yield Client(request, blob)
    await transport.stop()


async def serve_meshlore(blob_bytes: int, home: Path) -> None:
    from meshlore.mesh.host import Libp2pTransport
    from meshlore.security.membership import Credentials

    transport = Libp2pTransport(Credentials.load(home / "server"))
    await transport.start(_Service(bytes(blob_bytes)))
    print(transport.addresses()[0], flush=True)
    await asyncio.to_thread(obey_orders)
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
async def over_libp2p(address: str, blob_bytes: int, _home: Path) -> AsyncIterator[Client]:
    import trio
    from libp2p.peer.peerinfo import info_from_p2p_addr
    from meshlore.mesh.bridge import Bridge
    from multiaddr import Multiaddr

    bridge = Bridge()
    await bridge.start()
    started = asyncio.Event()
    host, free, blobs = _bare_host(), [], []

    async def run() -> None:
        target = info_from_p2p_addr(Multiaddr(address))
        async with host.run([]):
            await host.connect(target)
            free.extend([await host.new_stream(target.peer_id, ["/echo"]) for _ in range(AT_ONCE)])
            blobs.append(await host.new_stream(target.peer_id, ["/blob"]))
            bridge.post(started.set)
            await stop.wait()

    async def ask(stream: Any, question: bytes, size: int) -> None:
        await stream.write(question)
        await _read_from(stream, size)

    async def request() -> None:
        stream = free.pop()
        await bridge.call(ask, stream, bytes(PAYLOAD_BYTES), PAYLOAD_BYTES)
        free.append(stream)

    async def new_event() -> trio.Event:
        return trio.Event()

    stop = await bridge.call(new_event)
    running = asyncio.create_task(bridge.call(run))
    running.add_done_callback(lambda _: started.set())
    await started.wait()
    yield Client(request, lambda: bridge.call(ask, blobs[0], b"?", blob_bytes))
    await bridge.stop()
    await asyncio.wait([running])


def serve_libp2p(blob_bytes: int) -> None:
    import trio
    from multiaddr import Multiaddr

    data = bytes(blob_bytes)

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
            await trio.to_thread.run_sync(obey_orders)
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
    host = libp2p.new_host(key_pair=key_pair, sec_opt={upstream.NOISE: noise}, muxer_opt=muxer)
    upstream._make_connections_of(upstream.MeshYamux, host.get_network().upgrader.muxer_multistream)
    return host


async def _read_from(stream: Any, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += await stream.read(min(65536, size - len(data)))
    return bytes(data)


@asynccontextmanager
async def over_tcp(address: str, blob_bytes: int, _home: Path) -> AsyncIterator[Client]:
    host, port = address.split(":")
    free = [await asyncio.open_connection(host, int(port), limit=1 << 20) for _ in range(AT_ONCE)]

    async def ask(question: bytes, size: int) -> None:
        reader, writer = connection = free.pop()
        writer.write(len(question).to_bytes(LENGTH_BYTES, "big") + question)
        await writer.drain()
        await reader.readexactly(size)
        free.append(connection)

    yield Client(lambda: ask(bytes(PAYLOAD_BYTES), PAYLOAD_BYTES), lambda: ask(b"?", blob_bytes))
    for _, writer in free:
        writer.close()


async def serve_tcp(blob_bytes: int) -> None:
    data = bytes(blob_bytes)

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
    await asyncio.to_thread(obey_orders)


ROADS = {"meshlore": over_meshlore, "libp2p": over_libp2p, "asyncio TCP": over_tcp}


def serve(road: str, blob_bytes: int, home: Path) -> None:
    """The server process; ends when its standard input does."""
    if road == "meshlore":
        asyncio.run(serve_meshlore(blob_bytes, home))
    elif road == "libp2p":
        serve_libp2p(blob_bytes)
    else:
        asyncio.run(serve_tcp(blob_bytes))
