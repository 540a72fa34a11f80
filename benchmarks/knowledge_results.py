"""Results on disk, and what is read out of them: summaries over seeds, targets, tables.

One JSON object per finished cell and line. A line is written whole and flushed to the disk before the
next cell starts, so a killed run loses at most the cell in flight; a torn last line is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .knowledge_cells import Cell

Figures = Mapping[str, Any]
Results = dict[Cell, Figures]


def read(path: Path) -> Results:
    """All finished cells; of a cell that was measured again the last."""
    found: Results = {}
    if not path.exists():
        return found
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
            found[Cell(**record["cell"])] = record["figures"]
        except (ValueError, TypeError, KeyError):
            continue  # torn by a kill, or of an older version: measured again
    return found


def append(path: Path, cell: Cell, figures: Figures, remarks: Mapping[str, Any]) -> None:
    """Add one line, durably."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"cell": cell.to_json(), "figures": figures, **remarks}, separators=(",", ":")).encode()
    with path.open("ab+") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line  # after a torn line
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class Spread:
    """Mean and range over seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return self.text(3)

    def text(self, digits: int) -> str:
        def short(value: float) -> str:
            return f"{value:.{digits}f}".removeprefix("0") if digits else f"{value:.0f}"

        if self.seeds == 1 or short(self.low) == short(self.high):
            return short(self.mean)
        return f"{short(self.mean)} ({short(self.low)}–{short(self.high)})"


def spread(values: Iterable[float | None]) -> Spread | None:
    known = [value for value in values if value is not None]
    return Spread(float(np.mean(known)), min(known), max(known), len(known)) if known else None


def mean_global(figures: Figures) -> float | None:
    return float(np.mean(figures["global"])) if figures.get("global") else None


def worst_global(figures: Figures) -> float | None:
    return min(figures["global"]) if figures.get("global") else None


def mean_personal(figures: Figures) -> float | None:
    return float(np.mean(figures["personal"])) if figures.get("personal") else None


def worst_personal_change(figures: Figures) -> float | None:
    """Over the nodes of one run: personal accuracy after the exchange less before."""
    before, after = figures.get("personal_before"), figures.get("personal")
    if not before or not after:
        return None
    return min(now - then for then, now in zip(before, after, strict=True))


def mean_of(name: str) -> Callable[[Figures], float | None]:
    def read_one(figures: Figures) -> float | None:
        values = figures.get(name)
        return float(np.mean(values)) if values else None

    return read_one


def node_cpu_s(figures: Figures) -> float | None:
    """CPU seconds of a node, the mean over nodes, all activities of learning together."""
    spent = figures.get("cpu_s")
    return float(np.sum([np.mean(values) for values in spent.values()])) if spent else None


def activity_s(name: str) -> Callable[[Figures], float | None]:
    def read_one(figures: Figures) -> float | None:
        values = figures.get("cpu_s", {}).get(name)
        return float(np.mean(values)) if values else None

    return read_one


def number(name: str) -> Callable[[Figures], float | None]:
    def read_one(figures: Figures) -> float | None:
        value = figures.get(name)
        return None if value is None else float(value)

    return read_one


Group = tuple[str, str, int, str]
"""Data set, partition, nodes, method: what seeds are averaged over."""


def groups(results: Results, split: str = "test") -> dict[Group, list[Figures]]:
    found: dict[Group, list[Figures]] = {}
    for cell in sorted(results):
        if cell.split == split:
            found.setdefault((cell.dataset, cell.partition, cell.nodes, cell.method), []).append(results[cell])
    return found


Column = tuple[str, Callable[[Figures], float | None], int]
COLUMNS: Sequence[Column] = (
    ("mean g", mean_global, 3),
    ("worst node", worst_global, 3),
    ("personal before", mean_of("personal_before"), 3),
    ("personal", mean_personal, 3),
    ("worst personal change", worst_personal_change, 3),
    ("anchor", number("anchor"), 3),
    ("kB published", mean_of("published_kb"), 0),
    ("kB in and out", mean_of("moved_kb"), 0),
    ("CPU s per node", node_cpu_s, 1),
    ("CPU s server", number("server_cpu_s"), 1),
)
CPU_COLUMNS: Sequence[Column] = tuple(
    (name, activity_s(name), 1) for name in ("classifier", "condensation", "distillation", "answering", "measuring")
)
GENERATION_COLUMNS: Sequence[Column] = (
    ("oracle class accuracy", number("oracle_accuracy"), 3),
    ("without choosing", number("unchosen_oracle_accuracy"), 3),
    ("worst class", number("oracle_worst_class"), 3),
    ("trained on it alone", number("downstream"), 3),
    ("Fréchet distance", number("frechet"), 2),
    ("pooled: oracle", number("pooled_oracle_accuracy"), 3),
    ("pooled: trained on it", number("pooled_downstream"), 3),
    ("pooled: Fréchet", number("pooled_frechet"), 2),
    ("CPU s", number("generation_cpu_s"), 1),
)


def table(grouped: Mapping[str, list[Figures]], columns: Sequence[Column]) -> str:
    """A markdown table of rows by name; columns that no row has a figure for are left out."""
    made = {
        name: [spread(read_one(figures) for figures in runs) for _, read_one, _ in columns]
        for name, runs in grouped.items()
    }
    shown = [place for place in range(len(columns)) if any(row[place] is not None for row in made.values())]
    lines = [
        "| method | seeds | " + " | ".join(columns[place][0] for place in shown) + " |",
        "|---|---|" + "---|" * len(shown),
    ]
    for name, row in made.items():
        cells = [_text(row[place], columns[place][2]) for place in shown]
        lines.append(f"| {name} | {len(grouped[name])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _text(value: Spread | None, digits: int) -> str:
    return "" if value is None else value.text(digits)
