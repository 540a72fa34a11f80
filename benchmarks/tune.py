"""The search for the baselines' settings, on the validation part of the training set only.

    python -m benchmarks.tune [--dataset digits] [--method fedavg] [--seed 0]

Candidates differ from the papers' settings in what the papers themselves say matters. Resumable: every
candidate measured is a line of the results file. The winners are in baselines/tuned.py, written by hand.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .baselines import datafree
from .baselines.averaging import AveragingSettings, federate
from .baselines.datafree import DataFreeSettings, one_shot
from .baselines.feddf import FedDFSettings, feddf
from .baselines.local import pooled
from .baselines.problem import Problem, Solution
from .knowledge_cells import DATASETS, PUBLIC, Cell, hold_public_apart, problem_of
from .knowledge_methods import locals_of

RESULTS = Path("runs/knowledge/tuning.jsonl")
Candidates = Mapping[str, Any]


def candidates(method: str, dataset: str) -> Candidates:
    """Name -> settings, for one baseline on one data set."""
    full = dataset == "fashion-mnist"
    rounds, epochs = (40, 1) if full else (60, 5)
    average = AveragingSettings(rounds=rounds, local_epochs=epochs)
    data_free = {"dense": datafree.DENSE, "co-boosting": datafree.CO_BOOSTING}
    match method:
        case "fedavg":
            rates = {f"lr {rate}": replace(average, learning_rate=rate) for rate in (0.03, 0.1, 0.2)}
            fewer = replace(average, rounds=2 * rounds, local_epochs=max(1, epochs // 2))
            return {**rates, "lr 0.1, shift 1": replace(average, shift_px=1), "lr 0.1, half the epochs": fewer}
        case "fedprox":
            return {f"mu {mu}": replace(average, proximal=mu) for mu in (0.001, 0.01, 0.1)}
        case "feddf":
            local = replace(average, rounds=rounds // 3)
            return {
                f"{steps} steps, lr {rate}": FedDFSettings(local, steps=steps, learning_rate=rate)
                for steps in (100, 300)
                for rate in (1e-3, 3e-4)
            }
        case "dense" | "co-boosting":
            return _data_free(data_free[method])
        case _:
            return {str(steps): steps for steps in ((3000, 6000, 9000) if full else (600, 1500, 3000))}


def _data_free(paper: DataFreeSettings) -> Candidates:
    return {
        "as published": paper,
        "batch norm": replace(paper, norm="batch", statistics=1.0),
        "student lr .05": replace(paper, student_rate=0.05),
        "T 1": replace(paper, temperature=1.0),
        "dispute .3": replace(paper, dispute=0.3),
        "generator lr 5e-3": replace(paper, generator_rate=5e-3),
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
    from .knowledge import _prepare_process

    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune")
    parser.add_argument("--dataset", action="append", choices=DATASETS)
    parser.add_argument("--method", action="append")
    parser.add_argument("--partition", default="dirichlet-0.1")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", action="append", type=int)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    _prepare_process()
    known = _read(options.results)
    for dataset in options.dataset or DATASETS[:1]:
        for method in options.method or ("fedavg", "fedprox", "feddf", "dense", "co-boosting", "pooled"):
            for name, settings in candidates(method, dataset).items():
                for seed in options.seed or (10, 11):
                    cell = Cell(dataset, options.partition, options.nodes, seed, method, "validation")
                    key = [*cell.problem_key, method, name]
                    if json.dumps(key) in known:
                        continue
                    problem, started = problem_of(cell), time.process_time()
                    said = solve(method, problem, settings, dataset).logits[0]
                    accuracy = float(np.mean(said.argmax(axis=1) == problem.test.labels))
                    line = {"key": key, "accuracy": accuracy, "cpu_s": round(time.process_time() - started, 1)}
                    options.results.parent.mkdir(parents=True, exist_ok=True)
                    with options.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
                    known[json.dumps(key)] = line
    print(table(known.values()))
    return 0


def table(lines: Any) -> str:
    """Markdown: mean over seeds of each candidate."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        dataset, *_, method, name = line["key"]
        found.setdefault((dataset, method, name), []).append(line)
    rows = ["| data | method | candidate | validation accuracy | seeds | CPU s |", "|---|---|---|---|---|---|"]
    for (dataset, method, name), runs in sorted(found.items()):
        mean, spent = (float(np.mean([run[field] for run in runs])) for field in ("accuracy", "cpu_s"))
        rows.append(f"| {dataset} | {method} | {name} | {mean:.3f} | {len(runs)} | {spent:.0f} |")
    return "\n".join(rows)


def _read(path: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
            found[json.dumps(record["key"])] = record
        except (ValueError, KeyError):
            continue  # torn by a kill: measured again
    return found


if __name__ == "__main__":
    sys.exit(main())
