"""What the project set out to reach, and whether the figures do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .knowledge_results import (
    Figures,
    Group,
    activity_s,
    mean_global,
    mean_of,
    node_cpu_s,
    number,
    worst_personal_change,
)

ENOUGH_SEEDS = 3
Verdict = Literal["reached", "not reached", "reached, too few seeds", "not reached, too few seeds"]


@dataclass(frozen=True)
class Target:
    """A bound on the mean over seeds of one figure; on every single run where ``each`` is "run"."""

    what: str
    group: Group
    figure: Callable[[Figures], float | None]
    sign: Literal[">=", "<="]
    bound: float
    each: Literal["mean", "run"] = "mean"


@dataclass(frozen=True)
class Judged:
    target: Target
    value: float
    seeds: int

    @property
    def met(self) -> bool:
        at_least = self.target.sign == ">="
        return self.value >= self.target.bound if at_least else self.value <= self.target.bound

    @property
    def verdict(self) -> str:
        few = "" if self.seeds >= ENOUGH_SEEDS else ", too few seeds"
        return ("reached" if self.met else "not reached") + few


def _targets() -> list[Target]:
    digits, small, full = "digits", "fashion-mnist-5000", "fashion-mnist"
    skewed, two, ours, private = "dirichlet-0.1", "two-classes", "ours-anchor", "ours-dp-4"
    anchor = number("anchor")
    return [
        Target("nodes", (digits, skewed, 5, ours), mean_global, ">=", 0.975),
        Target("nodes", (digits, skewed, 10, ours), mean_global, ">=", 0.965),
        Target("anchor", (digits, skewed, 5, ours), anchor, ">=", 0.98),
        Target("anchor", (digits, skewed, 10, ours), anchor, ">=", 0.98),
        Target("nodes", (digits, two, 5, ours), mean_global, ">=", 0.965),
        Target("nodes", (digits, two, 10, ours), mean_global, ">=", 0.965),
        Target("nodes", (small, skewed, 5, ours), mean_global, ">=", 0.845),
        Target("kB published per node", (small, skewed, 5, ours), mean_of("published_kb"), "<=", 600),
        Target("nodes", (full, skewed, 10, ours), mean_global, ">=", 0.855),
        Target("anchor", (full, skewed, 10, ours), anchor, ">=", 0.865),
        Target("kB published per node", (full, skewed, 10, ours), mean_of("published_kb"), "<=", 2500),
        Target("CPU s per node", (full, skewed, 10, ours), node_cpu_s, "<=", 180),
        Target("CPU s of condensation", (full, skewed, 10, ours), activity_s("condensation"), "<=", 20),
        Target("nodes with DP, epsilon 4", (full, skewed, 10, private), mean_global, ">=", 0.75),
        Target("oracle class accuracy", (digits, skewed, 5, "generation"), number("oracle_accuracy"), ">=", 0.97),
        Target("oracle class accuracy", (small, skewed, 5, "generation"), number("oracle_accuracy"), ">=", 0.90),
        Target("oracle class accuracy", (full, skewed, 10, "generation"), number("oracle_accuracy"), ">=", 0.90),
    ]


TARGETS: Sequence[Target] = tuple(_targets())


def judge(grouped: Mapping[Group, list[Figures]]) -> list[Judged]:
    """All targets whose cells were run, then whether anybody got worse at home."""
    judged = []
    for target in TARGETS:
        values = _values(grouped.get(target.group, []), target.figure)
        if values:
            judged.append(Judged(target, sum(values) / len(values), len(values)))
    judged += _twenty_like_ten(grouped)
    for group, runs in grouped.items():
        changes = _values(runs, worst_personal_change)
        if changes and group[3].startswith("ours"):
            target = Target("worst personal change", group, worst_personal_change, ">=", 0.0, "run")
            judged.append(Judged(target, min(changes), len(changes)))
    return judged


def _twenty_like_ten(grouped: Mapping[Group, list[Figures]]) -> list[Judged]:
    """Twice the nodes cost two points at most."""
    place = ("fashion-mnist", "dirichlet-0.1")
    ten = _values(grouped.get((*place, 10, "ours-anchor"), []), mean_global)
    twenty = _values(grouped.get((*place, 20, "ours-anchor"), []), mean_global)
    if not ten or not twenty:
        return []
    bound = sum(ten) / len(ten) - 0.02
    target = Target("nodes, N=20 against N=10", (*place, 20, "ours-anchor"), mean_global, ">=", round(bound, 4))
    return [Judged(target, sum(twenty) / len(twenty), min(len(ten), len(twenty)))]


def _values(runs: Sequence[Figures], figure: Callable[[Figures], float | None]) -> list[float]:
    return [value for value in map(figure, runs) if value is not None]


def table(judged: Sequence[Judged]) -> str:
    """Markdown: every target beside its figure."""
    lines = ["| setting | method | figure | target | measured | seeds | |", "|---|---|---|---|---|---|---|"]
    for item in judged:
        dataset, partition, nodes, method = item.target.group
        bound = f"{'≥' if item.target.sign == '>=' else '≤'} {item.target.bound:g}"
        value = f"{item.value:.3f}" if abs(item.value) < 10 else f"{item.value:.0f}"
        verdict = item.verdict if item.met else f"**{item.verdict}**"
        lines.append(
            f"| {dataset}, {partition}, N={nodes} | {method} | {item.target.what} "
            f"| {bound} | {value} | {item.seeds} | {verdict} |"
        )
    return "\n".join(lines)
