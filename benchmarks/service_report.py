"""The tables of `benchmarks.service`, in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .service_lane import Row
    from .service_tasks import Lesson, Way


def markdown(ways: Sequence[Way], lessons: Sequence[Lesson], rows: Sequence[Row]) -> str:
    """All tables of what was measured."""
    tables = [_ways(ways), _lessons(lessons)] if ways else []
    return "\n\n".join([*tables, _lane(rows)] if rows else tables)


def _ways(ways: Sequence[Way]) -> str:
    lines = ["| tasks about foreign classes | accuracy | served at home | p50 ms | p99 ms |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(way.way for way in ways):
        of = [way for way in ways if way.way == name]
        accuracy, here = (statistics.mean(getattr(way, key) for way in of) for key in ("accuracy", "served_here"))
        p50_ms, p99_ms = (statistics.mean(getattr(way, key) for way in of) for key in ("p50_ms", "p99_ms"))
        lines.append(f"| {name} | {accuracy:.3f} | {here:.0%} | {p50_ms:.0f} | {p99_ms:.0f} |")
    return "\n".join(lines)


def _lessons(lessons: Sequence[Lesson]) -> str:
    lines = ["| the skill | samples | from | CPU s | s | at home before | after |", "|---|---|---|---|---|---|---|"]
    for one in lessons:
        cost = f"{one.samples} | {one.teacher} | {one.cpu_s:.1f} | {one.took_s:.1f}"
        lines.append(
            f"| seed {one.seed}, {one.classes} classes | {cost} | {one.home_before:.3f} | {one.home_after:.3f} |"
        )
    return "\n".join(lines)


def _lane(rows: Sequence[Row]) -> str:
    lines = [
        "| samples | way | training | tasks/s | p50 ms | p99 ms | CPU ms per step | slow-down | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        pays = f"{row.slow_down:.0%}" if row.slow_down is not None else ""
        figures = " | ".join("" if ms is None else f"{ms:.1f}" for ms in (row.p50_ms, row.p99_ms, row.step_ms))
        doing = "yes" if row.training else "no"
        what = f"{row.side}x{row.side} | {row.way} | {doing} | {row.tasks_per_s}"
        lines.append(f"| {what} | {figures} | {pays} | {row.refused or ''} |")
    return "\n".join(lines)
