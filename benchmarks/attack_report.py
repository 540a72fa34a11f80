"""The matrix of attacks: how far lying nodes pull honest ones down, beside what could be reached at all.

    python -m benchmarks.attacks [--quick] [--json] [--out FILE] [--nodes 5,10] [--fractions 0.2,0.3,0.4] ...

Each row is one attack at one share of liars, as a mean over seeds (and the worst seed) of the honest nodes' mean
accuracy over all classes. *clean*: nobody lies. *silent*: the same liars say nothing; classes that only they hold
are then unknown to everybody, and no gate can do better. Target: at most 6 points under silent (a rider or a lying
teacher whose samples are true may well end above it), and every honest node at least as good as alone.

Results go to FILE as JSON lines as they come; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from meshlore.knowledge.process import prepare_to_learn
from meshlore.knowledge.sources import load
from rich.console import Console
from rich.table import Table

from .attack_harness import PARTITIONS, Ground, Outcome, Silent, liars_among, prepare, run
from .attacks import (
    Backdoor,
    ClassSwap,
    FreeRider,
    Inflated,
    LabelFlip,
    LeastLikely,
    LyingAnswers,
    MostConfusable,
    Noise,
    ProbeAware,
)
from .liar import Attack

MOST_LOST = 0.06
LIARS_OWN = "silent"
Plot = Callable[[Ground, Sequence[int]], dict[int, Attack]]


@dataclass(frozen=True)
class Matrix:
    """What is run. ``judged``: how many honest nodes learn and are measured; 0: all."""

    nodes: tuple[int, ...] = (5, 10)
    partitions: tuple[str, ...] = tuple(PARTITIONS)
    fractions: tuple[float, ...] = (0.2, 0.3, 0.4)
    seeds: int = 3
    judged: int = 3
    attacks: tuple[str, ...] = ()


QUICK = Matrix(nodes=(5,), partitions=("dirichlet 0.1",), fractions=(0.4,), seeds=1, judged=2)


def everyone(attack: Callable[[int], Attack]) -> Plot:
    """All liars alike, given the ground's seed: they have agreed on it."""
    return lambda ground, liars: {place: attack(ground.seed) for place in liars}


def probe_aware(together: bool) -> Plot:
    """Each liar spares a victim of its own, or all spare the same one and lie alike."""

    def plot(ground: Ground, liars: Sequence[int]) -> dict[int, Attack]:
        victims = [place for place in range(len(ground.parts)) if place not in liars]
        chosen: dict[int, Attack] = {}
        for number, place in enumerate(liars):
            victim = victims[0 if together else number % len(victims)]
            held = frozenset(np.flatnonzero(ground.parts[victim].counts()).tolist())
            chosen[place] = ProbeAware(held, plot=ground.seed if together else None, reach=40 if together else 0)
        return chosen

    return plot


ATTACKS: dict[str, Plot] = {
    "label flip": everyone(lambda seed: LabelFlip()),
    "label flip, together": everyone(lambda seed: LabelFlip(plot=seed)),
    "noise": everyone(lambda seed: Noise()),
    "smooth noise": everyone(lambda seed: Noise(smooth=2)),
    "least likely (LMA)": everyone(lambda seed: LeastLikely()),
    "most confusable (CPA)": everyone(lambda seed: MostConfusable()),
    "probe-aware": probe_aware(together=False),
    "probe-aware, together": probe_aware(together=True),
    "backdoor": everyone(lambda seed: Backdoor(target=seed % 10)),
    "backdoor, clean label": everyone(lambda seed: Backdoor(target=seed % 10, clean_label=True)),
    "free rider": everyone(lambda seed: FreeRider()),
    "two classes swapped, others' samples re-signed": everyone(lambda seed: ClassSwap(plot=seed, times=5)),
    "lying answers (LMA)": everyone(lambda seed: LyingAnswers()),
    "lying answers (CPA), some classes": everyone(lambda seed: LyingAnswers(least=False, share=0.39)),
    "label flip and huge claims": everyone(lambda seed: Inflated(LabelFlip(plot=seed))),
}


