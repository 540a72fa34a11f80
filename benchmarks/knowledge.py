"""How good the exchange of knowledge is, and what it costs, beside what else could be done.

    python -m benchmarks.knowledge [--quick] [--json] [--check] [--write-docs]
    python -m benchmarks.knowledge --dataset digits --partition dirichlet-0.1 --nodes 5 --method ours --method fedavg

A matrix of data sets, partitions, numbers of nodes, seeds and methods; docs/benchmarks.md says what each
is. Each finished cell is a line of the results file, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import knowledge_cells, knowledge_results
from .knowledge_cells import Cell

RESULTS = Path("runs/knowledge/results.jsonl")
DOCUMENT = Path("docs/benchmarks.md")
HERE = Path(__file__).parent


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = _cells(options)
    try:
        done = run(wanted, options.results, jobs=options.jobs, budget_s=60 * options.budget, again=options.again)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here")
        return 130
    results = knowledge_results.read(options.results)
    from . import knowledge_report, knowledge_targets

    chosen = results if options.everything else {cell: results[cell] for cell in wanted if cell in results}
    split = "validation" if options.validation else "test"
    judged = knowledge_targets.judge(knowledge_results.groups(chosen)) if split == "test" else []
    if options.json:
        print(json.dumps(_document(chosen, judged), indent=1))
    else:
        print(knowledge_report.markdown(chosen, split))
    drawn: list[Path] = []
    if options.plots:
        from .knowledge_plots import draw

        drawn = draw(results if options.write_docs else chosen, options.plots)
        _say("drawn: " + ", ".join(map(str, drawn)))
    if options.write_docs:
        knowledge_report.write_into(options.document, knowledge_report.markdown(results), drawn)
        _say(f"written: {options.document}")
    missed = [item for item in judged if not item.met]
    return 1 if (options.check and missed) or not done else 0


def run(wanted: Sequence[Cell], path: Path, *, jobs: int, budget_s: float, again: bool = False) -> bool:
    """Run the cells that are not in ``path`` yet; what cannot be run is named, and the rest goes on.

    Returns:
        whether nothing failed; a budget that is spent is no failure.

    Raises:
        KeyboardInterrupt: all finished cells are on the disk.
    """
    known = {} if again else knowledge_results.read(path)
    left = [cell for cell in wanted if cell not in known]
    if not left:
        return True
    started, failed = time.monotonic(), 0
    with _progress(len(left)) as advance:
        for cell, figures, cpu_s in _finished(left, jobs, lambda: bool(budget_s) and _past(started, budget_s)):
            if isinstance(figures, str):
                failed += 1
                _say(f"{cell.title}: {figures}")
            else:
                remarks = {"commit": _commit(), "machine": platform.machine(), "cpu_s": round(cpu_s, 2)}
                knowledge_results.append(path, cell, figures, remarks)
            advance(cell)
    return not failed


def work(cell: Cell) -> tuple[Cell, dict[str, Any] | str, float]:
    """Run one cell in this process: (cell, figures, CPU seconds of the whole); a known reason why not is a text."""
    from meshlore.errors import MeshloreError

    prepare_process()
    from .knowledge_methods import run_cell

    started = time.process_time()
    try:
        figures: dict[str, Any] | str = run_cell(cell, lambda _fraction: None)
    except MeshloreError as error:
        figures = f"{error.message}; {error.remedy}" if error.remedy else error.message
    return cell, figures, time.process_time() - started


def _finished(
    left: Sequence[Cell], jobs: int, enough: Callable[[], bool]
) -> Iterator[tuple[Cell, dict[str, Any] | str, float]]:
    if jobs <= 1:
        for cell in left:
            if enough():
                return
            yield work(cell)
        return
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

    waiting = list(left)
    under_way: set[Future[tuple[Cell, dict[str, Any] | str, float]]] = set()
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=_ignore_interrupts)
    try:
        while under_way or (waiting and not enough()):
            while waiting and len(under_way) < jobs and not enough():
                under_way.add(pool.submit(work, waiting.pop(0)))
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()  # what is in flight would take minutes to end by itself
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the parent, which ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def prepare_process() -> None:
    """One thread, quiet logs, and the slow imports before anything is timed."""
    import logging

    import structlog
    from diffusers import FlowMatchEulerDiscreteScheduler  # noqa: F401
    from meshlore.knowledge.process import prepare_to_learn

    prepare_to_learn(1)
    logging.basicConfig(level=logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Cell], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=total)
        yield lambda cell: bar.update(task, advance=1, description=cell.title)


def _cells(options: argparse.Namespace) -> list[Cell]:
    from .knowledge_methods import METHODS, QUICK_METHODS

    quick = options.quick
    methods = options.method or (QUICK_METHODS if quick else tuple(METHODS))
    if unknown := set(methods) - set(METHODS):
        raise SystemExit(f"no method {', '.join(sorted(unknown))}; known are {', '.join(METHODS)}")
    return knowledge_cells.cells(
        options.dataset or (("digits",) if quick else knowledge_cells.DATASETS),
        options.partition or (("dirichlet-0.1",) if quick else knowledge_cells.PARTITIONS),
        options.nodes or ((5,) if quick else knowledge_cells.NODES),
        options.seed if options.seed is not None else ((0,) if quick else knowledge_cells.SEEDS),
        methods,
        "validation" if options.validation else "test",
    )


def _document(results: knowledge_results.Results, judged: Sequence[Any]) -> dict[str, Any]:
    return {
        "cells": [{**cell.to_json(), "figures": figures} for cell, figures in sorted(results.items())],
        "targets": [
            {
                "group": list(item.target.group),
                "figure": item.target.what,
                "bound": f"{item.target.sign} {item.target.bound:g}",
                "value": round(item.value, 4),
                "seeds": item.seeds,
                "verdict": item.verdict,
            }
            for item in judged
        ],
    }


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _past(started: float, budget_s: float) -> bool:
    return time.monotonic() - started > budget_s


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.knowledge", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--quick", action="store_true", help="a few minutes: digits, 5 nodes, one seed, the main methods")
    named = (*knowledge_cells.DATASETS, *knowledge_cells.NAMED)
    add("--dataset", action="append", choices=named, help="may be given several times; the last three only when named")
    add("--partition", action="append", help=f"{', '.join(knowledge_cells.PARTITIONS)}; may be given several times")
    add("--nodes", action="append", type=int, help="may be given several times")
    add("--seed", action="append", type=int, help="may be given several times")
    add("--method", action="append", help="may be given several times; docs/benchmarks.md has all")
    add("--validation", action="store_true", help="measure on a part of the training set, to choose settings by")
    add("--again", action="store_true", help="measure also what is in the results file already")
    add("--jobs", type=int, default=1, help="processes; CPU seconds are honest only with as many idle cores")
    add("--budget", type=float, default=0, metavar="MINUTES", help="start no further cell after this time")
    add("--results", type=Path, default=RESULTS)
    add("--everything", action="store_true", help="report all that the results file has, not only what was asked for")
    add("--json", action="store_true", help="print one JSON document")
    add("--check", action="store_true", help="exit with 1 when a target is missed")
    add("--plots", type=Path, metavar="FOLDER", help="draw accuracy against bytes and CPU seconds into this folder")
    add("--write-docs", action="store_true", help="put the tables of all results into the document")
    add("--document", type=Path, default=DOCUMENT)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
