"""What our transport costs: requests and blobs over meshlore, over bare libp2p, and over asyncio TCP.

    python -m benchmarks.wire [--json] [--quick]

Every server runs in a process of its own on loopback. The three take turns, some requests each, within one run, so the
ratios hold even where absolute figures do not; `benchmarks/wire_roads.py` says what each of them is. Each figure is
that of the quietest quarter of the turns, as other work on the machine only adds, and p99 that of all requests. Beside
the figures stand the targets, as ratios to bare libp2p; the exit code is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .wire_roads import AT_ONCE, PAYLOAD_BYTES, ROADS, Client, Step, Training, serve

MOST = 1.3
OURS, BARE = "meshlore", "libp2p"
Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Plan:
    """How much is measured, per road: ``rounds`` times ``turns`` times each of the others."""

    requests: int = 40
    requests_training: int = 20
    requests_at_once: int = 160
    blob_bytes: int = 16 << 20
    turns: int = 6
    rounds: int = 3


QUICK = Plan(requests=25, requests_training=10, requests_at_once=80, blob_bytes=4 << 20, turns=4, rounds=2)


@dataclass(frozen=True)
class Target:
    """``ratio``: ours to bare libp2p's, turned so that more is worse."""

    name: str
    ratio: float
    most: float = MOST

    @property
    def met(self) -> bool:
        return self.ratio <= self.most


@dataclass
class Samples:
    """What was measured on one road, turn by turn. CPU seconds are those of client and server together."""

    idle_s: list[list[float]] = field(default_factory=list)
    """Of each request."""
    training_s: list[list[float]] = field(default_factory=list)
    at_once_s: list[float] = field(default_factory=list)
    """Per request, with `AT_ONCE` under way."""
    blob_s: list[float] = field(default_factory=list)
    """Per byte."""
    request_cpu_s: list[float] = field(default_factory=list)
    blob_cpu_s: list[float] = field(default_factory=list)
    """Per byte."""


@dataclass
class Road:
    """One road with both its ends up."""

    server: asyncio.subprocess.Process
    client: Client
    samples: Samples

    async def measure_turn(self, plan: Plan) -> None:
        cpu = await self._order("cpu")
        self.samples.idle_s.append([await _timed(self.client.request) for _ in range(plan.requests)])
        self.samples.request_cpu_s.append((await self._order("cpu") - cpu) / plan.requests)
        took_s = await _timed(lambda: _at_once(self.client.request, plan.requests_at_once))
        self.samples.at_once_s.append(took_s / plan.requests_at_once)
        cpu = await self._order("cpu")
        self.samples.blob_s.append(await _timed(self.client.blob) / plan.blob_bytes)
        self.samples.blob_cpu_s.append((await self._order("cpu") - cpu) / plan.blob_bytes)

    async def measure_training(self, plan: Plan) -> None:
        await self._order("train")
        self.samples.training_s.append([await _timed(self.client.request) for _ in range(plan.requests_training)])
        await self._order("rest")

    async def _order(self, order: str) -> float:
        """Returns the CPU seconds of both processes so far."""
        if self.server.stdin is None or self.server.stdout is None:
            raise RuntimeError("no pipes")
        self.server.stdin.write(f"{order}\n".encode())
        return float(await self.server.stdout.readline()) + time.process_time()


async def measure(plan: Plan) -> dict[str, Samples]:
    """All roads, by turns; a round has new processes and connections."""
    samples = {road: Samples() for road in ROADS}
    training = Training()
    with tempfile.TemporaryDirectory() as folder:
        _make_members(Path(folder))
        for _ in range(plan.rounds):
            async with AsyncExitStack() as stack:
                roads = []
                for name in ROADS:
                    road = await stack.enter_async_context(_open(name, plan, Path(folder), samples[name]))
                    await road.client.request()
                    await road.client.blob()
                    roads.append(road)
                for _ in range(plan.turns):
                    for road in roads:
                        await road.measure_turn(plan)
                await _measure_training(roads, training, plan)
    return samples


