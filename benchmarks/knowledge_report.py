"""The markdown that goes into docs/benchmarks.md: targets, then one table for each setting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import knowledge_targets
from .knowledge_methods import METHODS
from .knowledge_results import (
    COLUMNS,
    CPU_COLUMNS,
    GENERATION_COLUMNS,
    Column,
    Figures,
    Group,
    Results,
    groups,
    table,
)

BEGIN, END = "<!-- begin: python -m benchmarks.knowledge --write-docs -->", "<!-- end -->"
ORDER = {name: place for place, name in enumerate(METHODS)}


def markdown(results: Results, split: str = "test") -> str:
    """All that was measured, as markdown."""
    grouped = groups(results, split)
    if not grouped:
        return "Nothing measured yet.\n"
    parts = []
    if split == "test" and (judged := knowledge_targets.judge(grouped)):
        parts.append("### Targets\n\nMeans over seeds; the worst node of the worst run for personal change.\n")
        parts.append(knowledge_targets.table(judged) + "\n")
    for place in sorted({group[:3] for group in grouped}):
        parts.append(f"### {place[0]}, {place[1]}, N={place[2]}\n")
        parts += _tables(place, grouped)
    return "\n".join(parts)


def _tables(place: tuple[str, str, int], grouped: Mapping[Group, list[Figures]]) -> list[str]:
    here = {group[3]: runs for group, runs in grouped.items() if group[:3] == place}
    ordered = {name: here[name] for name in sorted(here, key=lambda name: ORDER.get(name, len(ORDER)))}
    made = []

    def add(title: str, rows: dict[str, list[Figures]], columns: tuple[Column, ...]) -> None:
        if rows:
            made.append((f"{title}\n\n" if title else "") + table(rows, columns) + "\n")

    add("", {name: runs for name, runs in ordered.items() if name != "generation"}, tuple(COLUMNS))
    ours = {name: runs for name, runs in ordered.items() if name.startswith("ours")}
    add("CPU seconds of a node, by activity:", ours, tuple(CPU_COLUMNS))
    add(
        "Generation: a generator trained on received knowledge only:",
        {name: runs for name, runs in ordered.items() if name == "generation"},
        tuple(GENERATION_COLUMNS),
    )
    return made


def write_into(document: Path, text: str, pictures: Sequence[Path] = ()) -> None:
    """Replace what is between the markers, or add markers and text at the end; pictures are linked below."""
    folder = document.parent.resolve()
    links = [f"![{path.stem}]({os.path.relpath(path.resolve(), folder)})" for path in pictures]
    text = "\n\n".join([text.rstrip(), *links])
    old = document.read_text(encoding="utf-8") if document.exists() else "# Benchmarks\n"
    block = f"{BEGIN}\n{text.rstrip()}\n{END}"
    if BEGIN in old and END in old.split(BEGIN, 1)[1]:
        head, rest = old.split(BEGIN, 1)
        document.write_text(head + block + rest.split(END, 1)[1], encoding="utf-8")
    else:
        document.write_text(f"{old.rstrip()}\n\n{block}\n", encoding="utf-8")
