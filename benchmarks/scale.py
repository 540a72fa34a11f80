"""How the mesh grows: time, bytes, memory and neighbours with 10 to 200 nodes.

    python -m benchmarks.scale [--json] [--quick] [--only protocol|learning] [--large]

The in-memory network runs the protocol code of the daemon in virtual time (5 ms one way), so seconds are those of
the protocol and not of this machine; real libp2p runs on loopback in real time. All nodes publish one packet at
the same moment; then single packets follow; then nothing happens for a while; then somebody joins. Each row is a
process of its own. Exit code 1 when a target is missed. `benchmarks.growth` adds what learning comes to with so many
nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from . import growth
from .growth import Growth

PACKET_BYTES = 2000
SINGLES = 9
WAIT_S = 600.0
NEIGHBOURS = 6
FLAT = 1.3
MARGIN = 1.25


@dataclass(frozen=True)
class Cell:
    """One row: which network, how many nodes, how long nothing happens."""

    network: str
    nodes: int
    idle_s: float


CELLS = [*(Cell("memory", nodes, 60) for nodes in (10, 50, 100, 200)), *(Cell("libp2p", n, 30) for n in (8, 16))]
QUICK = [*(Cell("memory", nodes, 20) for nodes in (16, 32)), Cell("libp2p", 4, 5)]


@dataclass(frozen=True)
class Figures:
    """One row's results; bytes are of 1 node on average, as sent.

    Attributes:
        join_s: until every node has 6 neighbours (or all others).
        spread_s: from the publication of one packet by each until all hold all; ``rounds``: over how many nodes
            a packet went at most.
        single_s: the same for one packet, the median of `SINGLES`.
        catch_up_s: from the start of a newcomer until it holds everything.
        spread_bytes: all that was sent from the publications until all hold all; ``packet_bytes`` of it were packets.
        idle_bytes_per_s: when nothing happens.
        transferred_again: packets that a node was given more than once.
        neighbours_mean, neighbours_max: per node.
        memory_bytes: growth of the process per node. cpu_s: of the whole row.
    """

    network: str
    nodes: int
    join_s: float
    spread_s: float
    rounds: int
    single_s: float
    catch_up_s: float
    spread_bytes: float
    packet_bytes: float
    idle_bytes_per_s: float
    transferred_again: int
    neighbours_mean: float
    neighbours_max: int
    memory_bytes: float
    cpu_s: float


async def measure(cell: Cell) -> Figures:
    import psutil
    from meshlore.mesh.host import Libp2pTransport

    from .swarm import Swarm

    process, cpu_s = psutil.Process(), time.process_time()
    swarm = Swarm(cell.nodes, over=Libp2pTransport if cell.network == "libp2p" else None)
    before = process.memory_info().rss
    await swarm.grow(cell.nodes)
    wanted = min(NEIGHBOURS, cell.nodes - 1)
    join_s = await swarm.until(lambda: all(node.neighbours >= wanted for node in swarm.nodes), WAIT_S)

    def sent(blobs: bool = False) -> float:
        traffic = [node.mesh.traffic() for node in swarm.nodes]
        return sum(each.blob_bytes_sent if blobs else each.bytes_sent for each in traffic) / len(traffic)

    base = sent()
    for node in swarm.nodes:
        swarm.publish(node, PACKET_BYTES)
    spread_s = await swarm.until(swarm.complete, WAIT_S)
    spread_bytes, packet_bytes = sent() - base, sent(blobs=True)
    rounds = max(swarm.hops(name) for name in swarm.published)
    memory_bytes = (process.memory_info().rss - before) / cell.nodes
    singles = []
    for _ in range(SINGLES):
        swarm.publish(swarm.random.choice(swarm.nodes), PACKET_BYTES)
        singles.append(await swarm.until(swarm.complete, WAIT_S))
    await asyncio.sleep(2 * cell.idle_s)  # until everybody knows enough others
    base = sent()
    await asyncio.sleep(cell.idle_s)
    idle_bytes_per_s = (sent() - base) / cell.idle_s
    neighbours = [node.neighbours for node in swarm.nodes]
    await swarm.grow(1)
    catch_up_s = await swarm.until(swarm.complete, WAIT_S)
    again = sum(count - 1 for node in swarm.nodes for count in node.store.arrivals.values())
    await swarm.stop()
    return Figures(
        cell.network,
        cell.nodes,
        join_s,
        spread_s,
        rounds,
        statistics.median(singles),
        catch_up_s,
        spread_bytes,
        packet_bytes,
        idle_bytes_per_s,
        again,
        statistics.mean(neighbours),
        max(neighbours),
        memory_bytes,
        time.process_time() - cpu_s,
    )


@dataclass(frozen=True)
class Verdict:
    """One target: what it says, what was measured, whether it is reached."""

    target: str
    measured: str
    reached: bool


def judge(rows: list[Figures]) -> list[Verdict]:
    """What is asked of one node, in every row; how things grow, on the in-memory network."""
    verdicts = [
        _at_most("packets transferred twice to one node", max(row.transferred_again for row in rows), 0),
        _at_most("neighbours of one node", max(row.neighbours_max for row in rows), 2 * NEIGHBOURS),
    ]
    # in a smaller mesh everybody is everybody's neighbour, and a packet goes over one link
    meshes = [row for row in rows if row.network == "memory" and row.nodes > 2 * NEIGHBOURS]
    if len(meshes) > 1:
        small, large = meshes[0], meshes[-1]
        logs, packets = math.log(large.nodes) / math.log(small.nodes), large.nodes / small.nodes
        growths = [
            ("bytes per node while all publish grow with packets x log N", "spread_bytes", packets * logs),
            ("the time until all hold all grows with packets x log N", "spread_s", packets * logs),
            ("the time of a single packet grows with log N", "single_s", MARGIN * logs),
            ("bytes per node when nothing happens stay flat", "idle_bytes_per_s", FLAT),
        ]
        for what, field, most in growths:
            factor = getattr(large, field) / getattr(small, field)
            target = f"{what}: {small.nodes} to {large.nodes} nodes, <= {most:.2f} x"
            verdicts.append(Verdict(target, f"{factor:.2f} x", factor <= most))
    return verdicts


def _at_most(what: str, value: int, most: int) -> Verdict:
    return Verdict(f"{what}: <= {most}", str(value), value <= most)


def show(rows: list[Figures], verdicts: list[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns: dict[str, Callable[[Figures], str]] = {
        "network": lambda row: row.network,
        "nodes": lambda row: str(row.nodes),
        "joined s": lambda row: f"{row.join_s:.1f}",
        "all hold all s": lambda row: f"{row.spread_s:.1f}",
        "rounds": lambda row: str(row.rounds),
        "one packet s": lambda row: f"{row.single_s:.1f}",
        "newcomer s": lambda row: f"{row.catch_up_s:.1f}",
        "KB/node": lambda row: f"{row.spread_bytes / 1e3:.0f}",
        "of it packets": lambda row: f"{row.packet_bytes / row.spread_bytes:.0%}",
        "idle B/s/node": lambda row: f"{row.idle_bytes_per_s:.0f}",
        "neighbours": lambda row: f"{row.neighbours_mean:.1f} (max {row.neighbours_max})",
        "KB RAM/node": lambda row: f"{row.memory_bytes / 1e3:.0f}",
        "CPU s": lambda row: f"{row.cpu_s:.0f}",
    }
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    for row in rows:
        table.add_row(*(text(row) for text in columns.values()))
    targets = Table("target", "measured", "")
    for verdict in verdicts:
        targets.add_row(verdict.target, verdict.measured, "reached" if verdict.reached else "MISSED")
    console = Console(width=160)
    console.print(table)
    console.print(targets)


def _run_cell(cell: Cell) -> Figures:
    """In a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--cell", json.dumps(asdict(cell))]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, Any] = json.loads(done.stdout)
    return Figures(**figures)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.scale", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="small meshes only")
    parser.add_argument("--only", choices=["protocol", "learning"], help="one part")
    parser.add_argument("--large", action="store_true", help="learning with 300 nodes too: an hour more")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        from .virtual_time import run

        cell = Cell(**json.loads(arguments.cell))
        print(json.dumps(asdict((run if cell.network == "memory" else asyncio.run)(measure(cell)))))
        return
    rows, learning = list[Figures](), list[Growth]()
    for cell in (QUICK if arguments.quick else CELLS) if arguments.only != "learning" else ():
        print(f"{cell.network}, {cell.nodes} nodes ...", file=sys.stderr)
        rows.append(_run_cell(cell))
    sizes = growth.QUICK if arguments.quick else (*growth.NODES, growth.LARGE) if arguments.large else growth.NODES
    for nodes in sizes if arguments.only != "protocol" else ():
        print(f"learning, {nodes} nodes ...", file=sys.stderr)
        learning.append(growth.measure_growth(nodes))
    verdicts = judge(rows) if rows else []
    if arguments.json:
        document = (("rows", rows), ("targets", verdicts), ("learning", learning))
        print(json.dumps({name: [asdict(each) for each in part] for name, part in document}))
    else:
        if rows:
            show(rows, verdicts)
        if learning:
            growth.show_growth(learning)
    sys.exit(not all(verdict.reached for verdict in verdicts))


if __name__ == "__main__":
    main()
