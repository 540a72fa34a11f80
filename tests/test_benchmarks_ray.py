"""What the benchmarks of Ray and of growth make of their figures."""

from __future__ import annotations

import pytest

from benchmarks.growth import growth_of
from benchmarks.ray import NOISE, ROUNDING, AnchorRow, Cell, ClusterRow, cells, judge, run_cell

HERE = Cell("in-process", 0, False, 10)


def row(cell: Cell, accuracy: float) -> AnchorRow:
    return AnchorRow(cell, accuracy, 1.0, 2.0, 0.5, 0.1, 10**6, 1.0)


@pytest.mark.parametrize(("off", "reached"), [(0.0, True), (ROUNDING / 2, True), (-2 * ROUNDING, False)])
def test_an_anchor_on_ray_must_come_to_what_it_comes_to_here(off: float, reached: bool) -> None:
    rows = [row(HERE, 0.9), row(Cell("ray", 2, True, 10), 0.9 + off)]
    assert [verdict[2] for verdict in judge(rows, [])] == [reached]


@pytest.mark.parametrize(("off", "reached"), [(NOISE / 2, True), (-2 * NOISE, False)])
def test_actors_must_learn_as_processes_do(off: float, reached: bool) -> None:
    clusters = [ClusterRow("processes", 0.3, 0.8, 9.0, 1), ClusterRow("actors of Ray", 0.3, 0.8 + off, 9.0, 1)]
    assert judge([row(HERE, 0.9)], clusters)[1][2] is reached


@pytest.mark.parametrize("quick", [True, False])
def test_there_is_always_a_row_without_ray_and_one_with_a_killed_worker(quick: bool) -> None:
    rows = cells(quick)
    assert rows[0].where == "in-process"
    assert any(cell.kill for cell in rows)
    assert len({cell.steps for cell in rows}) == 1


@pytest.mark.slow
def test_what_a_process_on_ray_prints_are_its_figures_alone() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install meshlore[cluster]")
    assert run_cell(Cell("ray", 1, False, 3)).train_s > 0


def test_a_study_that_did_not_settle_says_so() -> None:
    node = {"global_before": 0.2, "global_after": 0.6, "bytes_sent": 10}
    report = {
        "nodes": [node, node | {"global_after": 0.8}],
        "anchor": {"global": 0.9},
        "cost_per_node": {"cpu_s": 2.0, "learning_cpu_s": 1.0, "memory_bytes": 5},
        "wall_s": 3.0,
        "remarks": ["not settled within 3 s: figures so far"],
    }
    growth = growth_of(report)
    assert (growth.nodes, growth.together, growth.worst, growth.settled) == (2, pytest.approx(0.7), 0.6, False)
    assert growth_of(report | {"remarks": []}).settled
