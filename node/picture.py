"""The picture of a cluster run: what was exchanged, what the generators learned, how accuracy grew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StateError
from ..knowledge.data import Dataset
from ..knowledge.samples import presented
from ..knowledge.space import Space

if TYPE_CHECKING:
    from .cluster import Cluster

Timeline = dict[str, list[tuple[float, float]]]
"""Per node: (seconds since the start, accuracy over all classes alike)."""

Samples = Mapping[str, np.ndarray]
Panel = Callable[[Any, Samples, set[str]], None]
"""Draws samples by class into axes, and marks the classes that the node has itself."""

MAX_CLASSES_DRAWN = 20
MAX_NODES_DRAWN = 12
ROWS_OF_SAMPLES = 3
OWN, FOREIGN = "#1a7f37", "#b54708"


@dataclass(frozen=True)
class Drawing:
    """What one node has to show.

    Attributes:
        own: names of the classes in its private data.
        samples, labels: what it published: uint8 levels (n, channels, height, width), and class names.
        before, after: generated samples per class, images 0..255 (n, height, width[, 3]) or rows (n, columns),
            by a generator of its own data only, and by one that learned from the mesh too.
    """

    name: str
    own: set[str]
    samples: np.ndarray
    labels: Sequence[str]
    before: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]


def draw(
    folder: Path, cluster: Cluster, drawings: Sequence[Drawing], timeline: Timeline, pooled: float | None
) -> list[Path]:
    """Write ``mesh.png`` into ``folder`` and return its path.

    Raises:
        StateError: it cannot be written.
    """
    from matplotlib.figure import Figure

    space = cluster.train.space
    classes = space.classes[:MAX_CLASSES_DRAWN]
    drawings = drawings[:MAX_NODES_DRAWN]
    row_inches = 2.4 if space.is_table else 1.55
    figure = Figure(figsize=(15, row_inches * len(drawings) + 4.2), dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(drawings) + 1, 3, height_ratios=[row_inches / 1.55] * len(drawings) + [2.6])
    panel = _scatter(cluster.train, classes) if space.is_table else _sheet(classes, space)
    titles = (
        "what it published: condensed samples of its own classes",
        "what its generator drew before the mesh",
        "and after (orange: classes that it never saw)"
        if not space.is_table
        else "and after (triangles: classes that it never saw)",
    )
    for row, drawing in enumerate(drawings):
        for column, (samples, title) in enumerate(
            zip((_published(drawing, classes, space), drawing.before, drawing.after), titles, strict=True)
        ):
            axes = figure.add_subplot(grid[row, column])
            panel(axes, samples, drawing.own)
            axes.set_yticks([])
            if row == 0:
                axes.set_title(title, fontsize=10)
            if column == 0:
                axes.set_ylabel(drawing.name, fontsize=9)
    _accuracy_plot(figure.add_subplot(grid[-1, :]), timeline, pooled)
    path = folder / "mesh.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise StateError(f"cannot write {path} ({error})", "choose another --output") from None
    return [path]


def _label_classes(axes: Any, classes: Sequence[str], own: set[str], space: Space) -> None:
    axes.set_xticks([(place + 0.5) * (space.width + 1) for place in range(len(classes))], classes, fontsize=7)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for text, name in zip(axes.get_xticklabels(), classes, strict=True):
        text.set_color(OWN if name in own else FOREIGN)


def _published(drawing: Drawing, classes: Sequence[str], space: Space) -> dict[str, np.ndarray]:
    samples, labels = presented(drawing.samples, space), np.array(drawing.labels, dtype=str)
    return {name: samples[labels == name] for name in classes}


def _sheet(classes: Sequence[str], space: Space) -> Panel:
    """A few images of each class, one column per class."""

    def panel(axes: Any, images: Samples, own: set[str]) -> None:
        sheet = _empty(ROWS_OF_SAMPLES, len(classes), space)
        for column, name in enumerate(classes):
            for row, image in enumerate(images.get(name, ())[:ROWS_OF_SAMPLES]):
                _place(sheet, image, row, column)
        axes.imshow(sheet, interpolation="nearest", cmap="gray", vmin=0, vmax=255)
        _label_classes(axes, classes, own, space)

    return panel


def _scatter(train: Dataset, classes: Sequence[str]) -> Panel:
    """Rows as points in the two first principal components of the real ones, which are drawn small."""
    space = train.space
    low, high = (np.array([getattr(column, side) for column in space.columns]) for side in ("low", "high"))
    real = (presented(train.images, space) - low) / (high - low)
    middle = real.mean(axis=0)
    directions = np.linalg.svd(real - middle, full_matrices=False)[2][:2].T
    cloud = (real - middle) @ directions

    def panel(axes: Any, rows: Samples, own: set[str]) -> None:
        for number, name in enumerate(classes):
            colour, marker = f"C{number % 10}", "o" if name in own else "^"
            axes.scatter(*cloud[train.labels == space.label_of(name)].T, s=2, color=colour, alpha=0.25, linewidths=0)
            points = (np.reshape(rows.get(name, ()), (-1, space.width)) - low) / (high - low)
            label = name if name in own else f"{name} (never saw)"
            axes.scatter(*((points - middle) @ directions).T, s=22, color=colour, marker=marker, label=label)
        axes.set_xticks([])
        axes.legend(fontsize=6, loc="best")

    return panel


def _empty(rows: int, columns: int, space: Space) -> np.ndarray:
    depth = () if space.channels == 1 else (3,)
    return np.full((rows * (space.height + 1), columns * (space.width + 1), *depth), 235, np.uint8)


def _place(sheet: np.ndarray, image: np.ndarray, row: int, column: int) -> None:
    height, width = image.shape[:2]
    top, left = row * (height + 1), column * (width + 1)
    sheet[top : top + height, left : left + width] = image


def _accuracy_plot(axes: Any, timeline: Timeline, pooled: float | None) -> None:
    end = max((points[-1][0] for points in timeline.values() if points), default=1.0)
    for name, points in timeline.items():
        if points:
            times, values = zip(*[*points, (end, points[-1][1])], strict=True)
            style = {"color": "black", "linewidth": 2} if name == "anchor" else {"marker": "o", "markersize": 4}
            axes.step(times, values, where="post", label=name, **style)
    if pooled is not None:
        axes.axhline(pooled, color="grey", linestyle="--", linewidth=1, label="all real data pooled")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("seconds since the start")
    axes.set_ylabel("accuracy, all classes alike")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2, loc="lower right")
