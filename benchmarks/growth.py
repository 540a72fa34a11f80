"""How learning grows with the mesh: accuracy, CPU seconds, memory and bytes per node with 10 to 300 nodes.

The second part of `benchmarks.scale`. Each row is one ``meshlore cluster --in-process`` of its own: whole nodes on
the in-memory network, few steps of everything, the 1,297 digits shared out (from 65 nodes on a sample is given to
several). Neighbours are as many as a daemon has; every packet reaches everybody.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

NODES = (10, 30, 100)
LARGE = 300
QUICK = (4, 8)
SETTINGS = {
    "samples_per_class": 4,
    "classifier_steps": 60,
    "condense_steps": 15,
    "distil_steps": 60,
    "generator_steps": 5,
}
TIMEOUT_S = 14_400


@dataclass(frozen=True)
class Growth:
    """One row; means over nodes, of one seed. CPU seconds, not wall; bytes with the mesh's own messages.

    Attributes:
        alone, together: accuracy over all classes alike before and after the nodes taught each other.
        worst: of the worst node, after.
        cpu_s: of all that a node does; learning_cpu_s: on its compute lane.
        settled: everybody came to rest.
    """

    nodes: int
    alone: float
    together: float
    worst: float
    anchor: float
    cpu_s: float
    learning_cpu_s: float
    memory_bytes: float
    bytes_sent: float
    wall_s: float
    settled: bool


def measure_growth(nodes: int) -> Growth:
    """Run one study. Raises CalledProcessError when it fails; it has said why."""
    settings = [part for name, value in SETTINGS.items() for part in ("--set", f"learning.{name}={value}")]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "meshlore", "cluster", "--in-process", "--json", "-o", folder]
        command += ["--nodes", str(nodes), "--timeout", str(TIMEOUT_S), *settings]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return growth_of(json.loads(done.stdout))


def growth_of(report: dict[str, Any]) -> Growth:
    """A row from the report of a study."""
    each, cost = report["nodes"], report["cost_per_node"]
    return Growth(
        len(each),
        statistics.mean(node["global_before"] for node in each),
        statistics.mean(node["global_after"] for node in each),
        min(node["global_after"] for node in each),
        report["anchor"]["global"],
        cost["cpu_s"],
        cost["learning_cpu_s"],
        cost["memory_bytes"],
        statistics.mean(node["bytes_sent"] for node in each),
        report["wall_s"],
        not any("not settled" in remark for remark in report["remarks"]),
    )


def show_growth(rows: list[Growth]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("nodes", "alone", "together", "worst", "anchor", "CPU s/node", "learning", "MB/node", "kB sent/node")
    table.title = "learning: one process, the digits, few steps"
    for column in table.columns:
        column.justify = "right"
    for row in rows:
        table.add_row(
            f"{row.nodes}{'' if row.settled else ' (not settled)'}",
            f"{row.alone:.3f}",
            f"{row.together:.3f}",
            f"{row.worst:.3f}",
            f"{row.anchor:.3f}",
            f"{row.cpu_s:.2f}",
            f"{row.learning_cpu_s:.2f}",
            f"{row.memory_bytes / 1e6:.1f}",
            f"{row.bytes_sent / 1e3:.0f}",
        )
    Console(width=160).print(table)
