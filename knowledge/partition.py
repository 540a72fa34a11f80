"""Sharing one dataset out over the nodes of a local cluster, so that each sees its own part of the world."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .data import Labels

FEWEST_PER_NODE = 20
TRIES = 200


def partition_dirichlet(labels: Labels, nodes: int, alpha: float, seed: int) -> list[NDArray[np.int64]]:
    """Indices for each node; the class shares are drawn from a Dirichlet distribution.

    Small ``alpha`` gives each node a few classes (Hsu et al., 2019, arXiv 1909.06335). Each node gets at
    least 20 samples and 2% of all (of half an even share, with very many nodes): the draw is repeated
    until that holds, and in the end samples move from the richest nodes to the poorest.

    Raises:
        DataError: fewer than 20 samples per node, or an alpha or a count of nodes that makes no sense.
    """
    if nodes < 1 or not 0.01 <= alpha <= 1e6:
        raise DataError(f"{nodes} nodes with alpha {alpha}", "use 1 or more nodes and alpha of 0.01 or more")
    if len(labels) < FEWEST_PER_NODE * nodes:
        raise DataError(
            f"{len(labels)} samples are too few for {nodes} nodes",
            f"use at most {len(labels) // FEWEST_PER_NODE} nodes ({FEWEST_PER_NODE} samples each)",
        )
    fewest = max(FEWEST_PER_NODE, int(min(0.02 * len(labels), len(labels) / (2 * nodes))))
    random = np.random.RandomState(seed)
    for _ in range(TRIES):
        parts = _draw(labels, nodes, alpha, random)
        if min(len(part) for part in parts) >= fewest:
            return parts
    return _level(parts, fewest, random)


def partition_overlapping(labels: Labels, nodes: int, alpha: float, seed: int) -> list[NDArray[np.int64]]:
    """As `partition_dirichlet`; where there are fewer than 20 samples per node, each is given to several nodes.

    No node is given a sample twice, so it may have a few less than 20.
    """
    owners = max(1, -(-FEWEST_PER_NODE * nodes // max(1, len(labels))))
    shares = partition_dirichlet(np.tile(labels, owners), nodes, alpha, seed)
    return [np.unique(share % len(labels)) for share in shares]


def partition_classes(labels: Labels, nodes: int, per_node: int, seed: int) -> list[NDArray[np.int64]]:
    """Indices for each node; every node sees ``per_node`` classes, shared out as evenly as can be.

    Raises:
        DataError: a node would stay without samples.
    """
    random = np.random.RandomState(seed)
    known = np.unique(labels)
    if nodes < 1 or not 1 <= per_node <= len(known):
        raise DataError(f"{nodes} nodes with {per_node} classes each", f"use 1 to {len(known)} classes")
    rounds = -(-nodes * per_node // len(known))
    # every round is a fresh shuffle of all classes, so no class is given out twice before each was once
    slots = np.concatenate([random.permutation(known) for _ in range(rounds)])
    owned = [set(slots[node * per_node : (node + 1) * per_node].tolist()) for node in range(nodes)]
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(nodes)]
    for label in known.tolist():
        owners = [node for node in range(nodes) if label in owned[node]]
        members = random.permutation(np.flatnonzero(labels == label))
        for node, share in zip(owners, np.array_split(members, max(len(owners), 1)), strict=False):
            parts[node].append(share)
    shares = [np.concatenate(part).astype(np.int64) for part in parts]
    if min(len(share) for share in shares) == 0:
        raise DataError(f"{len(labels)} samples are too few for {nodes} nodes", "use fewer nodes")
    return shares


def _draw(labels: Labels, nodes: int, alpha: float, random: np.random.RandomState) -> list[NDArray[np.int64]]:
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(nodes)]
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        shares = random.dirichlet([alpha] * nodes)
        if not np.isfinite(shares).all():  # every draw underflowed, which tiny alphas do
            shares = np.eye(nodes)[random.randint(nodes)]
        cuts = (np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for part, share in zip(parts, np.split(members, cuts), strict=True):
            part.append(share)
    return [np.concatenate(part).astype(np.int64) for part in parts]


def _level(parts: list[NDArray[np.int64]], fewest: int, random: np.random.RandomState) -> list[NDArray[np.int64]]:
    parts = [random.permutation(part) for part in parts]
    while len(parts[poorest := min(range(len(parts)), key=lambda node: len(parts[node]))]) < fewest:
        richest = max(range(len(parts)), key=lambda node: len(parts[node]))
        wanted = fewest - len(parts[poorest])
        moved = min(wanted, max(1, len(parts[richest]) - fewest))
        parts[poorest] = np.concatenate([parts[poorest], parts[richest][:moved]])
        parts[richest] = parts[richest][moved:]
    return parts
