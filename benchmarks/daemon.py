"""What one daemon costs: its start, and what it takes from the device when it has nothing to do.

    python -m benchmarks.daemon [--json] [--quick]

A real `meshlore run` process on the digits, alone in its mesh; times are from the start of the process
until its control API says so. The median of several fresh homes; memory and CPU are of the last one,
after it has settled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

WAIT_S = 300.0
POLL_S = 0.01
CALM_S = 2.0
IMPORTS = "import time; t = time.perf_counter(); import meshlore.node.daemon; print(time.perf_counter() - t)"


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    starts: int = 3
    helps: int = 9
    idle_s: float = 60.0


QUICK = Plan(starts=1, helps=3, idle_s=10.0)


@dataclass(frozen=True)
class Figures:
    """Seconds from the start of the process; bytes; CPU seconds of one core.

    Attributes:
        help_s: `meshlore --help`, wall time.
        imports_s: importing `meshlore.node.daemon` in a fresh interpreter; ``imports_share`` of ``answers_s``.
        answers_s, trained_s, settled_s: a new node answers `status`, has a classifier, has nothing left to do.
        restart_answers_s: the same node started again, which need not learn anew.
        stop_s: from SIGINT to the end of the process.
        rss_bytes, pss_bytes: memory when settled; PSS counts shared pages by the share.
        idle_cpu_s_per_minute: CPU time when settled, no peers.
    """

    help_s: float
    imports_s: float
    imports_share: float
    answers_s: float
    trained_s: float
    settled_s: float
    restart_answers_s: float
    stop_s: float
    rss_bytes: int
    pss_bytes: int
    idle_cpu_s_per_minute: float


TARGETS = {"help_s": "< 0.5 s", "stop_s": "< 5 s"}


@dataclass(frozen=True)
class Life:
    """One daemon's milestones, in seconds from the start of its process."""

    answers_s: float
    trained_s: float
    settled_s: float
    stop_s: float
    rss_bytes: int = 0
    pss_bytes: int = 0
    idle_cpu_s_per_minute: float = 0.0


async def measure(plan: Plan) -> Figures:
    helps = [_timed([sys.executable, "-m", "meshlore", "--help"]) for _ in range(plan.helps)]
    imports = [float(_output([sys.executable, "-c", IMPORTS])) for _ in range(plan.starts)]
    with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
        homes = [Path(folder) / f"home-{number}" for number in range(plan.starts)]
        lives = []
        for home in homes:
            _found(home)
            lives.append(await live(home, idle_s=plan.idle_s if home == homes[-1] else 0))
        again = [await live(home, idle_s=0) for home in homes]
    answers_s = statistics.median(life.answers_s for life in lives)
    return Figures(
        help_s=statistics.median(helps),
        imports_s=statistics.median(imports),
        imports_share=statistics.median(imports) / answers_s,
        answers_s=answers_s,
        trained_s=statistics.median(life.trained_s for life in lives),
        settled_s=statistics.median(life.settled_s for life in lives),
        restart_answers_s=statistics.median(life.answers_s for life in again),
        stop_s=max(life.stop_s for life in (*lives, *again)),
        rss_bytes=lives[-1].rss_bytes,
        pss_bytes=lives[-1].pss_bytes,
        idle_cpu_s_per_minute=lives[-1].idle_cpu_s_per_minute,
    )


async def live(home: Path, *, idle_s: float) -> Life:
    """Run a daemon until it has settled, watch it idle for ``idle_s``, and stop it."""
    import psutil
    from meshlore.node.client import MeshClient

    with (home / "daemon.log").open("ab") as log:
        started = time.perf_counter()
        command = [sys.executable, "-m", "meshlore", "run", "--home", str(home)]
        process = await asyncio.create_subprocess_exec(*command, stderr=log)
    client, seen = MeshClient(home), psutil.Process(process.pid)
    rss, pss, cpu_s_per_minute = 0, 0, 0.0
    try:

        async def reached(happened: Callable[[dict[str, Any]], bool]) -> float:
            await _until(process, client, happened, home)
            return time.perf_counter() - started

        answers_s = await reached(lambda status: True)
        trained_s = await reached(lambda status: status["version"] > 0)
        settled_s = await reached(lambda status: status["settled"])
        if idle_s:
            await asyncio.sleep(CALM_S)
            before, since = seen.cpu_times(), time.perf_counter()
            await asyncio.sleep(idle_s)
            after, passed_s = seen.cpu_times(), time.perf_counter() - since
            cpu_s_per_minute = 60 / passed_s * (after.user + after.system - before.user - before.system)
            memory = seen.memory_full_info()
            rss, pss = memory.rss, getattr(memory, "pss", 0)
        asked = time.perf_counter()
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 30)
        return Life(answers_s, trained_s, settled_s, time.perf_counter() - asked, rss, pss, cpu_s_per_minute)
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until(
    process: asyncio.subprocess.Process, client: Any, happened: Callable[[dict[str, Any]], bool], home: Path
) -> None:
    from meshlore.errors import DaemonNotRunning

    deadline = time.perf_counter() + WAIT_S
    while process.returncode is None and time.perf_counter() < deadline:
        try:
            if happened(await client.status()):
                return
        except DaemonNotRunning:
            pass  # it is still starting
        await asyncio.sleep(POLL_S)
    raise SystemExit(f"the daemon stopped, or is too slow; its log ends:\n{(home / 'daemon.log').read_text()[-2000:]}")


def _found(home: Path) -> None:
    """A mesh of one, as `meshlore init --data digits` makes it."""
    from meshlore.knowledge.sources import load
    from meshlore.node.settings import write_settings
    from meshlore.security.membership import found_mesh

    space = load("digits").dataset.space
    found_mesh(home, "benchmark", "one", space.to_map(), ["node", "requester"], now=time.time())
    write_settings(home / "config.toml", {"name": "one", "data": "digits"})


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    _output(command)
    return time.perf_counter() - started


def _output(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def show(figures: Figures) -> None:
    from rich.console import Console
    from rich.table import Table

    def row(name: str, value: str, target: str = "") -> None:
        table.add_row(name, value, target)

    table = Table("one daemon, digits", "figure", "target")
    table.columns[1].justify = "right"
    row("meshlore --help", f"{figures.help_s:.2f} s", TARGETS["help_s"])
    row("process start to first answer", f"{figures.answers_s:.2f} s")
    row("  of that imports", f"{figures.imports_s:.2f} s ({figures.imports_share:.0%})")
    row("process start to trained", f"{figures.trained_s:.2f} s")
    row("process start to settled", f"{figures.settled_s:.2f} s")
    row("restart to first answer", f"{figures.restart_answers_s:.2f} s")
    row("Ctrl-C to stopped", f"{figures.stop_s:.2f} s", TARGETS["stop_s"])
    row("idle memory, RSS", f"{figures.rss_bytes / 1e6:.0f} MB")
    row("idle memory, PSS", f"{figures.pss_bytes / 1e6:.0f} MB")
    row("idle CPU per minute", f"{figures.idle_cpu_s_per_minute:.2f} s")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.daemon", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else Plan()
    figures = asyncio.run(measure(plan))
    if arguments.json:
        rounded = {name: round(value, 3) for name, value in asdict(figures).items()}
        print(json.dumps({"cpus": os.cpu_count(), "plan": asdict(plan), "figures": rounded, "targets": TARGETS}))
    else:
        show(figures)


if __name__ == "__main__":
    main()
