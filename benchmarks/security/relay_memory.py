"""Two members talk through a third, whose memory is searched for what they say.

The relay is a process of its own. While requests and blobs full of a marker pass through it, it is stopped again and
again and all its memory is read (``/proc/PID/mem``). A second marker, which the relay is asked to keep, must be found,
or the search finds nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from meshlore.errors import ConfigError
from meshlore.mesh.host import Libp2pTransport
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, found_mesh

from .figures import Figure

MARKER_BYTES = 16
LOOKS = 8
BLOB_BYTES = 4 << 20
READ_BYTES = 4 << 20
KEEP = "keep"


class _Service:
    """Keeps what it is asked to keep, echoes all else, and has one blob."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._kept: list[dict[str, Any]] = []

    async def handle(self, _caller: object, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        if kind == KEEP:
            self._kept.append(body)
        return body

    def blob(self, _name: str) -> bytes | None:
        return self._data

    def on_connected(self, peer_id: str) -> None: ...

    def on_disconnected(self, peer_id: str) -> None: ...


def measure_relay_memory() -> list[Figure]:
    """Let two members talk through a relay, and count what of it the relay's memory holds."""
    with tempfile.TemporaryDirectory(prefix="meshlore-relay-") as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[Figure]:
    marker, control = secrets.token_bytes(MARKER_BYTES), secrets.token_bytes(MARKER_BYTES)
    found = controls = searched = 0
    async with _relay(folder) as (process, address), _two(folder, marker) as (ann, hidden):
        relay_id = await ann.connect(address, 10)
        await hidden.connect(address, 10)
        await hidden.reserve(relay_id, 10)
        await ann.request(relay_id, KEEP, {"control": control}, timeout_s=10)
        await ann.connect(hidden.addresses()[-1], 10)
        if await ann.is_direct(hidden.peer_id):
            raise RuntimeError("the two must not reach each other but through the relay")
        before = ann.traffic().bytes_received
        talking = asyncio.create_task(_talk(ann, hidden.peer_id, marker))
        for _ in range(LOOKS):
            await asyncio.sleep(0.3)
            counts = await asyncio.to_thread(count_in_memory, process.pid, (marker, control))
            found, controls, searched = found + counts[0], max(controls, counts[1]), searched + counts[2]
        talking.cancel()
        await asyncio.wait([talking])
        if not talking.cancelled():
            talking.result()
        passed_mb = (ann.traffic().bytes_received - before) / 1e6
    note = f"{LOOKS} looks, {searched / 1e6:,.0f} MB read while {passed_mb:.0f} MB passed through it"
    return [
        Figure("relay", "patterns in its memory", found, most=0, note=note),
        Figure("relay", "patterns it was told to keep", controls, least=1, note="found by the same search"),
        Figure("relay", "passed through it", passed_mb, least=BLOB_BYTES / 1e6, unit="MB"),
    ]


def count_in_memory(pid: int, patterns: tuple[bytes, bytes]) -> tuple[int, int, int]:
    """How often each pattern is in the writable memory of a process, stopped meanwhile; and how many bytes that is.

    Raises:
        ConfigError: its memory may not be read.
    """
    counts, size = [0, 0], 0
    os.kill(pid, signal.SIGSTOP)
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for start, end in _writable(pid):
                for data in _pieces(memory, start, end):
                    size += len(data)
                    counts = [count + data.count(pattern) for count, pattern in zip(counts, patterns, strict=True)]
    except PermissionError as error:
        raise ConfigError(f"the memory of another process cannot be read ({error})", "run as root") from None
    finally:
        os.kill(pid, signal.SIGCONT)
    return counts[0], counts[1], size


def _writable(pid: int) -> list[tuple[int, int]]:
    ranges = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        place, rights, *_ = line.split()
        if rights.startswith("rw"):
            start, _, end = place.partition("-")
            ranges.append((int(start, 16), int(end, 16)))
    return ranges


def _pieces(memory: Any, start: int, end: int) -> Any:
    """Each piece begins with the end of the one before, as a pattern may lie across."""
    tail = b""
    while start < end:
        try:
            memory.seek(start)
            data = memory.read(min(READ_BYTES, end - start))
        except OSError:
            return  # what the kernel keeps for itself
        if not data:
            return
        yield tail + data
        tail, start = data[-MARKER_BYTES + 1 :], start + len(data)


async def _talk(ann: Libp2pTransport, hidden_id: str, marker: bytes) -> None:
    name = hashlib.sha256(_blob(marker)).hexdigest()
    while True:
        await ann.request(hidden_id, "echo", {"word": marker * 50}, timeout_s=30)
        await ann.fetch(hidden_id, name, size_limit_bytes=BLOB_BYTES, timeout_s=60)


def _blob(marker: bytes) -> bytes:
    return marker * (BLOB_BYTES // MARKER_BYTES)


@asynccontextmanager
async def _two(folder: Path, marker: bytes) -> AsyncIterator[tuple[Libp2pTransport, Libp2pTransport]]:
    ann, hidden = (Libp2pTransport(Credentials.load(folder / name)) for name in ("ann", "hidden"))
    await ann.start(_Service())
    await hidden.start(_Service(_blob(marker)))
    try:
        yield ann, hidden
    finally:
        await asyncio.gather(ann.stop(), hidden.stop())


@asynccontextmanager
async def _relay(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    founder = found_mesh(folder / "relay", "benchmark", "relay", {}, ["node"], now=time.time())
    for name in ("ann", "hidden"):
        identity = Identity.generate()
        if founder.root is None:
            raise RuntimeError("a founder holds the root")
        issued = founder.root.issue(identity.peer_id, name, ["node"], identity.hpke_public_key, time.time())
        Credentials(identity, founder.charter, issued, founder.keyring).save(folder / name)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.security", "--serve-relay", str(folder / "relay")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    try:
        yield process, (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def serve_relay(home: Path) -> int:
    """The relay's process, until its standard input ends."""

    async def main() -> None:
        transport = Libp2pTransport(Credentials.load(home))
        await transport.start(_Service())
        print(transport.addresses()[0], flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await transport.stop()

    asyncio.run(main())
    return 0
