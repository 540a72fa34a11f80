"""What Ray gives and costs: an anchor's training and drawing, and a whole cluster, with Ray and without.

    python -m benchmarks.ray [--json] [--quick]

The anchor distils the digits into its classifier and draws from its generator: in its own process, by 1 and 2 workers
of a Ray on this machine, and by 2 workers on a Ray cluster of 3 raylets, as `docs/ray.md` starts one on 3 machines;
each with a worker killed halfway too. Then the same nodes learn as processes and as actors of Ray. Each row is a
process of its own. Memory is that of all processes of a row together, what they share counted once.
Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .raylets import raylets

DRAWN = 1024
GENERATOR_STEPS = 60
CLUSTER_SETTINGS = {
    "samples_per_class": 6,
    "classifier_steps": 80,
    "condense_steps": 20,
    "distil_steps": 80,
    "generator_steps": 10,
}
NOISE = 0.05
"""Accuracy by which two runs of the same cluster may differ."""
ROUNDING = 0.01
"""Accuracy by which sums in another order may change a classifier."""


@dataclass(frozen=True)
class Cell:
    """One row of the anchor. ``where``: "in-process", "ray" or "3 raylets"; ``kill``: a worker is, halfway."""

    where: str
    workers: int
    kill: bool
    steps: int


@dataclass(frozen=True)
class AnchorRow:
    """What came of it.

    Attributes:
        start_s: until the workers answer. train_s: of ``steps`` steps. longest_s: the longest of them.
        draw_s: for `DRAWN` samples.
        memory_bytes: at the end of the training. cpu_s: of training, without a worker that was killed.
    """

    cell: Cell
    accuracy: float
    start_s: float
    train_s: float
    longest_s: float
    draw_s: float
    memory_bytes: int
    cpu_s: float


@dataclass(frozen=True)
class ClusterRow:
    """One cluster; accuracies are means over its nodes, memory is the highest that was seen."""

    how: str
    before: float
    after: float
    wall_s: float
    memory_bytes: int


def measure_anchor(cell: Cell) -> AnchorRow:
    """In this process; leaves nothing running."""
    import numpy as np
    import torch
    from meshlore.knowledge import metrics
    from meshlore.knowledge.distil import DistilSettings, distil
    from meshlore.knowledge.generator import fit_generator
    from meshlore.knowledge.lessons import Lessons
    from meshlore.knowledge.models import build_model, logits, to_tensor
    from meshlore.knowledge.sources import load

    torch.set_num_threads(1)
    train, test = load("digits").dataset, load("digits:test").dataset
    labels = torch.from_numpy(train.labels)
    lessons = Lessons(to_tensor(train.images, train.space), labels, torch.ones(len(train)), 10, ())
    model = build_model("cnn-large", train.space, 0)
    generator = fit_generator(train.images, train.labels, train.space, steps=GENERATOR_STEPS, seed=0)
    settings = DistilSettings(steps=cell.steps, private_batch=0, lesson_batch=96, learning_rate=3e-3)
    with ExitStack() as cleanup:
        started = time.monotonic()
        executor, pids = cleanup.enter_context(_executor(cell))
        start_s = time.monotonic() - started
        moments, cpu_s = [time.monotonic()], _cpu_s()

        def step(_fraction: float) -> None:
            moments.append(time.monotonic())
            if cell.kill and len(moments) == cell.steps // 2:
                os.kill(pids[0], signal.SIGKILL)

        student = distil(model, None, lessons, settings=settings, seed=0, step=step, executor=executor)
        cpu_s, memory_bytes = _cpu_s() - cpu_s, _memory_bytes()
        drawing = time.monotonic()
        executor.draw(generator, np.arange(DRAWN) % 10, seed=0)
        draw_s = time.monotonic() - drawing
    return AnchorRow(
        cell,
        metrics.global_accuracy(logits(student, test.images, test.space), test.labels),
        start_s,
        moments[-1] - moments[0],
        max(after - before for before, after in itertools.pairwise(moments)),
        draw_s,
        memory_bytes,
        cpu_s,
    )


@contextmanager
def _executor(cell: Cell) -> Iterator[tuple[Any, Sequence[int]]]:
    """The executor, and the process ids of its workers."""
    from meshlore.knowledge.executor import IN_PROCESS
    from meshlore.node.ray_driver import Driver
    from meshlore.node.ray_executor import RayExecutor
    from meshlore.node.ray_session import LOCAL

    if cell.where == "in-process":
        yield IN_PROCESS, ()
        return
    with ExitStack() as cleanup:
        address = LOCAL if cell.where == "ray" else cleanup.enter_context(raylets([0, 1, 1]))
        driver = Driver(address, cell.workers)
        cleanup.callback(driver.close)
        yield RayExecutor(driver), driver.process_ids()


def measure_cluster(how: str, options: Sequence[str], nodes: int, samples: int) -> ClusterRow:
    """Run `meshlore cluster` and watch the memory of all its processes."""
    import psutil

    settings = [part for name, value in CLUSTER_SETTINGS.items() for part in ("--set", f"learning.{name}={value}")]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "report.json").open("w+") as out:
        command = [sys.executable, "-m", "meshlore", "cluster", "--json", "-o", folder, *options, *settings]
        command += ["--nodes", str(nodes), "--samples", str(samples), "--alpha", "0.5"]
        started, memory_bytes = time.monotonic(), 0
        process = subprocess.Popen(command, stdout=out)
        try:
            while process.poll() is None:
                memory_bytes = max(memory_bytes, _memory_bytes(psutil.Process(process.pid)))
                time.sleep(2)
        finally:
            process.terminate()
            process.wait()
        wall_s = time.monotonic() - started
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        out.seek(0)
        each = json.load(out)["nodes"]
    means = [statistics.mean(node[figure] for node in each) for figure in ("global_before", "global_after")]
    return ClusterRow(how, means[0], means[1], wall_s, memory_bytes)


def _tree(process: Any = None) -> list[Any]:
    import psutil

    process = process or psutil.Process()
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu_s() -> float:
    return sum(sum(_read(process, "cpu_times", (0.0, 0.0))[:2]) for process in _tree())


def _memory_bytes(process: Any = None) -> int:
    """Proportional set sizes: what processes share is counted once."""
    infos = [_read(each, "memory_full_info", None) for each in _tree(process)]
    return sum(getattr(info, "pss", info.rss) for info in infos if info is not None)


def _read(process: Any, what: str, otherwise: Any) -> Any:
    import psutil

    try:
        return getattr(process, what)()
    except psutil.Error:
        return otherwise


def judge(rows: list[AnchorRow], clusters: list[ClusterRow]) -> list[tuple[str, str, bool]]:
    """Targets: what is asked, what was measured, whether it is reached."""
    here = rows[0].accuracy
    worst = max(abs(row.accuracy - here) for row in rows)
    verdicts = [(f"accuracy of every row as in-process, within {ROUNDING}", f"{worst:.3f}", worst <= ROUNDING)]
    if clusters:
        apart = abs(clusters[0].after - clusters[1].after)
        verdicts.append((f"actors learn as processes do, within {NOISE}", f"{apart:.3f}", apart <= NOISE))
    return verdicts


def show(rows: list[AnchorRow], clusters: list[ClusterRow], verdicts: list[tuple[str, str, bool]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=150)
    names = ("where", "accuracy", "start s", "train s", "ms/step", "longest s", "draw s", "CPU s", "MB")
    table = Table(*names, title=f"anchor: {rows[0].cell.steps} steps of cnn-large, {DRAWN} drawings")
    for row in rows:
        cell = row.cell
        workers = f", {cell.workers} workers" if cell.workers else ""
        figures = (row.start_s, row.train_s, 1000 * row.train_s / cell.steps, row.longest_s, row.draw_s, row.cpu_s)
        table.add_row(
            f"{cell.where}{workers}{', one killed' if cell.kill else ''}",
            f"{row.accuracy:.3f}",
            *(f"{figure:.1f}" for figure in figures),
            f"{row.memory_bytes / 1e6:.0f}",
        )
    console.print(table)
    if clusters:
        table = Table("nodes as", "before", "after", "wall s", "MB")
        for each in clusters:
            memory = f"{each.memory_bytes / 1e6:.0f}"
            table.add_row(each.how, f"{each.before:.3f}", f"{each.after:.3f}", f"{each.wall_s:.0f}", memory)
        console.print(table)
    for target, measured, reached in verdicts:
        console.print(f"{target}: {measured} {'reached' if reached else 'MISSED'}")


def cells(quick: bool) -> list[Cell]:
    steps = 30 if quick else 200
    there = [("ray", 2, True)] if quick else [("ray", 1, False), ("ray", 2, False), ("ray", 2, True)]
    there += [] if quick else [("3 raylets", 2, False), ("3 raylets", 2, True)]
    return [Cell("in-process", 0, False, steps), *(Cell(*each, steps) for each in there)]


def run_cell(cell: Cell) -> AnchorRow:
    """Measure in a process of its own, whose memory and Ray are its own. Raises CalledProcessError when it fails."""
    command = [sys.executable, "-m", "benchmarks.ray", "--cell", json.dumps(asdict(cell))]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return AnchorRow(**figures | {"cell": cell})


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.ray", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="in-process and 2 workers, few steps, no clusters")
    parser.add_argument("--cell", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.cell:
        from meshlore.node.logs import configure_logging

        configure_logging("warning")  # to standard error: what is printed is the figures
        print(json.dumps(asdict(measure_anchor(Cell(**json.loads(arguments.cell))))))
        return
    rows, clusters = list[AnchorRow](), list[ClusterRow]()
    for cell in cells(arguments.quick):
        print(f"anchor: {cell} ...", file=sys.stderr)
        rows.append(run_cell(cell))
    for how, options in (("processes", ["--no-anchor"]), ("actors of Ray", ["--no-anchor", "--ray"])):
        if not arguments.quick:
            print(f"cluster: {how} ...", file=sys.stderr)
            clusters.append(measure_cluster(how, options, nodes=4, samples=400))
    verdicts = judge(rows, clusters)
    if arguments.json:
        targets = [dict(zip(("target", "measured", "reached"), verdict, strict=True)) for verdict in verdicts]
        document = {"anchor": [asdict(row) for row in rows], "clusters": [asdict(row) for row in clusters]}
        print(json.dumps(document | {"targets": targets}))
    else:
        show(rows, clusters, verdicts)
    sys.exit(not all(reached for _, _, reached in verdicts))


if __name__ == "__main__":
    main()
