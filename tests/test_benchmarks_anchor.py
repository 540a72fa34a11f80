"""The benchmark of anchors, with little work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_pipeline import save_tiny_pipeline

from benchmarks import anchor, knowledge_generation


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchor, "WORK", {"condense_steps": 2, "distil_steps": 6, "generator_steps": 2})
    monkeypatch.setattr(knowledge_generation, "ORACLE_STEPS", {"digits": 2})
    monkeypatch.setattr(knowledge_generation, "STUDENT_STEPS", 2)
    monkeypatch.setattr(knowledge_generation, "DRAWN_PER_CLASS", 3)
    knowledge_generation._oracle.cache_clear()
    yield
    knowledge_generation._oracle.cache_clear()


def test_it_prints_one_document_with_every_figure(
    brief: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_tiny_pipeline(tmp_path)
    capsys.readouterr()
    anchor.main(["--quick", "--json", "--validation", "--pipeline", str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found["classifiers"]] == ["flat", "mixture"]
    assert [row["kind"] for row in found["generators"]] == [
        "compact, from packets",
        "compact, from pooled real data",
        "pipeline as it is",
        "pipeline, cold",
        "pipeline, on from half",
    ]
    flat, mixture = found["classifiers"]
    assert (flat["experts"], mixture["experts"] > 1) == (1, True)
    assert mixture["part_parameters"] < flat["part_parameters"] == 1
    assert all(0 <= row[name] <= 1 for row in found["classifiers"] for name in ("cold", "incremental", "task"))
    assert all(row["cold_s"] > 0 and row["unlearn_s"] > 0 for row in found["classifiers"])


def test_tables_give_means_over_seeds() -> None:
    rows = [anchor.Drawings("compact", 5, seed, 0.5 + seed, 0.5, 0.25, 12.0 + seed, 3.0) for seed in (0, 1)]
    assert "| 5 | compact | 1.000 | 0.500 | 0.250 | 12.5 | 3.0 |" in anchor.table(rows, anchor.DRAWN)