def measure(matrix: Matrix, known: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One record per run; those whose key is in ``known`` are given back as they are."""
    train, test = load("digits").dataset, load("digits:test").dataset
    for nodes in matrix.nodes:
        for partition in matrix.partitions:
            for seed in range(matrix.seeds):
                ground: Ground | None = None
                for name, fraction in _runs(matrix):
                    key = f"{nodes}|{partition}|{seed}|{fraction}|{name}|{matrix.judged}"
                    if key in known:
                        yield known[key]
                        continue
                    if ground is None:
                        ground = prepare(train, test, partition, nodes, seed)
                    yield {"key": key, "nodes": nodes, "partition": partition, "seed": seed} | _one(
                        ground, name, fraction, matrix.judged
                    )


def _runs(matrix: Matrix) -> list[tuple[str, float]]:
    names = matrix.attacks or tuple(ATTACKS)
    return [("clean", 0.0), *((name, f) for f in matrix.fractions for name in (LIARS_OWN, *names))]


def _one(ground: Ground, name: str, fraction: float, judged: int) -> dict[str, Any]:
    most = liars_among(ground, 0.4)
    honest = [place for place in range(len(ground.parts)) if place not in most]
    liars = liars_among(ground, fraction)
    if name in ("clean", LIARS_OWN):
        attacks: dict[int, Attack] = {place: Silent() for place in liars}
    else:
        attacks = ATTACKS[name](ground, liars)
    # the same honest nodes at every share of liars, so that rows can be compared
    outcome = run(ground, attacks, honest[:judged] if judged else None)
    return {"attack": name, "fraction": fraction, "liars": liars} | asdict(outcome)


def rows(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of all seeds brought together, each beside its clean and its silent run."""
    outcomes = {
        (r["nodes"], r["partition"], r["fraction"], r["attack"], r["seed"]): Outcome(
            **{name: r[name] for name in Outcome.__dataclass_fields__}
        )
        for r in records
    }
    table = []
    for nodes, partition, fraction, attack in dict.fromkeys(key[:4] for key in outcomes):
        seeds = [key[4] for key in outcomes if key[:4] == (nodes, partition, fraction, attack)]
        here = [outcomes[nodes, partition, fraction, attack, seed] for seed in seeds]
        silent = [outcomes[nodes, partition, fraction, LIARS_OWN if fraction else "clean", seed] for seed in seeds]
        clean = [outcomes[nodes, partition, 0.0, "clean", seed] for seed in seeds]
        lost = [float(np.mean(s.after) - np.mean(o.after)) for s, o in zip(silent, here, strict=True)]
        gains = [after - before for o in here for before, after in zip(o.before, o.after, strict=True)]
        triggered = [o.triggered for o in here if o.triggered is not None]
        table.append(
            {
                "nodes": nodes, "partition": partition, "fraction": fraction, "attack": attack,
                "clean": float(np.mean([np.mean(o.after) for o in clean])),
                "silent": float(np.mean([np.mean(o.after) for o in silent])),
                "accuracy": float(np.mean([np.mean(o.after) for o in here])),
                "worst_node": min(min(o.after) for o in here),
                "local": float(np.mean([np.mean(o.before) for o in here])),
                "lost": float(np.mean(lost)), "lost_worst_seed": max(lost), "least_gain": min(gains),
                "refused": sum(o.refused for o in here), "verdicts": sum(o.verdicts for o in here),
                "heeded": float(np.mean([o.heeded for o in here])),
                "triggered": float(np.mean(triggered)) if triggered else None,
                "reached": float(np.mean(lost)) <= MOST_LOST and min(gains) >= 0,
            }
        )  # fmt: skip
    return table


def show(table: Sequence[dict[str, Any]]) -> None:
    shown = Table("nodes", "partition", "liars", "attack", "clean", "silent", "accuracy", "worst node", "local only",
                  "lost (<= .060), worst seed", "honest refused", "liars' weight", "triggered", "",
                  title="honest nodes' accuracy over all classes under attack, digits")  # fmt: skip
    for row in table:
        triggered = "" if row["triggered"] is None else f"{row['triggered']:.2f}"
        shown.add_row(
            str(row["nodes"]), row["partition"], f"{row['fraction']:.0%}", row["attack"], f"{row['clean']:.3f}",
            f"{row['silent']:.3f}", f"{row['accuracy']:.3f}", f"{row['worst_node']:.3f}", f"{row['local']:.3f}",
            f"{row['lost']:+.3f}, {row['lost_worst_seed']:+.3f}", f"{row['refused']}/{row['verdicts']}",
            f"{row['heeded']:.2f}", triggered, "" if row["reached"] else "missed",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 200).print(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; 1 when a target is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.attacks", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="five nodes, one partition, one seed, 40%% liars")
    parser.add_argument("--out", type=Path, help="JSON lines: results are added, those there are not run again")
    parser.add_argument("--nodes", type=_numbers, help="for example 5,10")
    parser.add_argument("--fractions", type=lambda text: tuple(float(part) for part in text.split(",")))
    parser.add_argument("--partitions", type=lambda text: tuple(text.split(",")), help=", ".join(PARTITIONS))
    parser.add_argument("--attacks", type=lambda text: tuple(text.split(";")), help="; ".join(ATTACKS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--judged", type=int, help="honest nodes that learn and are measured; 0: all")
    chosen = vars(parser.parse_args(arguments))
    prepare_to_learn(1)
    limits = {name: chosen[name] for name in Matrix.__dataclass_fields__ if chosen.get(name) is not None}
    unknown = [name for name in limits.get("attacks", ()) if name not in ATTACKS]
    unknown += [name for name in limits.get("partitions", ()) if name not in PARTITIONS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; see --help for the names")
    matrix = Matrix(**((asdict(QUICK) if chosen["quick"] else {}) | limits))
    known = _known(chosen["out"])
    records = []
    for record in measure(matrix, known):
        records.append(record)
        if chosen["out"] and record["key"] not in known:
            with chosen["out"].open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
        if record["key"] not in known:
            print(f"{record['key']}: {np.mean(record['after']):.3f}", file=sys.stderr, flush=True)
    table = rows(records)
    if chosen["json"]:
        print(json.dumps({"target_lost": MOST_LOST, "rows": table}))
    else:
        show(table)
    return 0 if all(row["reached"] for row in table) else 1


def _known(file: Path | None) -> dict[str, dict[str, Any]]:
    if file is None or not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return {record["key"]: record for record in records}


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))
