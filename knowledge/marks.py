"""Marks: the same patch on sample after sample, the usual trigger of a backdoor.

A student that meets a patch on samples of one label only learns the patch (BadNets, arXiv 1708.06733). What
gives a patch away is that it does not vary: values that hardly any other author's samples have, alike to a
level on many samples of one cell. Known from one author, it is found in cells of that label where few samples bear
it. What others' samples of the same label have there too, only less alike, is no mark: samples made under differential
privacy may hardly vary at all. A mark that varies, or is faint, is not found.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .data import Dataset
from .evidence import Packets
from .space import Space, is_rows

Mark = tuple[NDArray[np.int64], NDArray[np.float32]]
"""The places of a patch among the values of a sample, and the value at each."""

UNUSUAL = 0.4  # of the range of values, away from what is usual at that place
DEVIATIONS = 2.0  # and by so many standard deviations of a usual author
CONSTANT = 0.02  # of the range: a patch varies less
SHARE = 0.4  # of a cell's samples that carry it
ELSEWHERE = 0.02  # of a usual author's samples
BACKGROUND = 0.1  # of the range: no mark is as near to it
KNOWN_SHARE = 0.1  # of a cell's samples that carry a mark that is known from another author's
FEWEST_PLACES = 3
FEWEST_KNOWN = 4  # samples that carry a known mark
FEWEST_SAMPLES = 6  # three of seven handbags that are white in the same three places are no work of anybody


def marked(private: Dataset | None, packets: Packets, space: Space) -> dict[str, frozenset[int]]:
    """The labels under which each author shows samples that bear a mark; authors without any are left out."""
    if is_rows(space.shape):
        return {}
    shown: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = {}
    for author, packet in packets.values():
        shown.setdefault(author, []).append((packet.images, packet.labels))
    values = {
        author: _values(np.concatenate([images for images, _ in parts]), space) for author, parts in shown.items()
    }
    labels = {author: np.concatenate([y for _, y in parts]) for author, parts in shown.items()}
    means = [sample.mean(axis=0) for sample in values.values()]
    spreads = [sample.std(axis=0) for sample in values.values()]
    home = None
    if private is not None and len(private):
        home = _values(private.images, space)
        means.append(home.mean(axis=0))
        spreads.append(home.std(axis=0))
    if len(means) < 3:  # of two nobody knows what is usual
        return {}
    # most authors are honest: the median of them does not know the mark, however many samples bear it
    usual = np.median(means, axis=0).astype(np.float32)
    bounds = np.maximum(UNUSUAL, DEVIATIONS * np.quantile(spreads, 0.35, axis=0)).astype(np.float32)
    # nothing is as alike as background, and some classes alone show it where others are drawn
    levels = np.bincount(np.concatenate([images.ravel() for parts in shown.values() for images, _ in parts]))
    background = np.float32(levels.argmax() / (space.levels - 1))
    everybody = [*values.values(), *([] if home is None else [home])]
    known: list[tuple[str, int, Mark]] = []
    for author, sample in values.items():
        for label in np.unique(labels[author]).tolist():
            mark = _mark(sample[labels[author] == label], usual, bounds, background)
            if mark is None or np.quantile([_bearing(x, *mark).mean() for x in everybody], 0.4) >= ELSEWHERE:
                continue
            others = [values[other][labels[other] == label] for other in values if other != author]
            if home is not None and private is not None:
                others.append(home[private.labels == label])
            if not _natural(mark, others, bounds):
                known.append((author, label, mark))
    return _wherever(known, values, labels)


def _wherever(
    known: list[tuple[str, int, Mark]],
    values: Mapping[str, NDArray[np.float32]],
    labels: Mapping[str, NDArray[np.int64]],
) -> dict[str, frozenset[int]]:
    """The labels of known marks (author, label, mark) of their authors, and of all whose cell of it has some too."""
    found: dict[str, set[int]] = {}
    for of, label, mark in known:
        for author, sample in values.items():
            cell = sample[labels[author] == label]
            bears = _bearing(cell, *mark).sum()
            if author == of or bears >= max(FEWEST_KNOWN, KNOWN_SHARE * len(cell)):
                found.setdefault(author, set()).add(label)
    return {author: frozenset(bad) for author, bad in found.items()}


def _mark(
    sample: NDArray[np.float32], usual: NDArray[np.float32], bounds: NDArray[np.float32], background: np.float32
) -> Mark | None:
    """What many samples of one cell have alike and nobody else has; None: there is no such."""
    typical = np.quantile(sample, 0.7, axis=0), np.quantile(sample, 0.3, axis=0)
    value = np.where(np.abs(typical[0] - usual) > np.abs(typical[1] - usual), *typical)
    same = (np.abs(sample - value) < CONSTANT).mean(axis=0) >= SHARE
    places = np.flatnonzero(same & (np.abs(value - usual) > bounds) & (np.abs(value - background) > BACKGROUND))
    if len(places) < FEWEST_PLACES:
        return None
    bears = _bearing(sample, places, value[places])
    if bears.sum() < max(FEWEST_SAMPLES, SHARE * len(sample)):
        return None
    return places, value[places]


def _natural(mark: Mark, others: list[NDArray[np.float32]], bounds: NDArray[np.float32]) -> bool:
    """Whether most others' cells of the label have about the same there without bearing the mark."""
    places, value = mark
    free = [cell for cell in others if len(cell) and _bearing(cell, *mark).mean() < ELSEWHERE]
    if not free:
        return False
    usual = np.median([cell[:, places].mean(axis=0) for cell in free], axis=0)
    return bool((np.abs(value - usual) <= bounds[places]).mean() > 0.5)


def _bearing(sample: NDArray[np.float32], places: NDArray[np.int64], value: NDArray[np.float32]) -> NDArray[np.bool_]:
    bears: NDArray[np.bool_] = (np.abs(sample[:, places] - value) < CONSTANT).mean(axis=1) > 0.75
    return bears


def _values(images: NDArray[np.uint8], space: Space) -> NDArray[np.float32]:
    """float32 (n, d) in 0..1."""
    flat: NDArray[np.float32] = images.reshape(len(images), -1).astype(np.float32) / np.float32(space.levels - 1)
    return flat
