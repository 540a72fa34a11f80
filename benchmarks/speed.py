"""What the kernels of `knowledge/pooling.py` and `knowledge/features.py`, and memory that stays, save of CPU time.

    python -m benchmarks.speed [--side 28] [--json]

Each row is a piece of work of a node whose samples are so many pixels wide and high, in CPU milliseconds (median), with
torch's own kernels and with ours, in turns; first in a process whose C library does with freed memory as it likes, then
in one that keeps it (`knowledge/process.py`). Times vary with the machine, ratios within a process hardly.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from meshlore.knowledge import features, pooling
from meshlore.knowledge.condense import CondenseSettings, condense
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import build_model
from meshlore.knowledge.process import prepare_to_learn
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import FitSettings, fit_classifier
from torch.nn import functional as F

Work = Callable[[], object]
Times = dict[str, dict[str, float]]
"""By work and kernels ("torch's", "ours"): CPU ms."""

ROUNDS = 5
BATCH = 192  # private samples and lessons of a node that teaches
CLASSES, IMAGES = 6, 6000
ITERATIONS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--side", type=int, default=28, help="pixels; default 28")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, maxtasksperchild=1) as pool:
        given_back, kept = (pool.apply(measure, (options.side, keep)) for keep in (False, True))
    if options.json:
        print(json.dumps({"memory given back": given_back, "memory kept": kept}, indent=1))
        return 0
    print("| CPU ms | torch's kernels | ours | torch's, memory kept | ours, memory kept | ratio |")
    print("|---|---|---|---|---|---|")
    for work, times in given_back.items():
        cells = [times["torch's"], times["ours"], kept[work]["torch's"], kept[work]["ours"]]
        print(f"| {work} | " + " | ".join(f"{ms:.0f}" for ms in cells) + f" | {cells[3] / cells[0]:.2f} |")
    return 0


def measure(side: int, keep: bool) -> Times:
    """All rows in this process, on a thread of its own as in a node; ``keep``: its memory stays."""
    if keep:
        prepare_to_learn(1)
    torch.set_num_threads(1)
    with ThreadPoolExecutor(1) as lane:
        return lane.submit(_rows, side).result()


def _rows(side: int) -> Times:
    space = Space((1, side, side), tuple(f"c{label}" for label in range(CLASSES)))
    random = np.random.default_rng(0)
    images = random.integers(0, space.levels, (IMAGES, *space.shape)).astype(np.uint8)
    data = Dataset(space, images, random.integers(0, CLASSES, IMAGES))
    made = replace(CondenseSettings.for_space(space), iterations=ITERATIONS)
    begun = replace(made, iterations=0)
    times = {
        f"10 training steps, {model}, batches of {BATCH}": _in_turns(lambda model=model: _train(model, data))  # type: ignore[misc]
        for model in ("cnn-small", "cnn-large")
    }
    whole = _in_turns(lambda: condense(data, settings=made, seed=0))
    start = _in_turns(lambda: condense(data, settings=begun, seed=0))
    times[f"an iteration of condensation, {IMAGES:,} images of {CLASSES} classes"] = {
        kernels: (whole[kernels] - start[kernels]) / ITERATIONS for kernels in whole
    }
    return times


def _train(model: str, data: Dataset) -> object:
    return fit_classifier(build_model(model, data.space, 0), data, steps=10, seed=0, settings=FitSettings(BATCH))


def _in_turns(work: Work) -> dict[str, float]:
    spent: dict[str, list[float]] = {"torch's": [], "ours": []}
    for _ in range(ROUNDS):
        with _torch_kernels():
            spent["torch's"].append(_cpu_ms(work))
        spent["ours"].append(_cpu_ms(work))
    return {kernels: statistics.median(times) for kernels, times in spent.items()}


def _cpu_ms(work: Work) -> float:
    started = time.thread_time()
    work()
    return 1000 * (time.thread_time() - started)


@contextmanager
def _torch_kernels() -> Iterator[None]:
    ours = pooling.MaxPool.forward, features.average_pool, features.FEW_CHANNELS
    pooling.MaxPool.forward = lambda _self, images: F.max_pool2d(images, 2)  # type: ignore[method-assign]
    features.average_pool = lambda images: F.avg_pool2d(images, 2)
    features.FEW_CHANNELS = 0
    try:
        yield
    finally:
        pooling.MaxPool.forward, features.average_pool, features.FEW_CHANNELS = ours  # type: ignore[method-assign]


if __name__ == "__main__":
    raise SystemExit(main())
