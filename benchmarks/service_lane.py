"""One compute lane for tasks and training, beside a plain thread for each: how long tasks take, what training pays.

Training is the classifier's, tasks classify one sample; both on one core, as on a small device. CPU seconds are those
of the whole process, tasks and event loop included.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from meshlore.errors import Refused
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import build_model
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import fit_classifier, no_step
from meshlore.node.computing import compute
from meshlore.node.lane import Lane
from meshlore.node.skills import Skills
from meshlore.node.tasks import Classify

Way = Literal["lane", "thread"]
WAYS: tuple[Way, ...] = ("lane", "thread")
RATES = (1, 5, 20)
FLOOD = 1000
"""Tasks per second that no device can do."""
ENDLESS = 10**6
SAME_STEPS = 150


@dataclass(frozen=True)
class Row:
    """One way of sharing the core. Latencies in ms; None: there were no tasks, or nothing was trained.

    Attributes:
        side: samples are so many pixels wide and high.
        in_turn: share of the tasks that started before a second training step began; None: no lane.
        step_ms: CPU time of a training step itself.
        slow_down: what the process computed beside training, per what it computed for that: 0.1 means that
            training took a tenth longer.
        refused: tasks that found the lane full.
    """

    side: int
    way: Way
    training: bool
    tasks_per_s: int
    tasks: int
    p50_ms: float | None
    p99_ms: float | None
    in_turn: float | None
    step_ms: float | None
    slow_down: float | None
    refused: int = 0


@dataclass
class _Counts:
    """What one trial saw."""

    took_s: list[float] = field(default_factory=list)
    waited_steps: list[int] = field(default_factory=list)
    steps: int = 0
    cpu_s: float = 0.0
    trained_s: float = 0.0
    refused: int = 0


class _Over(Exception):
    """The trial is over."""


def measure(sides: tuple[int, ...], *, trial_s: float, repeats: int) -> list[Row]:
    """Every way at every rate; trials take turns, so that what else this machine does meets all alike."""
    torch.set_num_threads(1)
    rows = []
    with _one_core():
        for side in sides:
            data = _data(side)
            _train(data, no_step, 5)  # what torch loads the first time
            cells = [(way, training, rate) for way in WAYS for training, rate in ((False, max(RATES)), (True, 0))]
            cells += [(way, True, rate) for way in WAYS for rate in (*RATES, FLOOD)]
            seen = {cell: _Counts() for cell in cells}
            for repeat in range(repeats):
                for (way, training, rate), counts in seen.items():
                    asyncio.run(_trial(data, way, training, rate, trial_s, repeat, counts))
            rows += [_row(side, *cell, counts) for cell, counts in seen.items()]
    return rows


def same_outcome() -> bool:
    """Whether training that tasks interrupt all the time ends where it ends when nobody interrupts it."""
    data = _data(8)
    undisturbed = _train(data, no_step, SAME_STEPS)

    async def disturbed() -> torch.nn.Module:
        lane = Lane("benchmark")
        training = asyncio.ensure_future(lane.train("learning", lambda step: _train(data, step, SAME_STEPS)))
        while not training.done():
            await lane.serve(lambda: compute(Classify(data.images[:1]), _skills(data), data.space))
        await lane.close()
        return await training

    pairs = zip(undisturbed.parameters(), asyncio.run(disturbed()).parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


async def _trial(
    data: Dataset, way: Way, training: bool, rate: int, trial_s: float, seed: int, counts: _Counts
) -> None:
    ends = time.monotonic() + trial_s
    steps = 0

    def train(step: Callable[[float], None]) -> None:
        since = time.thread_time()

        def counted(fraction: float) -> None:
            nonlocal steps, since
            steps += 1
            counts.trained_s += time.thread_time() - since
            step(fraction)
            since = time.thread_time()
            if time.monotonic() > ends:
                raise _Over

        try:
            _train(data, counted, ENDLESS)
        except _Over:
            return

    lane, skills = Lane("benchmark"), _skills(data)
    thread = threading.Thread(target=train, args=(no_step,))
    learning: list[Awaitable[None]] = []

    async def task(place: int) -> None:
        work = Classify(data.images[place : place + 1])
        asked, before, began = time.monotonic(), steps, 0

        def serve() -> None:
            nonlocal began
            began = steps
            compute(work, skills, data.space)

        try:
            await (lane.serve(serve) if way == "lane" else asyncio.to_thread(serve))
        except Refused:
            counts.refused += 1
            return
        counts.took_s.append(time.monotonic() - asked)
        counts.waited_steps.append(began - before)

    cpu_s = time.process_time()
    if training and way == "lane":
        learning.append(asyncio.ensure_future(lane.train("learning", train)))
    elif training:
        thread.start()
    random, running = np.random.default_rng(seed), list[asyncio.Task[None]]()
    while (now := time.monotonic()) < ends:
        wait_s = ends - now if not rate else random.exponential(1 / rate)
        await asyncio.sleep(min(wait_s, ends - now))
        if rate and time.monotonic() < ends:
            running.append(asyncio.create_task(task(int(random.integers(len(data))))))
    # what it took while both went on; what waits then is done afterwards
    counts.cpu_s += time.process_time() - cpu_s
    counts.steps += steps
    await asyncio.gather(*running, *learning)
    if training and way == "thread":
        await asyncio.to_thread(thread.join)
    await lane.close()


def _row(side: int, way: Way, training: bool, rate: int, counts: _Counts) -> Row:
    took = 1000 * np.array(counts.took_s) if counts.took_s else None
    waited = np.array(counts.waited_steps)
    return Row(
        side,
        way,
        training,
        rate,
        len(counts.took_s),
        None if took is None else float(np.percentile(took, 50)),
        None if took is None else float(np.percentile(took, 99)),
        None if took is None or way != "lane" else float((waited <= 1).mean()),
        1000 * counts.trained_s / counts.steps if counts.steps else None,
        counts.cpu_s / counts.trained_s - 1 if counts.trained_s else None,
        counts.refused,
    )


def _train(data: Dataset, step: Callable[[float], None], steps: int) -> torch.nn.Module:
    return fit_classifier(build_model("cnn-small", data.space, 0), data, steps=steps, seed=0, step=step)


def _skills(data: Dataset) -> Skills:
    model = build_model("cnn-small", data.space, 1).eval()
    return Skills(model, model)


def _data(side: int) -> Dataset:
    """Digits, or noise of a larger size: how long a step takes does not hang on what is on the pictures."""
    if side == 8:
        return load("digits").dataset
    random, space = np.random.default_rng(0), Space((1, side, side), tuple("0123456789"))
    return Dataset(space, random.integers(0, 256, (512, *space.shape), dtype=np.uint8), random.integers(0, 10, 512))


@contextmanager
def _one_core() -> Iterator[None]:
    """This process keeps to one core, where the system lets it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
