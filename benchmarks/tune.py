"""The search for the baselines' settings, on the validation part of the training set only.

    python -m benchmarks.tune [--dataset digits] [--method fedavg] [--seed 10]

Candidates differ in what the papers themselves say matters. Those that are `BEHIND` the best on the seeds so
far are not tried on the next seed. Resumable: every run is a line of the results file, as in
`benchmarks.knowledge`. The winners are in baselines/tuned.py, written by hand.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import knowledge_results
from .baselines import datafree
from .baselines.averaging import AveragingSettings, federate
from .baselines.datafree import DataFreeSettings, one_shot
from .baselines.feddf import FedDFSettings, feddf
from .baselines.local import pooled
from .baselines.problem import Problem, Solution
from .baselines.tuned import FEDAVG, FEDDF
from .knowledge_cells import DATASETS, PUBLIC, Cell, hold_public_apart, problem_of
from .knowledge_methods import locals_of, plain, solution_figures

RESULTS = Path("runs/knowledge/tuning.jsonl")
METHODS = ("fedavg", "fedprox", "feddf", "dense", "co-boosting", "pooled")
SEEDS = (10, 11)
"""Others than those of the matrix, so that its splits are not the ones that settings were chosen on."""
BEHIND = 0.02
Candidates = Mapping[str, Any]


def candidates(method: str, dataset: str) -> Candidates:
    """Name -> settings, for one baseline on one data set."""
    average = FEDAVG[dataset]
    match method:
        case "fedavg":
            return _averaging(average)
        case "fedprox":
            return {f"mu {mu}": replace(average, proximal=mu) for mu in (0.001, 0.01, 0.1, 1.0)}
        case "feddf":
            return _feddf(FEDDF[dataset].local)
        case "dense" | "co-boosting":
            return _data_free(datafree.DENSE if method == "dense" else datafree.CO_BOOSTING)
        case _:
            steps = {"digits": (600, 1500, 3000), "fashion-mnist-5000": (1000, 2000), "fashion-mnist": (6000, 9000)}
            return {f"{count} steps": count for count in steps[dataset]}


def _averaging(paper: AveragingSettings) -> Candidates:
    rates = {f"lr {rate}": replace(paper, learning_rate=rate) for rate in (0.05, 0.1, 0.2)}
    often = replace(paper, rounds=2 * paper.rounds, local_epochs=max(1, paper.local_epochs // 2))
    return {**rates, "twice the rounds, half the epochs": often, "shift 1 pixel": replace(paper, shift_px=1)}


def _feddf(local: AveragingSettings) -> Candidates:
    longer = replace(local, local_epochs=2 * local.local_epochs)
    return {
        "200 steps": FedDFSettings(local, steps=200),
        "200 steps, twice the epochs": FedDFSettings(longer, steps=200),
        "400 steps": FedDFSettings(local, steps=400),
        "200 steps, lr 3e-4": FedDFSettings(local, steps=200, learning_rate=3e-4),
    }


def _data_free(ours: DataFreeSettings) -> Candidates:
    other = "group" if ours.norm == "batch" else "batch"
    return {
        "as it is": ours,
        f"{other} norm": replace(ours, norm=other),
        "generator anew": replace(ours, generator="anew"),
        "student lr .01": replace(ours, student_rate=0.01),
        "T 20": replace(ours, temperature=20.0),
        "dispute .5": replace(ours, dispute=0.5),
        "twice the epochs, half the passes": replace(ours, epochs=2 * ours.epochs, passes=max(1, ours.passes // 2)),
    }


def solve(method: str, problem: Problem, settings: Any, dataset: str) -> Solution:
    match method:
        case "fedavg" | "fedprox":
            return federate(problem, settings)
        case "feddf":
            return feddf(hold_public_apart(problem, PUBLIC[dataset]), settings)
        case "dense" | "co-boosting":
            return one_shot(problem, locals_of(problem), settings)
        case _:
            return pooled(problem, problem.model, settings)


def main(arguments: Sequence[str] | None = None) -> int:
    from .knowledge import prepare_process

    options = _parse(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    prepare_process()
    for seed in options.seed or SEEDS:
        for dataset in options.dataset or DATASETS[:1]:
            for method in options.method or METHODS:
                cell = Cell(dataset, options.partition, options.nodes, seed, method, "validation")
                search(cell, options.results)
    print(table(knowledge_results.read(options.results)))
    return 0


def search(cell: Cell, path: Path) -> None:
    """Run what is not in ``path`` yet of the candidates of a method on one problem."""
    found = knowledge_results.read(path)
    for name, settings in _hopeful(cell, found).items():
        tried = replace(cell, method=f"{cell.method}: {name}")
        if tried not in found:
            problem = problem_of(cell)
            solution = solve(cell.method, problem, settings, cell.dataset)
            knowledge_results.append(path, tried, plain(solution_figures(problem, solution)), {})
            print(tried.title, flush=True)


def _hopeful(cell: Cell, found: knowledge_results.Results) -> Candidates:
    """The candidates that were not `BEHIND` on earlier seeds."""
    known = candidates(cell.method, cell.dataset)
    scores: dict[str, list[float]] = {name: [] for name in known}
    for other, figures in found.items():
        method, _, name = other.method.partition(": ")
        same = replace(other, method=method, seed=cell.seed) == cell
        if same and other.seed < cell.seed and name in scores:
            scores[name].append(knowledge_results.mean_global(figures) or 0.0)
    means = {name: sum(values) / len(values) for name, values in scores.items() if values}
    best = max(means.values(), default=0.0)
    return {name: settings for name, settings in known.items() if means.get(name, best) >= best - BEHIND}


def table(results: knowledge_results.Results) -> str:
    """Markdown: for each problem, the mean over seeds of each candidate."""
    problems: dict[tuple[str, str, int], dict[str, list[knowledge_results.Figures]]] = {}
    for (dataset, partition, nodes, method), runs in knowledge_results.groups(results, "validation").items():
        problems.setdefault((dataset, partition, nodes), {})[method] = runs
    parts = []
    for (dataset, partition, nodes), grouped in problems.items():
        parts += [f"### {dataset}, {partition}, N={nodes}", knowledge_results.table(grouped, knowledge_results.COLUMNS)]
    return "\n\n".join(parts)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune")
    parser.add_argument("--dataset", action="append", choices=DATASETS)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--partition", default="dirichlet-0.1")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
