"""What is run in each cell: the mesh itself, by source and protection, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from meshlore.errors import ConfigError
from meshlore.knowledge import metrics
from meshlore.knowledge.models import default_model
from meshlore.knowledge.training import Step
from meshlore.node.in_process import Member, NodeOutcome, run_in_process
from meshlore.node.settings import Settings
from pydantic import ValidationError

from .baselines.averaging import federate
from .baselines.datafree import DataFreeSettings, one_shot
from .baselines.feddf import feddf
from .baselines.local import Locals, alone, ensemble, pooled
from .baselines.problem import Problem, Solution
from .baselines.tuned import CO_BOOSTING, DENSE, FEDAVG, FEDDF, FEDPROX, POOLED_STEPS
from .knowledge_cells import PUBLIC, TABLES, Cell, hold_public_apart, problem_of

Figures = dict[str, Any]
Run = Callable[[Cell, Step], Figures]

ANCHOR = "anchor"
SETTLE_S = 6 * 3600.0
LEARNING_ACTIVITIES = ("distillation", "answering", "measuring")


def mesh(settings: Mapping[str, Any], *, anchor: bool = False) -> Run:
    """The mesh: whole nodes in one process, with or without an ``anchor``.

    Generators are not trained here unless the samples come of them: rows of their own measure what they draw.
    """

    def run(cell: Cell, step: Step) -> Figures:
        problem = problem_of(cell)
        members = members_of(problem, settings, default_model(problem.space, "anchor") if anchor else "")
        outcomes = run_in_process(problem.space, members, problem.test, timeout_s=SETTLE_S)
        step(1.0)
        return mesh_figures(outcomes)

    return run


def members_of(problem: Problem, settings: Mapping[str, Any], anchor: str, *, generator_steps: int = 1) -> list[Member]:
    """``anchor``: the anchor's model, empty: no anchor."""
    learning = settings.get("learning", {})
    if learning.get("source") != "generated":
        learning = {"generator_steps": generator_steps, **learning}
    chosen = {**settings, "learning": learning}
    check_settings(chosen)
    nodes = [
        Member(f"node-{number}", private, {**chosen, "model": problem.model, "seed": problem.seed * 1000 + number})
        for number, private in enumerate(problem.clients)
    ]
    if not anchor:
        return nodes
    return [*nodes, Member(ANCHOR, None, {**chosen, "model": anchor, "seed": problem.seed * 1000 + 999})]


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for a source or mode that this version of the nodes does not have."""
    try:
        Settings.model_validate({"name": "node", **settings})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{where} = {first['input']!r} is not known to the nodes", "leave this method out") from None


def mesh_figures(outcomes: tuple[NodeOutcome, ...]) -> Figures:
    nodes = [outcome for outcome in outcomes if outcome.personal_after is not None]
    anchors = [outcome for outcome in outcomes if outcome.personal_after is None]
    activities = sorted({activity for outcome in nodes for activity in outcome.cpu_s} - {"generation"})
    figures: Figures = {
        "global_before": [outcome.global_before for outcome in nodes],
        "global": [outcome.global_after for outcome in nodes],
        "personal_before": [outcome.personal_before for outcome in nodes],
        "personal": [outcome.personal_after for outcome in nodes],
        "samples": [sum(outcome.counts) for outcome in nodes],
        "published_kb": [outcome.knowledge_bytes_published / 1000 for outcome in nodes],
        "moved_kb": [(outcome.knowledge_bytes_sent + outcome.knowledge_bytes_received) / 1000 for outcome in nodes],
        "all_bytes_kb": [(outcome.bytes_sent + outcome.bytes_received) / 1000 for outcome in nodes],
        "cpu_s": {name: [outcome.cpu_s.get(name, 0.0) for outcome in nodes] for name in activities},
        "server_cpu_s": 0.0,
    }
    if anchors:
        anchor = anchors[0]
        if anchor.global_after is not None:  # under differential privacy few samples may tell nothing
            figures["anchor"] = anchor.global_after
        figures["anchor_published_kb"] = anchor.knowledge_bytes_published / 1000
        figures["server_cpu_s"] = sum(anchor.cpu_s.get(name, 0.0) for name in LEARNING_ACTIVITIES)
    return figures


def solution_figures(problem: Problem, solution: Solution) -> Figures:
    labels, priors = problem.test.labels, [client.prior() for client in problem.clients]
    return {
        "global": [metrics.global_accuracy(said, labels) for said in solution.logits],
        "personal": [
            metrics.personal_accuracy(said, labels, prior) for said, prior in zip(solution.logits, priors, strict=True)
        ],
        "samples": [len(client) for client in problem.clients],
        "published_kb": [solution.bytes_up / 1000] * len(problem.clients),
        "moved_kb": [(solution.bytes_up + solution.bytes_down) / 1000] * len(problem.clients),
        "cpu_s": {"training": [solution.client_cpu_s] * len(problem.clients)},
        "server_cpu_s": solution.server_cpu_s,
        "curve": [[moment.bytes_moved / 1000, moment.cpu_s, moment.accuracy] for moment in solution.curve],
    }


def baseline(solve: Callable[[Cell, Problem, Step], Solution]) -> Run:
    def run(cell: Cell, step: Step) -> Figures:
        problem = problem_of(cell)
        return solution_figures(problem, solve(cell, problem, step))

    return run


@lru_cache(maxsize=1)
def locals_of(problem: Problem) -> Locals:
    return Locals(problem)


def _generation(cell: Cell, step: Step) -> Figures:
    from .knowledge_generation import generation

    _check_pictures(cell)
    return generation(cell, step)


def _check_pictures(cell: Cell) -> None:
    """Raises ConfigError where the data set is a table."""
    if cell.dataset in TABLES:
        raise ConfigError(f"{cell.method} draws pictures, and {cell.dataset} is a table", "leave this method out")


def _pooled(cell: Cell, problem: Problem, step: Step, role: str) -> Solution:
    return pooled(problem, default_model(problem.space, role), POOLED_STEPS[cell.dataset], step)


def _feddf(cell: Cell, problem: Problem, step: Step) -> Solution:
    return feddf(hold_public_apart(problem, PUBLIC[cell.dataset]), FEDDF[cell.dataset], step=step)


def _one_shot(cell: Cell, problem: Problem, settings: Mapping[str, DataFreeSettings], step: Step) -> Solution:
    _check_pictures(cell)
    return one_shot(problem, locals_of(problem), settings[cell.dataset], step=step)


def private_mode(epsilon: float) -> dict[str, Any]:
    return {"privacy": {"mode": "dp", "epsilon": epsilon}}


METHODS: Mapping[str, Run] = {
    "local": baseline(lambda _cell, problem, _step: alone(locals_of(problem))),
    "ours": mesh({}),
    "ours-gaussian": mesh({"learning": {"source": "gaussian"}}),
    "ours-generated": mesh({"learning": {"source": "generated"}}),
    "ours-anchor": mesh({}, anchor=True),
    "ours-dp-1": mesh(private_mode(1.0), anchor=True),
    "ours-dp-4": mesh(private_mode(4.0), anchor=True),
    "ours-dp-8": mesh(private_mode(8.0), anchor=True),
    "fedavg": baseline(lambda cell, problem, step: federate(problem, FEDAVG[cell.dataset], step=step)),
    "fedprox": baseline(lambda cell, problem, step: federate(problem, FEDPROX[cell.dataset], step=step)),
    "feddf": baseline(_feddf),
    "dense": baseline(lambda cell, problem, step: _one_shot(cell, problem, DENSE, step)),
    "co-boosting": baseline(lambda cell, problem, step: _one_shot(cell, problem, CO_BOOSTING, step)),
    "ensemble-logit": baseline(lambda _cell, problem, _step: ensemble(locals_of(problem), "logit")),
    "ensemble-probability": baseline(lambda _cell, problem, _step: ensemble(locals_of(problem), "probability")),
    "ensemble-count": baseline(lambda _cell, problem, _step: ensemble(locals_of(problem), "count")),
    "pooled": baseline(lambda cell, problem, step: _pooled(cell, problem, step, "node")),
    "pooled-large": baseline(lambda cell, problem, step: _pooled(cell, problem, step, "anchor")),
    "generation": _generation,
}
QUICK_METHODS = ("local", "ours", "ours-anchor", "fedavg", "ensemble-count", "pooled")


def run_cell(cell: Cell, step: Step) -> Figures:
    """All figures of one cell, as JSON values."""
    return plain(METHODS[cell.method](cell, step))


def plain(figures: Figures) -> Figures:
    """Rounded to what is meant, and without numpy's own numbers."""
    return {name: _plain(value) for name, value in figures.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return plain(value)
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 5)
    return value
