"""``meshlore cluster --in-process``: many nodes in one process, their cost, and an end at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from meshlore.errors import Cancelled
from meshlore.knowledge.partition import partition_overlapping
from meshlore.node.cli import app
from meshlore.node.shared_compute import SharedCompute
from typer.testing import CliRunner

LITTLE_WORK = {
    "samples_per_class": 4,
    "classifier_steps": 60,
    "condense_steps": 10,
    "distil_steps": 60,
    "generator_steps": 5,
}
SETTINGS = [part for name, value in LITTLE_WORK.items() for part in ("--set", f"learning.{name}={value}")]


def study(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "meshlore", "cluster", "--in-process", *SETTINGS, "-o", str(tmp_path / "out")]
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {"TMPDIR": str(tmp_path / "tmp"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_nodes_in_one_process_teach_each_other_and_their_cost_is_told(tmp_path: Path) -> None:
    process = study(tmp_path, "--nodes", "3", "--samples", "150", "--no-anchor", "--json", "--keep")
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert len(report["nodes"]) == 3
    assert report["anchor"] is None
    for node in report["nodes"]:
        assert node["global_after"] > node["global_before"]
        assert 0 < node["knowledge_bytes_sent"] < node["bytes_sent"]
    cost = report["cost_per_node"]
    assert 0 < cost["learning_cpu_s"] < cost["cpu_s"]
    assert cost["memory_bytes"] > 0
    assert (tmp_path / "out" / "homes" / "node-3" / "state" / "journal.bin").exists()
    assert list((tmp_path / "tmp").glob("meshlore-*")) == []


@pytest.mark.timeout(120)
def test_ctrl_c_ends_a_study_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    process = study(tmp_path, "--nodes", "12", "--set", "learning.condense_steps=100000")
    homes = tmp_path / "tmp"
    while not list(homes.glob("meshlore-*/node-12/state")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "meshlore: stopped"
    assert "Traceback" not in out + err
    assert list(homes.glob("meshlore-*")) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--nodes", "65"], "65 processes are too many for one machine: add --in-process"),
        (["--set", "learning.steps"], "give NAME=VALUE"),
        (["--set", "learning.steps=3"], "unknown setting 'learning.steps'"),
        (["--set", "seed=3"], "a cluster chooses that for each node"),
        (["--set", "seed=3", "--in-process"], "a cluster chooses that for each node"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: list[str], says: str) -> None:
    result = CliRunner().invoke(app, ["cluster", *options])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_where_samples_are_few_each_is_given_to_several_nodes_but_never_twice_to_one() -> None:
    labels = np.arange(300) % 3
    shares = partition_overlapping(labels, 40, 0.5, seed=1)
    assert len(shares) == 40
    assert all(len(share) == len(set(share.tolist())) for share in shares)
    assert sum(len(share) for share in shares) > 600
    enough = partition_overlapping(labels, 5, 0.5, seed=1)
    assert sorted(np.concatenate(enough).tolist()) == list(range(300))


def test_who_has_computed_least_goes_next() -> None:
    compute, order, busy = SharedCompute(), list[float](), threading.Event()

    def wait(computed_s: float) -> None:
        compute.run(lambda: order.append(computed_s), computed_s, lambda: None)

    first = threading.Thread(target=compute.run, args=(lambda: busy.wait(10), 0.0, lambda: None))
    first.start()
    others = [threading.Thread(target=wait, args=(seconds,)) for seconds in (3.0, 1.0, 2.0)]
    for place, other in enumerate(others, 1):
        other.start()
        while compute.waiting < place:
            time.sleep(0.001)
    busy.set()
    for thread in (first, *others):
        thread.join(10)
    assert order == [1.0, 2.0, 3.0]


def test_who_waits_for_a_turn_is_told_when_all_end() -> None:
    compute, busy = SharedCompute(), threading.Event()
    working = threading.Thread(target=compute.run, args=(lambda: busy.wait(10), 0.0, lambda: None))
    working.start()

    def close_soon() -> None:
        while not compute.waiting:
            time.sleep(0.001)
        compute.close()

    closing = threading.Thread(target=close_soon)
    closing.start()
    with pytest.raises(Cancelled):
        compute.run(lambda: None, 1.0, lambda: None)
    busy.set()
    closing.join(10)
    working.join(10)
    assert compute.waiting == 0
