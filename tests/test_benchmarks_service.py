"""The benchmark of tasks as a service: what it measures is real, and what it asks for can be missed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.service import Figures, judge
from benchmarks.service_lane import Row, measure, same_outcome
from benchmarks.service_report import markdown
from benchmarks.service_tasks import Lesson, Way

WAYS = [
    Way(0, "alone", 0.1, 1.0, 2.0, 5.0),
    Way(0, "routed", 0.96, 0.0, 20.0, 40.0),
    Way(0, "after the skill", 0.95, 1.0, 3.0, 6.0),
]
LESSON = Lesson(0, 8, 320, 6.0, 2.0, True, 0.95, 0.96, "anchor")
ROWS = [
    Row(8, "lane", True, 0, 0, None, None, None, 4.0, 0.0),
    Row(8, "lane", True, 1, 20, 5.0, 9.0, 1.0, 4.1, 0.01),
    Row(8, "lane", True, 20, 400, 5.0, 9.0, 1.0, 5.0, 0.25),
]
GOOD = Figures(WAYS, [LESSON], ROWS, same_outcome=True)


def missed(figures: Figures) -> list[str]:
    return [verdict.target.partition(":")[0] for verdict in judge(figures) if not verdict.reached]


def test_good_figures_reach_every_target_and_are_shown() -> None:
    assert missed(GOOD) == []
    shown = markdown(GOOD.ways, GOOD.lessons, GOOD.lane)
    assert "| after the skill | 0.950 | 100% | 3 | 6 |" in shown
    assert "| 8x8 | lane | yes | 20 | 5.0 | 9.0 | 5.0 | 25% |  |" in shown


@pytest.mark.parametrize(
    ("worse", "target"),
    [
        ({"ways": [WAYS[0], replace(WAYS[1], accuracy=0.9), WAYS[2]]}, "accuracy of routed tasks"),
        ({"ways": [*WAYS[:2], replace(WAYS[2], served_here=0.5)]}, "share served at home after the skill"),
        ({"ways": [WAYS[0], replace(WAYS[1], accuracy=0.98), WAYS[2]]}, "accuracy that serving at home costs"),
        ({"lessons": [replace(LESSON, home_after=0.9)]}, "accuracy lost at home by the skill"),
        ({"lane": [ROWS[0], replace(ROWS[1], slow_down=0.5)]}, "training slowed down by one task a second"),
        ({"lane": [ROWS[0], replace(ROWS[1], in_turn=0.5)]}, "tasks that start before a second training step begins"),
        ({"same_outcome": False}, "training that is interrupted ends with the same weights"),
    ],
)
def test_worse_figures_miss_the_target_that_they_are_about(worse: dict[str, object], target: str) -> None:
    assert [name.partition(",")[0] for name in missed(replace(GOOD, **worse))] == [target]


def test_tasks_start_within_one_training_step_and_leave_training_as_it_was() -> None:
    rows = measure((8,), trial_s=0.5, repeats=1)
    lane = [row for row in rows if row.way == "lane" and row.training and row.tasks_per_s == 20]
    assert [(row.in_turn, row.tasks > 0) for row in lane] == [(1.0, True)]
    assert same_outcome()
