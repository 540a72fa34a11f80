"""What an anchor makes of the same packets: one flat classifier or a mixture of experts, all at once or as they come.

    python -m benchmarks.anchor [--quick] [--json] [--validation] [--pipeline FOLDER]

Digits, Dirichlet 0.1, few authors (5) and many (20), whose packets are condensed samples without answers, as a first
exchange has them. Four anchors learn from them: flat and mixture, each cold (all packets at once) and incremental
(they arrive in five portions). Then one author is revoked and unlearned. The generators over all classes are judged as
in `benchmarks.knowledge_generation`. Seconds are CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from .knowledge_cells import Cell, problem_of

FEW, MANY = 5, 20
PORTIONS = 5
EXPERTS = 8
TASK = (0, 1, 2)
SEEDS = (0, 1)
WORK: dict[str, int] = {}
"""Steps of learning, as in the configuration; none: as many as the space calls for."""
Kind = Literal["flat", "mixture"]
T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """One anchor's classifier. Shares 0..1, CPU seconds.

    Attributes:
        experts: of the mixture; 1: flat.
        cold, incremental: accuracy over all classes, all packets learned at once and portion by portion.
        cold_s, update_s: of learning all at once, and of the mean portion after the first.
        unlearned, unlearn_s: accuracy and seconds after an author was revoked.
        task, part_parameters: accuracy among the classes 0, 1, 2 of the part that is cut out for them (flat: of the
            whole), and the share of the parameters in it.
    """

    kind: Kind
    authors: int
    seed: int
    experts: int
    cold: float
    cold_s: float
    incremental: float
    update_s: float
    unlearned: float
    unlearn_s: float
    task: float
    part_parameters: float


@dataclass(frozen=True)
class Drawings:
    """One generator: see `benchmarks.knowledge_generation.judge`."""

    kind: str
    authors: int
    seed: int
    oracle_accuracy: float
    oracle_worst_class: float
    downstream: float
    frechet: float
    cpu_s: float


def entries_of(cell: Cell) -> list[Any]:
    """What each author of a cell publishes, in the order of arrival."""
    from meshlore.node.learner import Learner
    from meshlore.node.library import Entry
    from meshlore.node.settings import Learning

    problem, entries = problem_of(cell), []
    for place, private in enumerate(problem.clients):
        author = f"author-{place:02}"
        packet = Learner(problem.space, "node", "", private, Learning(**WORK), 100 * cell.seed + place).condense(
            _silent
        )
        if packet is not None:
            entries.append(Entry(f"{place:064x}", author, author, 1, float(place), packet))
    return entries


def classifiers(cell: Cell, kind: Kind, entries: Sequence[Any]) -> Figures:
    from meshlore.knowledge import metrics
    from meshlore.node.skills import Skills

    problem, learner = problem_of(cell), _learner(cell, kind)
    untaught = learner.fresh()

    def accuracy(model: Any) -> float:
        return metrics.global_accuracy(problem.answer(model), problem.test.labels)

    def distilled(start: Any, known: Sequence[Any], turn: int) -> tuple[float, Any]:
        spent, taught = _timed(lambda: learner.distil(start, None, known, {}, turn=turn, step=_silent))
        return spent, taught.classifier

    cold_s, cold = distilled(untaught, entries, 0)
    model, updates = untaught, []
    for portion in range(1, PORTIONS + 1):
        spent, model = distilled(model, entries[: len(entries) * portion // PORTIONS], portion)
        updates.append(spent)
    start = learner.unlearned(Skills(model, untaught))
    unlearn_s, rest = distilled(start, entries[:-1], PORTIONS + 1)
    part = model.part(TASK) if kind == "mixture" else model
    return Figures(
        kind,
        cell.nodes,
        cell.seed,
        len(model.experts) if kind == "mixture" else 1,
        accuracy(cold),
        cold_s,
        accuracy(model),
        sum(updates[1:]) / len(updates[1:]),
        accuracy(rest),
        unlearn_s,
        _task_accuracy(problem, part),
        _parameters(part) / _parameters(model),
    )


def drawings(cell: Cell, entries: Sequence[Any], folder: Path | None) -> list[Drawings]:
    """The compact generator from packets and, beside it, from the pooled real data; and a pipeline, if one is given."""
    from meshlore.knowledge.data import concatenate
    from meshlore.knowledge.generator import fit_generator
    from meshlore.knowledge.generators import usual_steps

    from .knowledge_generation import drawn, judge, oracle_of

    problem = problem_of(cell)
    pooled, oracle = concatenate(problem.clients), oracle_of(cell)

    def judged(kind: str, make: Callable[[], Any]) -> Drawings:
        spent, generator = _timed(make)
        return Drawings(
            kind, cell.nodes, cell.seed, **judge(drawn(problem, generator), oracle, pooled, problem), cpu_s=spent
        )

    def of_real() -> Any:
        steps = WORK.get("generator_steps") or usual_steps(problem.space)
        return fit_generator(pooled.images, pooled.labels, problem.space, steps=steps, seed=cell.seed)

    learner = _learner(cell, "flat")
    rows = [
        judged("compact, from packets", lambda: learner.fit_generator(entries, {}, _silent)),
        judged("compact, from pooled real data", of_real),
    ]
    if folder is None:
        return rows
    from meshlore.knowledge.pipeline import Pipeline, PipelineSettings

    how = PipelineSettings(rank=8, learning_rate=5e-3, batch_size=16, draw_steps=10)
    learner.generators = pipeline = Pipeline(folder, problem.space, how)
    half = entries[: len(entries) // 2]
    first = learner.fit_generator(half, {}, _silent)
    return [
        *rows,
        judged("pipeline as it is", lambda: pipeline.unadapted(problem.space)),
        judged("pipeline, cold", lambda: learner.fit_generator(entries, {}, _silent)),
        judged("pipeline, on from half", lambda: learner.fit_generator(entries, {}, _silent, first)),
    ]


def _learner(cell: Cell, kind: Kind) -> Any:
    from meshlore.node.anchor_learner import AnchorLearner
    from meshlore.node.learner import Learner
    from meshlore.node.settings import Learning

    space, seed = problem_of(cell).space, 1000 * cell.seed + 999
    if kind == "mixture":
        return AnchorLearner(space, "", Learning(**WORK), seed, experts=EXPERTS)
    return Learner(space, "anchor", "", None, Learning(**WORK), seed)


def _task_accuracy(problem: Any, model: Any) -> float:
    """Among the classes of the task, and told that it is one of these."""
    import numpy as np

    chosen = np.isin(problem.test.labels, TASK)
    said = np.array(TASK)[problem.answer(model)[chosen][:, TASK].argmax(axis=1)]
    return float((said == problem.test.labels[chosen]).mean())


def _parameters(model: Any) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def _silent(_fraction: float) -> None:
    pass


def measure(seeds: Sequence[int], authors: Sequence[int], split: Any, folder: Path | None) -> dict[str, list[Any]]:
    """All rows. The packets of a cell are made once for all that learn from them."""
    rows: dict[str, list[Any]] = {"classifiers": [], "generators": []}
    for seed in seeds:
        for count in authors:
            cell = Cell("digits", "dirichlet-0.1", count, seed, "anchor", split)
            print(f"{count} authors, seed {seed} ...", file=sys.stderr, flush=True)
            entries = entries_of(cell)
            rows["classifiers"] += [classifiers(cell, kind, entries) for kind in ("flat", "mixture")]
            if seed == seeds[0]:
                rows["generators"] += drawings(cell, entries, folder if count == authors[0] else None)
    return rows


def table(rows: Sequence[Any], names: dict[str, str]) -> str:
    """Markdown: means over seeds, by kind and number of authors."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row.authors, row.kind), []).append(asdict(row))
    lines = ["| authors | | " + " | ".join(names.values()) + " |", "|---|---|" + "---|" * len(names)]
    for (authors, kind), runs in groups.items():
        means = [sum(run[name] for run in runs) / len(runs) for name in names]
        cells = [_text(name, mean) for name, mean in zip(names, means, strict=True)]
        lines.append(f"| {authors} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(name: str, value: float) -> str:
    if name.endswith("_s") or name in ("experts", "frechet"):
        return f"{value:.1f}"
    return f"{value:.0%}" if name == "part_parameters" else f"{value:.3f}"


COLUMNS = {
    "experts": "experts",
    "cold": "cold",
    "cold_s": "CPU s",
    "incremental": "incremental",
    "update_s": "CPU s per portion",
    "unlearned": "one author unlearned",
    "unlearn_s": "CPU s",
    "task": "task of 3 classes",
    "part_parameters": "parameters in its part",
}
DRAWN = {
    "oracle_accuracy": "class accuracy",
    "oracle_worst_class": "worst class",
    "downstream": "trained on it alone",
    "frechet": "Fréchet distance",
    "cpu_s": "CPU s",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anchor", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="few authors and one seed")
    parser.add_argument("--validation", action="store_true", help="measure on a part of the training set, to choose by")
    parser.add_argument("--pipeline", type=Path, help="judge the pipeline in this folder too, as it is and adapted")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .knowledge import prepare_process

    prepare_process()
    split = "validation" if options.validation else "test"
    seeds, authors = (SEEDS[:1], (FEW,)) if options.quick else (SEEDS, (FEW, MANY))
    rows = measure(seeds, authors, split, options.pipeline)
    if options.json:
        print(json.dumps({name: [asdict(row) for row in part] for name, part in rows.items()}, indent=1))
        return
    print(table(rows["classifiers"], COLUMNS), table(rows["generators"], DRAWN), sep="\n\n")


if __name__ == "__main__":
    main()