async def _measure_training(roads: list[Road], training: Training, plan: Plan) -> None:
    await asyncio.to_thread(training.start)
    for _ in range(plan.turns):
        for road in roads:
            await road.measure_training(plan)
    training.stop()


def summarise(samples: dict[str, Samples]) -> Table:
    """Per road, the figures that are shown."""
    return {
        road: {
            "request_p50_ms": round(1e3 * _quiet([statistics.median(turn) for turn in taken.idle_s]), 3),
            "request_p99_ms": round(1e3 * _p99(taken.idle_s), 3),
            "training_p50_ms": round(1e3 * _quiet([statistics.median(turn) for turn in taken.training_s]), 3),
            "training_p99_ms": round(1e3 * _p99(taken.training_s), 3),
            "requests_per_s": round(1 / _quiet(taken.at_once_s), 1),
            "cpu_ms_per_request": round(1e3 * _quiet(taken.request_cpu_s), 3),
            "blob_mb_per_s": round(1e-6 / _quiet(taken.blob_s), 1),
            "cpu_ms_per_mb": round(1e9 * _quiet(taken.blob_cpu_s), 2),
        }
        for road, taken in samples.items()
    }


def _quiet(turns: list[float]) -> float:
    return statistics.quantiles(turns, n=4, method="inclusive")[0]


def _p99(turns: list[list[float]]) -> float:
    return statistics.quantiles([value for turn in turns for value in turn], n=100)[98]


def judge(table: Table) -> list[Target]:
    """Ours against bare libp2p. No target for the CPU of a MB: bare libp2p does not hash what it carries."""
    ours, bare = table[OURS], table[BARE]
    slower = ("request_p50_ms", "training_p50_ms", "cpu_ms_per_request")
    faster = ("requests_per_s", "blob_mb_per_s")
    return [Target(name, round(ours[name] / bare[name], 2)) for name in slower] + [
        Target(name, round(bare[name] / ours[name], 2)) for name in faster
    ]


async def _timed(step: Step) -> float:
    started = time.perf_counter()
    await step()
    return time.perf_counter() - started


async def _at_once(request: Step, count: int) -> None:
    async def worker() -> None:
        for _ in range(count // AT_ONCE):
            await request()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


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
async def _open(name: str, plan: Plan, home: Path, samples: Samples) -> AsyncIterator[Road]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.wire", "--serve", name, str(plan.blob_bytes), str(home),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("no pipes")
    try:
        address = (await process.stdout.readline()).decode().strip()
        async with ROADS[name](address, plan.blob_bytes, home) as client:
            yield Road(process, client, samples)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def show(table: Table, targets: list[Target]) -> None:
    from rich.console import Console
    from rich.table import Table as RichTable

    heads = ("p50 ms", "p99 ms", "training p50", "p99", "requests/s", "CPU ms/request", "blob MB/s", "CPU ms/MB")
    shown = RichTable("over", *heads, title=f"loopback, one process each side, requests of {PAYLOAD_BYTES} bytes")
    for road, row in table.items():
        shown.add_row(road, *(f"{value:g}" for value in row.values()))
    verdicts = RichTable("worse than bare libp2p by a factor of", "measured", "at most", "")
    for target in targets:
        verdicts.add_row(target.name, f"{target.ratio:g}", f"{target.most:g}", "met" if target.met else "MISSED")
    console = Console(width=110)
    console.print(shown)
    console.print(verdicts)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.wire", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="fewer and smaller measurements")
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        road, blob_bytes, home = arguments.serve
        serve(road, int(blob_bytes), Path(home))
        return 0
    plan = QUICK if arguments.quick else Plan()
    table = summarise(asyncio.run(measure(plan)))
    targets = judge(table)
    if arguments.json:
        verdicts = [{**asdict(target), "met": target.met} for target in targets]
        print(json.dumps({"payload_bytes": PAYLOAD_BYTES, "plan": asdict(plan), "roads": table, "targets": verdicts}))
    else:
        show(table, targets)
    return 0 if all(target.met for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
