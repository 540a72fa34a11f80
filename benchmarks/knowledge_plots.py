"""Two pictures per setting: accuracy against bytes, and accuracy against CPU seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .knowledge_report import ORDER
from .knowledge_results import Figures, Results, groups, mean_global, mean_of, node_cpu_s

INK, PALE = "#1f2430", "#c9ced8"
OURS, THEIRS, BOUNDS = "#c2410c", "#2563a8", "#6b7280"
REFERENCE = ("local", "pooled", "pooled-large")
FONT_PT = 8
ACCURACIES = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 1.0)


def draw(results: Results, folder: Path) -> list[Path]:
    """One PNG for each setting that has at least two methods; returns the files."""
    grouped = groups(results)
    made = []
    for place in sorted({group[:3] for group in grouped}):
        rows = {group[3]: runs for group, runs in grouped.items() if group[:3] == place and group[3] != "generation"}
        if len(rows) > 1:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"knowledge-{place[0]}-{place[1]}-{place[2]}.png"
            _draw_setting(place, rows, path)
            made.append(path)
    return made


def _draw_setting(place: tuple[str, str, int], rows: Mapping[str, list[Figures]], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    seeds = max(len(runs) for runs in rows.values())
    figure.suptitle(f"{place[0]}, {place[1]}, {place[2]} nodes: mean and range over {seeds} seed(s)", color=INK)
    for axis in (left, right):
        axis.set_yscale("function", functions=(_spread_top, _gather_top))
        axis.set_yticks(ACCURACIES, [f"{value:g}" for value in ACCURACIES])
    bytes_labels = _draw_axis(left, rows, lambda runs: _mean(runs, mean_of("moved_kb")) or None, 0)
    cpu_labels = _draw_axis(right, rows, lambda runs: _mean(runs, _all_cpu_s), 1)
    left.set(xlabel="kB in and out per node (log scale)", ylabel="accuracy over all classes, mean over nodes")
    right.set(xlabel="CPU seconds per node, the server's or anchor's shared out (log scale)")
    _write_labels(left, bytes_labels)
    _write_labels(right, cpu_labels)
    figure.savefig(path, dpi=figure.dpi)


def _spread_top(accuracy: Any) -> Any:
    """What matters lies between .8 and 1: the distance to 1.03, on a logarithmic scale."""
    return -np.log(np.maximum(1.03 - np.asarray(accuracy), 1e-6))


def _gather_top(place: Any) -> Any:
    return 1.03 - np.exp(-np.asarray(place))


def _draw_axis(
    axis: Any, rows: Mapping[str, list[Figures]], where: Any, curve_column: int
) -> list[tuple[float | None, float, str, str]]:
    """Points and curves of one axis; returns (x or None for a line across, y, name, colour) of each."""
    axis.set_xscale("log")
    axis.grid(color=PALE, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
    labels: list[tuple[float | None, float, str, str]] = []
    for name in sorted(rows, key=lambda row: ORDER.get(row, 99)):
        runs = rows[name]
        values = [value for value in map(mean_global, runs) if value is not None]
        at = where(runs)
        colour = OURS if name.startswith("ours") else THEIRS
        if name in REFERENCE and curve_column == 0:
            axis.axhline(np.mean(values), color=BOUNDS, linewidth=0.9, linestyle=(0, (4, 3)))
            labels.append((None, float(np.mean(values)), name, BOUNDS))
            continue
        if at is None or not values:
            continue
        mean = float(np.mean(values))
        reach = [[max(0.0, mean - min(values))], [max(0.0, max(values) - mean)]]  # equal values have no mean of floats
        axis.errorbar([at], [mean], yerr=reach, fmt="o", markersize=6, color=colour, capsize=2, linewidth=1)
        if curve := runs[0].get("curve"):
            axis.plot([point[curve_column] for point in curve], [point[2] for point in curve], color=colour, alpha=0.35)
        labels.append((at, mean, name, colour))
    low = min(value for _, value, _, _ in labels)
    axis.set_ylim(max(0.05, low - 0.08), 1.005)
    axis.set_xlim(_with_room(*axis.get_xlim()))
    return labels


def _with_room(start: float, end: float) -> tuple[float, float]:
    """Limits of a logarithmic axis with room for names at the right, and for a point that is alone."""
    if end < 4 * start:
        start, end = start / 2, end * 2
    return start, end * (end / start) ** 0.25


def _write_labels(axis: Any, labels: Sequence[tuple[float | None, float, str, str]]) -> None:
    """Names beside their points, moved up or down where they would lie on each other."""
    figure, left = axis.figure, axis.get_xlim()[0]
    figure.canvas.draw()  # until then nobody knows where a point lies
    points = [axis.transData.transform((left if at is None else at, value)) for at, value, _, _ in labels]
    unit = figure.dpi / 72
    line, letter = 1.25 * FONT_PT * unit, 0.56 * FONT_PT * unit
    dots = [(x - 5, x + 5, y - 5, y + 5) for x, y in points]
    taken: list[tuple[float, float, float, float]] = []
    for (x, y), (at, value, name, colour) in zip(points, labels, strict=True):
        start = x + 4 if at is None else x + 9
        for place in range(24):
            shift = (place + 1) // 2 * (1 if place % 2 else -1) * 0.6 * line
            box = (start, start + letter * len(name), y + shift - line / 2, y + shift + line / 2)
            if not any(_overlap(box, other) for other in [*taken, *dots]):
                break
        taken.append(box)
        axis.annotate(
            name,
            (left if at is None else at, value),
            xytext=((start - x) / unit, shift / unit),
            textcoords="offset points",
            color=colour,
            fontsize=FONT_PT,
            va="center",
            arrowprops={"arrowstyle": "-", "color": PALE, "linewidth": 0.6} if abs(shift) > line else None,
        )


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]


def _all_cpu_s(figures: Figures) -> float | None:
    """What a node spends, with its share of what was spent for all."""
    own = node_cpu_s(figures)
    if own is None:
        return None
    return own + float(figures.get("server_cpu_s", 0.0)) / len(figures["global"])


def _mean(runs: Sequence[Figures], figure: Any) -> float | None:
    values = [value for value in map(figure, runs) if value is not None]
    return float(np.mean(values)) if values else None
