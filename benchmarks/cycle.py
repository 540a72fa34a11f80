"""Does it help what comes down? Nodes without the mesh, with neighbours, and with neighbours and an anchor.

    python -m benchmarks.cycle [--quick] [--json] [--validation] [--out FILE] [--situations "new node;ring"]

Digits, by situation: a node with 20 samples that joins four taught ones; a ring of ten, where each hears of everybody,
or of its two neighbours only; a node that draws classes that it never saw. Accuracy over all classes alike on the test
set (`--validation`: on a part of the training set, to choose by), after each lesson; of drawings, how many an oracle
takes for what was asked for. What the anchor gives is judged seed by seed, beside neighbours alone.

Results go to FILE as JSON lines as they come; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
REFERENCE = "neighbours"
NAMES = ("new node", "ring", "ring, direct neighbours' packets only", "drawing foreign classes")
Record = Mapping[str, Any]


def measure(
    situations: Sequence[str], seeds: Sequence[int], split: str, known: Mapping[str, Record], run: Callable[..., Any]
) -> Iterator[Record]:
    """One record per situation and seed; those whose key is in ``known`` are given back as they are.

    Args:
        run: (situation, seed, split) -> by way its ``means``, alone and after each lesson, and its ``worst``.
    """
    for seed in seeds:
        for situation in situations:
            key = f"{situation}|{seed}|{split}"
            if key in known:
                yield known[key]
                continue
            started = time.process_time()
            ways = run(situation, seed, split)
            cpu_s = time.process_time() - started
            yield {"key": key, "situation": situation, "seed": seed, "split": split, "ways": ways, "cpu_s": cpu_s}


def rows(records: Sequence[Record]) -> list[dict[str, Any]]:
    """All seeds of a situation and way brought together; ``gains``: of each seed, beside neighbours alone."""
    table = []
    for situation in dict.fromkeys(record["situation"] for record in records):
        runs = [record["ways"] for record in records if record["situation"] == situation]
        for way in runs[0]:
            means = [run[way]["means"] for run in runs]
            table.append(
                {
                    "situation": situation,
                    "way": way,
                    "seeds": len(runs),
                    "means": [sum(each) / len(each) for each in zip(*means, strict=True)],
                    "worst": min(run[way]["worst"] for run in runs),
                    "gains": [run[way]["means"][-1] - run[REFERENCE]["means"][-1] for run in runs],
                }
            )
    return table


def markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """Means over seeds, the worst node (or class) of all seeds, and what is gained over neighbours alone."""
    lines = [
        "| situation | with | alone | lesson 1 | lesson 2 | worst | beside neighbours alone, by seed |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        means = [f"{value:.3f}" for value in row["means"]]
        gains = "" if row["way"] == REFERENCE else ", ".join(f"{gain:+.3f}" for gain in row["gains"])
        figures = " | ".join([*means, *[""] * (3 - len(means)), f"{row['worst']:.3f}", gains])
        lines.append(f"| {row['situation']} | {row['way']} | {figures} |")
    return "\n".join(lines)


def read(path: Path | None) -> dict[str, Record]:
    """What a file of JSON lines holds, by key; a line torn by a kill counts for nothing."""
    found: dict[str, Record] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path and path.exists() else ():
        try:
            record = json.loads(line)
            found[record["key"]] = record
        except (ValueError, KeyError):
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cycle", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--validation", action="store_true", help="measure on a part of the training set, to choose by")
    parser.add_argument("--out", type=Path, help="JSON lines: results are added, those there are not run again")
    parser.add_argument("--situations", type=lambda text: tuple(text.split(";")), default=NAMES, help="; ".join(NAMES))
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.situations if name not in NAMES]:
        parser.error(f"unknown: {', '.join(unknown)}; see --help for the names")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from meshlore.node.settings import Learning

    from .cycle_situations import SITUATIONS
    from .knowledge import prepare_process

    prepare_process()

    def run(situation: str, seed: int, split: Any) -> dict[str, Any]:
        return SITUATIONS[situation](seed, split, Learning())

    known, records = read(options.out), list[Record]()
    split, seeds = "validation" if options.validation else "test", QUICK_SEEDS if options.quick else SEEDS
    for record in measure(options.situations, seeds, split, known, run):
        records.append(record)
        if record["key"] not in known:
            print(f"{record['key']}: {record['cpu_s']:.0f} CPU s", file=sys.stderr, flush=True)
            if options.out:
                with options.out.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps(record) + "\n")
    print(json.dumps({"rows": rows(records)}) if options.json else markdown(rows(records)))


if __name__ == "__main__":
    main()
