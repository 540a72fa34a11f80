"""Tasks as a service: routed to who knows best, learned as skills, and served while this node trains.

    python -m benchmarks.service [--json] [--quick] [--only tasks|lane]

*tasks*: five nodes with two digits each and an anchor, in one process over the in-memory network (5 ms one way). Tasks
about the eight digits that a node lacks (of the test set) come in at a toolbox node, which learns nothing of others by
itself: they are served alone, routed, and after it has fetched the skill; and at a node with the default settings,
which learns all that others teach, alone and routed. *lane*: a node on one core that trains while tasks come in, with
the compute lane and with a plain thread for each. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from . import service_report

os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from .service_lane import Row
    from .service_tasks import Lesson, Way

SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
TASKS, QUICK_TASKS = 200, 30
SIDES, QUICK_SIDES = (8, 28), (8,)


@dataclass(frozen=True)
class Verdict:
    """One target: what it says, what was measured, whether it is reached."""

    target: str
    measured: str
    reached: bool


@dataclass
class Figures:
    """All that was measured; ``same_outcome``: training that tasks interrupt ends where it would without them."""

    ways: list[Way] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    lane: list[Row] = field(default_factory=list)
    same_outcome: bool | None = None


def measure(*, quick: bool, only: str | None) -> Figures:
    """Run what is asked for."""
    figures = Figures()
    if only != "lane":
        from . import service_tasks

        for seed in QUICK_SEEDS if quick else SEEDS:
            print(f"tasks, seed {seed} ...", file=sys.stderr)
            ways, lesson = asyncio.run(service_tasks.measure(seed, tasks=QUICK_TASKS if quick else TASKS))
            figures.ways += ways
            figures.lessons.append(lesson)
    if only != "tasks":
        from . import service_lane

        print("lane ...", file=sys.stderr)
        sides, trial_s, repeats = (QUICK_SIDES, 2.0, 1) if quick else (SIDES, 3.0, 2)
        figures.lane = service_lane.measure(sides, trial_s=trial_s, repeats=repeats)
        figures.same_outcome = service_lane.same_outcome()
    return figures


def judge(figures: Figures) -> list[Verdict]:
    """What is asked of routing and skills in every run, and of the lane in every row."""
    verdicts = []
    if figures.ways:
        routed, after = ([way for way in figures.ways if way.way == name] for name in ("routed", "after the skill"))
        loss = max(one.accuracy - other.accuracy for one, other in zip(routed, after, strict=True))
        harm = max(lesson.home_before - lesson.home_after for lesson in figures.lessons)
        verdicts += [
            _at_least("accuracy of routed tasks, worst seed", min(way.accuracy for way in routed), 0.93),
            _at_least("accuracy after the skill, worst seed", min(way.accuracy for way in after), 0.93),
            _at_most("accuracy that serving at home costs, worst seed", loss, 0.02),
            _at_least("share served at home after the skill", min(way.served_here for way in after), 0.95),
            _at_most("accuracy lost at home by the skill, worst seed", harm, 0.0),
        ]
    if figures.lane:
        asked = [row for row in figures.lane if row.in_turn is not None and row.training and not row.refused]
        in_turn = min(row.in_turn or 0.0 for row in asked)
        slowest = max(row.slow_down or 0.0 for row in asked if row.tasks_per_s == 1)
        verdicts += [
            _at_least("tasks that start before a second training step begins", in_turn, 0.99),
            _at_most("training slowed down by one task a second", slowest, 0.05),
            Verdict(
                "training that is interrupted ends with the same weights",
                str(figures.same_outcome),
                bool(figures.same_outcome),
            ),
        ]
    return verdicts


def _at_least(what: str, value: float, least: float) -> Verdict:
    return Verdict(f"{what}: >= {least:g}", f"{value:.3f}", value >= least)


def _at_most(what: str, value: float, most: float) -> Verdict:
    return Verdict(f"{what}: <= {most:g}", f"{value:.3f}", value <= most)


def document(figures: Figures, verdicts: list[Verdict]) -> dict[str, Any]:
    return {**asdict(figures), "targets": [asdict(verdict) for verdict in verdicts]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.service", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--quick", action="store_true", help="one seed, short trials")
    parser.add_argument("--only", choices=("tasks", "lane"), help="one half of it")
    arguments = parser.parse_args()
    figures = measure(quick=arguments.quick, only=arguments.only)
    verdicts = judge(figures)
    if arguments.json:
        print(json.dumps(document(figures, verdicts)))
    else:
        print(service_report.markdown(figures.ways, figures.lessons, figures.lane))
        print("\n| target | measured | |\n|---|---|---|")
        for verdict in verdicts:
            print(f"| {verdict.target} | {verdict.measured} | {'reached' if verdict.reached else '**MISSED**'} |")
    sys.exit(not all(verdict.reached for verdict in verdicts))


if __name__ == "__main__":
    main()
