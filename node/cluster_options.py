"""What a local cluster is asked for, and who its members are: the same for processes, Ray actors and one process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..knowledge.data import Dataset, Labels
from ..knowledge.partition import partition_dirichlet
from ..knowledge.sources import BUILT_IN, load
from .settings import load_settings

NODE_MODELS = ("cnn-small", "mlp", "cnn-medium")
MAX_TEST = 2000
ANCHOR = "anchor"
GIVEN = frozenset({"name", "data", "classes", "model", "listen", "bootstrap", "seed", "lan"})
"""Settings that a cluster chooses for each of its nodes."""

Partition = Callable[[Labels, int, float, int], list[NDArray[np.int64]]]
"""Shares of a dataset out: (labels, nodes, alpha, seed) -> indices for each node."""


@dataclass(frozen=True)
class ClusterOptions:
    """What to run; the defaults are the demo. ``settings`` are of every node, by dotted name."""

    nodes: int = 5
    data: str = "digits"
    alpha: float = 0.1
    seed: int = 0
    anchor: bool = True
    samples: int = 0
    output: Path = Path("runs/demo")
    keep: bool = False
    timeout_s: float = 300.0
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kept_homes(self) -> Path:
        """Where the homes go when they are kept."""
        return self.output / "homes"

    def check(self) -> None:
        """Raises ConfigError for what is wrong whatever the data are."""
        if self.keep and self.kept_homes.exists():
            raise ConfigError(f"{self.kept_homes} is there already", "move it away, or give another --output")
        for name in self.settings:
            if name.partition(".")[0] in GIVEN:
                raise ConfigError(f"--set {name}", "a cluster chooses that for each node; see meshlore cluster --help")
        load_settings(Path(os.devnull), flags=self.settings, environment={})


@dataclass(frozen=True)
class Part:
    """One member to be: its share of the data (None: the anchor), its model, its seed."""

    name: str
    model: str
    private: Dataset | None
    seed: int


@dataclass(frozen=True)
class Roster:
    """All members, founder first, and the data that nobody but the experimenter sees whole."""

    parts: tuple[Part, ...]
    train: Dataset
    test: Dataset


def share_out(options: ClusterOptions, partition: Partition = partition_dirichlet) -> Roster:
    """Load the data and share them out.

    Raises:
        DataError, ConfigError: they cannot be used, or are too few.
    """
    from ..knowledge.models import default_model

    train, test = _load(options)
    shares = partition(train.labels, options.nodes, options.alpha, options.seed)
    parts = []
    for number, share in enumerate(shares):
        model = default_model(train.space, "node") if train.space.is_table else NODE_MODELS[number % len(NODE_MODELS)]
        parts.append(Part(f"node-{number + 1}", model, train.subset(share), options.seed * 1000 + number))
    if options.anchor:
        model = default_model(train.space, "anchor")
        parts.append(Part(ANCHOR, model, None, options.seed * 1000 + options.nodes))
    return Roster(tuple(parts), train, test)


def parse_settings(pairs: Sequence[str]) -> dict[str, str]:
    """``["learning.distil_steps=60"]`` as a map. Raises ConfigError when one is not of that form."""
    settings = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not (name and separator):
            raise ConfigError(f"--set {pair}", "give NAME=VALUE, like learning.distil_steps=60")
        settings[name.strip()] = value.strip()
    return settings


def _load(options: ClusterOptions) -> tuple[Dataset, Dataset]:
    if options.data in BUILT_IN:
        train, test = load(options.data).dataset, load(f"{options.data}:test").dataset
    elif options.data.partition(":")[0] in BUILT_IN:
        raise ConfigError(
            f"data {options.data!r}",
            f"give {options.data.partition(':')[0]!r}: its test part is used to measure",
        )
    else:
        train, test = load(options.data).dataset.split(0.2, options.seed)
    rng = np.random.default_rng(options.seed)
    if options.samples:
        train = train.subset(rng.permutation(len(train))[: options.samples])
    if len(test) > MAX_TEST:
        test = test.subset(rng.permutation(len(test))[:MAX_TEST])
    return train, test
