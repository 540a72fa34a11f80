"""The benchmark of what comes down from an anchor: its tables, and all of it with little work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.packet import SamplePacket
from meshlore.knowledge.sources import load
from meshlore.node.settings import Learning

from benchmarks import cycle, cycle_situations, knowledge_generation
from benchmarks.attack_harness import prepare_parts
from benchmarks.cycle_exchange import Village, anchored, cut_skill, everybody, heard, ring, taught, untaught

BRIEF = Learning(classifier_steps=2, condense_steps=1, distil_steps=2, generator_steps=1, samples_per_class=1)


def record(seed: int, neighbours: float, anchor: float) -> dict[str, Any]:
    def way(last: float) -> dict[str, Any]:
        return {"means": [0.2, 0.5, last], "worst": last - 0.1}

    ways = {"neighbours": way(neighbours), "neighbours and anchor": way(anchor)}
    return {"key": f"ring|{seed}|test", "situation": "ring", "seed": seed, "split": "test", "ways": ways, "cpu_s": 1.0}


@pytest.fixture(scope="module")
def village() -> Village:
    """Three nodes with one digit each."""
    train, test = load("digits").dataset, load("digits:test").dataset
    parts: list[Dataset] = [train.subset(np.flatnonzero(train.labels == label)[:30]) for label in range(3)]
    return untaught(prepare_parts(parts, test, 0, BRIEF))


def test_a_row_is_the_mean_of_all_seeds_and_its_gain_is_taken_seed_by_seed() -> None:
    neighbours, anchor = cycle.rows([record(0, 0.8, 0.9), record(1, 0.6, 0.5)])
    assert neighbours["means"] == pytest.approx([0.2, 0.5, 0.7])
    assert anchor["gains"] == pytest.approx([0.1, -0.1])
    assert anchor["worst"] == pytest.approx(0.4)
    table = cycle.markdown([neighbours, anchor])
    assert "| ring | neighbours | 0.200 | 0.500 | 0.700 | 0.500 |  |" in table
    assert "| ring | neighbours and anchor | 0.200 | 0.500 | 0.700 | 0.400 | +0.100, -0.100 |" in table


def test_what_is_known_is_not_run_again_and_a_torn_line_is(tmp_path: Path) -> None:
    path, asked = tmp_path / "out.jsonl", list[int]()
    path.write_text(json.dumps(record(0, 0.8, 0.9)) + "\n" + '{"key": "ring|1|te')

    def run(_situation: str, seed: int, _split: str) -> dict[str, Any]:
        asked.append(seed)
        return record(seed, 0.6, 0.6)["ways"]

    found = list(cycle.measure(["ring"], (0, 1), "test", cycle.read(path), run))
    assert (asked, [each["seed"] for each in found]) == ([1], [0, 1])


def test_everybody_hears_all_others_and_a_ring_the_two_beside() -> None:
    assert everybody(4)(1) == {0, 2, 3}
    assert ring(5)(0) == {1, 4}
    assert ring(2)(1) == {0}


def test_a_skill_brings_only_samples_that_are_not_here(village: Village) -> None:
    below = anchored(village, range(3), BRIEF)
    assert cut_skill(below, everybody(3))(0) == []
    nobody = cut_skill(below, lambda _place: frozenset())(0)
    packets = [entry.packet for entry in nobody]
    assert [set(packet.labels) for packet in packets if isinstance(packet, SamplePacket)] == [{1, 2}]


def test_a_lesson_takes_what_is_heard_and_tells_it_to_others(village: Village) -> None:
    first = taught(village, everybody(3), [0])
    assert (set(first.answers), first.lessons) == ({0}, 1)
    assert [entry.author for entry in heard(anchored(first, [0], BRIEF), frozenset({0}))] == [
        "node0",
        "node0",
        "anchor",
    ]


def test_the_command_knows_every_situation() -> None:
    assert tuple(cycle_situations.SITUATIONS) == cycle.NAMES


@pytest.mark.parametrize("situation", [name for name in cycle.NAMES if name != "ring"])
def test_every_situation_gives_shares_for_every_way(situation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge_generation, "ORACLE_STEPS", {"digits": 2})
    knowledge_generation._oracle.cache_clear()
    found = cycle_situations.SITUATIONS[situation](0, "validation", BRIEF)
    knowledge_generation._oracle.cache_clear()
    cycle_situations._at_home.cache_clear()
    assert len(found) >= 3
    assert cycle.REFERENCE in found
    assert len({way["means"][0] for way in found.values()}) == 1
    assert all(0 <= share <= 1 for way in found.values() for share in (*way["means"], way["worst"]))
