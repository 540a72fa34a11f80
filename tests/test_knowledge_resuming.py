"""Long work that is killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled
from meshlore.knowledge.condense import CondenseSettings, condense
from meshlore.knowledge.flow import FlowSettings
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.resuming import Checkpoint
from meshlore.knowledge.sources import load
from meshlore.knowledge.training import Step, no_step
from meshlore.node.checkpoints import FileCheckpoint
from meshlore.node.learner import Learner
from meshlore.node.settings import Learning

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

DATA = load("digits").dataset.subset(np.arange(120))
SETTINGS = CondenseSettings(per_class=5, iterations=8)
Work = Callable[[Step, Checkpoint | None], list[np.ndarray]]


def condensing(step: Step, checkpoint: Checkpoint | None) -> list[np.ndarray]:
    return [condense(DATA, settings=SETTINGS, seed=3, step=step, checkpoint=checkpoint).images]


def generating(step: Step, checkpoint: Checkpoint | None, network: str = "mlp") -> list[np.ndarray]:
    settings = replace(FlowSettings.for_space(DATA.space, network), width=16, batch_size=8)
    made = fit_generator(
        DATA.images, DATA.labels, DATA.space, settings=settings, steps=8, seed=3, step=step, checkpoint=checkpoint
    )
    return [value.numpy() for value in made.state().values()]


WORKS = [condensing, generating, partial(generating, network="unet")]


def interrupted(work: Callable[[Step, Checkpoint | None], object], checkpoint: Checkpoint, fraction: float) -> None:
    def step(done: float) -> None:
        if done > fraction:
            raise Cancelled("the power is gone")

    with pytest.raises(Cancelled):
        work(step, checkpoint)


@pytest.mark.parametrize("work", WORKS, ids=["condensing", "generating", "generating with a UNet"])
def test_interrupted_work_ends_as_if_it_had_not_been_interrupted(work: Work, tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "in-progress", every_s=0)
    interrupted(work, checkpoint, 3 / 8)
    interrupted(work, checkpoint, 5 / 8)
    told: list[float] = []
    resumed = work(told.append, checkpoint)
    assert told == [6 / 8, 7 / 8, 1.0]
    assert all(np.array_equal(one, other) for one, other in zip(resumed, work(no_step, None), strict=True))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [{"seed": 4}, {"settings": replace(SETTINGS, learning_rate=0.2)}, {"data": DATA.subset(np.arange(119))}]
)
def test_other_work_does_not_go_on_with_it(change: dict[str, object], tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "in-progress", every_s=0)
    interrupted(condensing, checkpoint, 4 / 8)
    told: list[float] = []
    arguments = {"data": DATA, "settings": SETTINGS, "seed": 3} | change
    condense(**arguments, step=told.append, checkpoint=checkpoint)  # type: ignore[arg-type]
    assert len(told) == 8


def test_a_damaged_file_costs_no_more_than_the_time(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "in-progress", every_s=0)
    interrupted(condensing, checkpoint, 4 / 8)
    (tmp_path / "in-progress").write_bytes((tmp_path / "in-progress").read_bytes()[:-100])
    assert np.array_equal(condensing(no_step, checkpoint)[0], condensing(no_step, None)[0])


def test_a_file_that_cannot_be_written_does_not_end_the_work(tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "gone" / "in-progress", every_s=0)
    assert np.array_equal(condensing(no_step, checkpoint)[0], condensing(no_step, None)[0])


def test_work_that_is_quickly_done_writes_nothing(tmp_path: Path) -> None:
    writes: list[str] = []
    checkpoint = FileCheckpoint(tmp_path / "in-progress", every_s=3600)
    condense(
        DATA,
        settings=SETTINGS,
        seed=3,
        step=lambda _: writes.extend(path.name for path in tmp_path.iterdir()),
        checkpoint=checkpoint,
    )
    assert not writes


KILLED = """
import sys
from test_knowledge_resuming import learner
learner(sys.argv[1]).condense(lambda fraction: print(fraction, flush=True))
"""


def learner(folder: str | Path) -> Learner:
    settings = Learning(condense_steps=4000, samples_per_class=5)
    return Learner(
        DATA.space, "node", "", DATA, settings, 7, checkpoint=FileCheckpoint(Path(folder) / "in-progress", every_s=0)
    )


def test_a_node_killed_while_it_condenses_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    told: list[float] = []

    def first(fraction: float) -> None:
        told.append(fraction)
        raise Cancelled("seen enough")

    with pytest.raises(Cancelled):
        learner(tmp_path).condense(first)
    assert told[0] * 4000 >= 5
