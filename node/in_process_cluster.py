"""``meshlore cluster --in-process``: many whole nodes in this one process, over the in-memory network, for studies.

The nodes are the daemon's, with its number of neighbours; they share one computer as if each had one of its own
(`shared_compute`). What they cost is told per node.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ..errors import StateError
from ..knowledge.partition import FEWEST_PER_NODE, partition_overlapping
from .cluster import homes, import_what_nodes_need, signals_after
from .cluster_options import ClusterOptions, Part, Roster, share_out
from .display import study_table
from .in_process import InProcessMesh, Member, Resident, sparse_wires
from .logs import configure_logging
from .pooled import train_pooled
from .report import Cost, ModelReport, NodeReport, Report
from .settings import Settings, load_settings

SHOW_S = 0.5


def run_in_process_cluster(options: ClusterOptions, *, live: bool) -> Report:
    """Run until nobody has anything left to learn, or the time is up, and measure.

    Where there are fewer than 20 samples per node, a sample is given to several nodes.

    Args:
        live: show progress in the terminal.

    Raises:
        DataError, ConfigError: before anything was started.
        KeyboardInterrupt: Ctrl-C; nothing is left.
    """
    started = time.monotonic()
    options.check()
    with homes(options) as folder:
        with signals_after():
            roster = share_out(options, partition_overlapping)
            import_what_nodes_need()
        configure_logging("error")
        return asyncio.run(_Study(options, roster, folder, started).run(live))


class _Study:
    def __init__(self, options: ClusterOptions, roster: Roster, folder: Path, started: float) -> None:
        self._options, self._roster, self._started = options, roster, started
        self._settings = load_settings(folder / "none.toml", flags=options.settings, environment={})
        self._remarks: list[str] = []
        count, samples = len(roster.parts), len(roster.train)
        if samples < FEWEST_PER_NODE * options.nodes:
            self._remarks.append(f"{samples} samples for {options.nodes} nodes: most are given to several nodes")
        self._mesh = InProcessMesh(
            roster.train.space,
            [Member(part.name, part.private, _settings_of(part, self._settings)) for part in roster.parts],
            folder,
            wires=sparse_wires(count, self._settings.neighbours),
        )
        self._cpu_s, self._memory_bytes = time.process_time(), peak_memory_bytes()

    async def run(self, live: bool) -> Report:
        options, roster = self._options, self._roster
        async with self._shown(live):
            async with self._mesh:
                try:
                    await self._mesh.settle(max(0.0, options.timeout_s - self._elapsed_s()))
                except StateError:
                    self._remarks.append(f"not settled within {options.timeout_s:g} s: figures so far")
                cost = self._cost()
                reports = await asyncio.to_thread(self._measure)
            pooled = await asyncio.to_thread(train_pooled, roster.train, roster.test, options.seed)
        return Report(
            data=options.data,
            seed=options.seed,
            wall_s=self._elapsed_s(),
            nodes=tuple(report for report in reports if isinstance(report, NodeReport)),
            anchor=next((report for report in reports if isinstance(report, ModelReport)), None),
            pooled=pooled,
            remarks=tuple(self._remarks),
            cost_per_node=cost,
        )

    def _measure(self) -> list[NodeReport | ModelReport]:
        residents = zip(self._roster.parts, self._mesh.residents, strict=True)
        return [self._report_of(part, resident) for part, resident in residents]

    def _report_of(self, part: Part, resident: Resident) -> NodeReport | ModelReport:
        outcome = resident.measure(self._roster.test)
        if part.private is None:
            return ModelReport(part.model, outcome.global_after)
        return NodeReport(
            id=part.name,
            model=part.model,
            classes=part.private.class_names(),
            samples=len(part.private),
            state="live",
            global_before=outcome.global_before,
            global_after=outcome.global_after,
            personal_before=outcome.personal_before,
            personal_after=outcome.personal_after,
            bytes_sent=outcome.bytes_sent,
            bytes_received=outcome.bytes_received,
            knowledge_bytes_sent=outcome.knowledge_bytes_sent,
        )

    def _cost(self) -> Cost:
        count = len(self._roster.parts)
        learning = sum(sum(resident.lane.cpu_s.values()) for resident in self._mesh.residents)
        return Cost(
            (peak_memory_bytes() - self._memory_bytes) / count,
            (time.process_time() - self._cpu_s) / count,
            learning / count,
        )

    @contextlib.asynccontextmanager
    async def _shown(self, live: bool) -> AsyncIterator[None]:
        if not live:
            yield
            return
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as screen:
            showing = asyncio.create_task(self._show(screen), name="progress")
            try:
                yield
            finally:
                showing.cancel()
                await asyncio.wait({showing})

    async def _show(self, screen: Live) -> None:
        while True:
            residents = self._mesh.residents
            doing = Counter(_activity(resident) for resident in residents)
            doing["not here yet"] = len(self._roster.parts) - len(residents)
            packets = sum(len(resident.node.packets.inventory()) for resident in residents) / max(1, len(residents))
            cpu_s, memory_bytes = time.process_time() - self._cpu_s, peak_memory_bytes()
            screen.update(study_table(+doing, packets, self._elapsed_s(), cpu_s, memory_bytes), refresh=True)
            await asyncio.sleep(SHOW_S)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._started


def peak_memory_bytes() -> int:
    """The most memory that this process has had so far."""
    with contextlib.suppress(OSError, StopIteration):
        # ru_maxrss counts what the process that started this one had, as long as that is more
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _settings_of(part: Part, common: Settings) -> dict[str, object]:
    learning = common.learning.model_dump(exclude_unset=True)
    chosen = {"model": part.model, "seed": part.seed, "learning": learning}
    return common.model_dump(exclude_unset=True) | chosen


def _activity(resident: Resident) -> str:
    if resident.node.settled:
        return "settled"
    return resident.lane.state.label or "waiting"
