"""Tasks about classes that are foreign to the node where they are handed in: served alone, routed, after a skill."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.partition import partition_classes
from meshlore.knowledge.sources import load
from meshlore.node.daemon import configure_logging
from meshlore.node.in_process import InProcessMesh, Member, Resident
from meshlore.node.results import Classified, Learned, result_from_map
from meshlore.node.tasks import Classify, Skill, to_map

NODES = 5
CLASSES_EACH = 2
DELAY_S = 0.005
WAIT_S = 1200.0
Settings = Mapping[str, Mapping[str, Any]]
TOOLBOX: Settings = {"learning": {"lessons": "asked"}, "service": {"skills": "asked"}}
"""Of the entry node: it learns from others only what it asks for."""


@dataclass(frozen=True)
class Way:
    """How tasks about foreign classes were served. Accuracy 0..1; latencies of tasks of one sample, in ms."""

    seed: int
    way: str
    accuracy: float
    served_here: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Lesson:
    """What the skill cost and what it did at home; accuracy on the private hold-out."""

    seed: int
    classes: int
    samples: int
    took_s: float
    cpu_s: float
    kept: bool
    home_before: float
    home_after: float
    teacher: str


async def measure(seed: int, *, tasks: int) -> tuple[list[Way], Lesson]:
    """One mesh of nodes with two classes each, and an anchor; tasks come in at the first node, a toolbox, and at the
    second, which has the default settings."""
    torch.set_num_threads(1)
    configure_logging("error")
    train, test = load("digits").dataset, load("digits:test").dataset
    parts = partition_classes(train.labels, NODES, CLASSES_EACH, seed)
    members = [Member(f"node{i}", train.subset(part), _settings(seed + i)) for i, part in enumerate(parts)]
    members[0] = Member("entry", members[0].private, _settings(seed, TOOLBOX))
    members.append(Member("anchor", None, _settings(seed + NODES)))
    foreign = [test.subset(np.flatnonzero(~np.isin(test.labels, np.unique(train.labels[part])))) for part in parts[:2]]
    names = tuple(train.space.classes[label] for label in np.unique(foreign[0].labels))
    with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
        async with InProcessMesh(train.space, members, Path(folder), delay_s=DELAY_S) as mesh:
            await mesh.settle(WAIT_S)
            entry, usual = mesh.residents[:2]
            ways = [await _way(seed, "default node, alone", usual, foreign[1], "here", tasks)]
            ways.append(await _way(seed, "default node, routed", usual, foreign[1], "best", tasks))
            ways.append(await _way(seed, "alone", entry, foreign[0], "here", tasks))
            ways.append(await _way(seed, "routed", entry, foreign[0], "best", tasks))
            before, cpu_s = time.monotonic(), sum(entry.lane.cpu_s.values())
            learned: Learned = await submit(entry, Skill(names))
            took_s = time.monotonic() - before
            cpu_s = sum(entry.lane.cpu_s.values()) - cpu_s
            await mesh.settle(WAIT_S)
            ways.append(await _way(seed, "after the skill", entry, foreign[0], "best", tasks))
            ways.append(await _way(seed, "after the skill, alone", entry, foreign[0], "here", tasks))
    at_home = learned.home_before or 0.0, learned.home_after or 0.0
    return ways, Lesson(seed, len(names), learned.samples, took_s, cpu_s, learned.kept, *at_home, learned.answer.node)


async def submit(at: Resident, task: Any) -> Any:
    started = time.monotonic()
    reply = await at.tasks.submit(to_map(task), WAIT_S, lambda *_: None)
    return result_from_map(reply, took_s=time.monotonic() - started)


async def _way(seed: int, way: str, at: Resident, foreign: Dataset, where: str, tasks: int) -> Way:
    classes = foreign.space.classes
    result: Classified = await submit(at, Classify(foreign.images, where=where))
    right = np.array([classes.index(name) for name in result.labels]) == foreign.labels
    took = []
    for place in np.random.default_rng(seed).integers(0, len(foreign), tasks):
        one = await submit(at, Classify(foreign.images[place : place + 1], where=where))
        took.append(1000 * one.answer.took_s)
    here = np.mean([name == at.member.name for name in result.by])
    p50, p99 = np.percentile(took, [50, 99])
    return Way(seed, way, float(right.mean()), float(here), float(p50), float(p99))


def _settings(seed: int, more: Settings | None = None) -> dict[str, Any]:
    return {"seed": 1000 + seed, **(more or {})}
