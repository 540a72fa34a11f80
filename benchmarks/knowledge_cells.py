"""The matrix: which cells there are, and the problem that each one poses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np
from meshlore.errors import ConfigError
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import default_model
from meshlore.knowledge.partition import partition_classes, partition_dirichlet
from meshlore.knowledge.sources import load
from numpy.typing import NDArray

from .baselines.problem import Problem
from .colours import colour_digits

Split = Literal["test", "validation"]

DATASETS = ("digits", "fashion-mnist-5000", "fashion-mnist")
TABLES = ("breast-cancer", "wine")
NAMED = ("colour-digits", *TABLES)
"""Small ones beside the matrix, run when they are named."""
COLOUR_DIGITS_PX = 16
PARTITIONS = ("dirichlet-0.1", "dirichlet-0.5", "two-classes", "iid")
NODES = (5, 10, 20)
SEEDS = (0, 1, 2)
VALIDATION = {
    "digits": 250,
    "fashion-mnist-5000": 1000,
    "fashion-mnist": 5000,
    "colour-digits": 250,
    "breast-cancer": 120,
    "wine": 40,
}
PUBLIC = {
    "digits": 250,
    "fashion-mnist-5000": 2500,
    "fashion-mnist": 5000,
    "colour-digits": 250,
    "breast-cancer": 80,
    "wine": 25,
}
"""Unlabelled samples for FedDF, held apart from all clients; but for the 5,000 of Fashion they come out of the
training set, so that FedDF's clients have that many fewer."""


@dataclass(frozen=True, order=True)
class Cell:
    """One run. ``split`` "validation" measures on a part of the training set, for choosing settings."""

    dataset: str
    partition: str
    nodes: int
    seed: int
    method: str
    split: Split = "test"

    @property
    def problem_key(self) -> tuple[str, str, int, int, str]:
        return (self.dataset, self.partition, self.nodes, self.seed, self.split)

    @property
    def title(self) -> str:
        return f"{self.dataset} · {self.partition} · N={self.nodes} · seed {self.seed} · {self.method}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def cells(
    datasets: Iterable[str],
    partitions: Iterable[str],
    nodes: Iterable[int],
    seeds: Iterable[int],
    methods: Iterable[str],
    split: Split = "test",
) -> list[Cell]:
    """The matrix, seed by seed, so that a first seed of everything comes before a second of anything."""
    return [
        Cell(dataset, partition, count, seed, method, split)
        for seed, dataset, count, partition, method in product(seeds, datasets, nodes, partitions, methods)
    ]


def load_split(dataset: str, seed: int, split: Split) -> tuple[Dataset, Dataset, Dataset]:
    """(train, test, spare): what is shared out, what is measured with, and real samples that are in neither.

    Raises:
        DataError: Fashion-MNIST is not installed; the error says how to.
    """
    if dataset not in (*DATASETS, *NAMED):
        raise ConfigError(f"no data set {dataset!r}", f"one of {', '.join((*DATASETS, *NAMED))}")
    if dataset == "colour-digits":
        train = colour_digits(COLOUR_DIGITS_PX)
        test = colour_digits(COLOUR_DIGITS_PX, "digits:test", seed=1)
    else:
        name = dataset.removesuffix("-5000")
        train, test = load(name).dataset, load(f"{name}:test").dataset
    if split == "validation":
        train, test = train.tuning_split(VALIDATION[dataset])
    spare = train.subset(np.arange(0))
    if dataset.endswith("-5000"):
        order = np.random.default_rng(seed).permutation(len(train))
        train, spare = train.subset(order[:5000]), train.subset(order[5000:])
    return train, test, spare


def share_out(labels: NDArray[np.int64], partition: str, nodes: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices of each node's samples."""
    if partition == "iid":
        return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(len(labels)), nodes)]
    if partition == "two-classes":
        return partition_classes(labels, nodes, 2, seed)
    kind, _, alpha = partition.partition("-")
    if kind != "dirichlet" or not alpha:
        raise ConfigError(f"no partition {partition!r}", f"one of {', '.join(PARTITIONS)}, or dirichlet-ALPHA")
    return partition_dirichlet(labels, nodes, float(alpha), seed)


@lru_cache(maxsize=1)
def _problem(dataset: str, partition: str, nodes: int, seed: int, split: Split, model: str) -> Problem:
    train, test, spare = load_split(dataset, seed, split)
    model = model or default_model(train.space, "node")
    parts = share_out(train.labels, partition, nodes, seed)
    clients = tuple(train.subset(part) for part in parts)
    wanted = PUBLIC[dataset]
    if len(spare) >= wanted:
        return Problem(clients, test, spare.images[:wanted], model, seed)
    return Problem(clients, test, np.zeros((0, *train.space.shape), np.uint8), model, seed)


def problem_of(cell: Cell, model: str = "") -> Problem:
    """The same object for all methods of one problem, as long as they are asked for in a row.

    Args:
        model: everybody's; empty: what nodes take for such samples.
    """
    return _problem(*cell.problem_key, model)


def hold_public_apart(problem: Problem, wanted: int) -> Problem:
    """A problem with unlabelled public samples; unless it has some already, its clients give them up evenly."""
    if len(problem.public):
        return problem
    rng = np.random.default_rng(problem.seed + 99)
    total = sum(len(client) for client in problem.clients)
    kept, public = [], []
    for client in problem.clients:
        order = rng.permutation(len(client))
        given = round(wanted * len(client) / total)
        public.append(client.images[order[:given]])
        kept.append(client.subset(order[given:]))
    return Problem(tuple(kept), problem.test, np.concatenate(public), problem.model, problem.seed)
