"""The examples, run for real as a reader would run them, with less work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import psutil
import pytest
from meshlore.knowledge.sources import load
from meshlore.node.settings import write_settings
from meshlore.security.membership import found_mesh
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WAIT_S = 300  # a machine that does other things too
LITTLE_WORK = {
    "MESHLORE_LEARNING__CLASSIFIER_STEPS": "60",
    "MESHLORE_LEARNING__CONDENSE_STEPS": "10",
    "MESHLORE_LEARNING__SAMPLES_PER_CLASS": "10",
    "MESHLORE_LEARNING__DISTIL_STEPS": "100",
    "MESHLORE_LEARNING__GENERATOR_STEPS": "40",
}


def environment() -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MESHLORE_")}
    return plain | LITTLE_WORK | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start(*command: str | Path, more: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment() | dict(more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    try:
        output, _ = process.communicate(timeout=WAIT_S)
    finally:
        process.kill()
    return process.returncode, output


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of a running daemon that knows the digits 0 to 4."""
    folder = tmp_path_factory.mktemp("ann")
    space = load("digits").dataset.space
    found_mesh(folder, "examples", "ann", space.to_map(), ["node", "requester"], now=time.time())
    write_settings(folder / "config.toml", {"name": "ann", "data": "digits", "classes": ["0", "1", "2", "3", "4"]})
    daemon = start("-m", "meshlore", "run", "--home", folder)
    while not (folder / "control.sock").exists():
        assert daemon.poll() is None, daemon.communicate()[0]
        time.sleep(0.1)
    yield folder
    daemon.terminate()
    finished(daemon)


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 20)
def test_the_local_cluster_runs_and_everybody_learns(tmp_path: Path) -> None:
    command = ["examples/local_cluster.py", "--nodes", "2", "--samples", "120", "--output", tmp_path]
    code, output = finished(start(*command))
    assert code == 0, output
    assert "node-2 (mlp) has" in output
    assert Image.open(tmp_path / "mesh.png").width > 500


@pytest.mark.timeout(WAIT_S + 20)
def test_the_task_client_gets_answers_and_a_picture(home: Path, tmp_path: Path) -> None:
    code, output = finished(start("examples/task_client.py", "--home", home, "--output", tmp_path / "drawn.png"))
    assert code == 0, output
    assert "answered by ann (here)" in output
    assert "refused, as it should be: no class 'no such thing' in this mesh" in output
    assert Image.open(tmp_path / "drawn.png").width > 200


def test_the_task_client_says_when_there_is_no_daemon(tmp_path: Path) -> None:
    code, output = finished(start("examples/task_client.py", "--home", tmp_path))
    assert code == 5
    assert output.startswith("nobody to ask: no daemon runs in")
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 20)
def test_two_devices_with_own_data_and_an_own_model_teach_each_other() -> None:
    code, output = finished(start("examples/own_data_own_model.py", "--images", "40"))
    assert code == 0, output
    assert "joined mesh 'home' as 'bob'" in output
    assert "ann alone: " in output


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 20)
def test_an_anchor_adapts_a_pipeline_and_draws(tmp_path: Path) -> None:
    brief = ["--pretrain", "2", "--steps", "2", "--draw-steps", "1"]
    code, output = finished(start("examples/anchor_pipeline.py", *brief, "--output", tmp_path))
    assert code == 0, output
    assert Image.open(tmp_path / "drawn.png").size == (576, 480)


@pytest.mark.slow
@pytest.mark.timeout(WAIT_S + 20)
def test_a_device_that_misses_a_skill_fetches_it_and_answers_itself_from_then_on() -> None:
    # few samples are little evidence of what was learned, and then the task would go to who has more of it
    code, output = finished(start("examples/skills.py", more={"MESHLORE_LEARNING__SAMPLES_PER_CLASS": "40"}))
    assert code == 0, output
    assert "alone: 0.0% of 90 right, by bob" in output
    assert re.search(r"a skill of \d+ samples by ann: kept", output)
    assert re.search(r"after the skill: \d+\.\d% of 90 right, by bob in", output)
    assert "refused, as it should be: no class 'seven' in this mesh" in output


@pytest.mark.timeout(WAIT_S + 20)
def test_an_interrupted_example_leaves_no_process_behind() -> None:
    process = start("examples/own_data_own_model.py", "--images", "20")
    assert process.stdout is not None
    for line in process.stdout:
        if "action=Train" in line:
            break
    daemons = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    code, output = finished(process)
    assert daemons
    assert code == 130, output
    assert not [daemon for daemon in daemons if daemon.is_running()]


def test_the_status_page_names_every_field(home: Path) -> None:
    code, output = finished(start("-m", "meshlore", "status", "--home", home, "--json"))
    page = (ROOT / "docs" / "status.md").read_text(encoding="utf-8")
    first_cells = {line.split("|")[1] for line in page.splitlines() if line.startswith("| `")}
    documented = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    assert code == 0
    assert documented == set(json.loads(output))
