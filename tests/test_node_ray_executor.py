"""An anchor's work on Ray: the same as in-process, also when a worker is killed or Ray fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from meshlore.errors import ConfigError, Unreachable
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.executor import DRAWN_PER_SHARD, IN_PROCESS
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.lessons import Lessons
from meshlore.knowledge.models import build_model, to_tensor
from meshlore.knowledge.sources import load
from meshlore.node.ray_executor import RayExecutor, executor_of
from meshlore.node.ray_session import LOCAL, ray_session
from meshlore.node.settings import Anchor, load_settings

DIGITS = load("digits").dataset.subset(np.arange(80))
ANCHOR = frozenset({"anchor"})


def lessons() -> Lessons:
    images, labels = to_tensor(DIGITS.images, DIGITS.space), torch.from_numpy(DIGITS.labels)
    return Lessons(images, labels, torch.ones(len(labels)), 10, ())


def student(executor: Any, step: Any = lambda _fraction: None) -> torch.nn.Module:
    settings = DistilSettings(steps=8, private_batch=0, lesson_batch=24)
    model = build_model("mlp", DIGITS.space, 0)
    return distil(model, None, lessons(), settings=settings, seed=1, step=step, executor=executor)


def assert_same(one: torch.nn.Module, other: torch.nn.Module) -> None:
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_worker_costs_the_step_in_flight_and_nothing_else() -> None:
    with ray_session(LOCAL, cpus=2) as ray:
        executor = RayExecutor(ray, 2)
        first = executor.process_ids()
        assert len(set(first)) == 2
        fractions = []

        def step(fraction: float) -> None:
            fractions.append(fraction)
            if len(fractions) == 4:
                os.kill(first[0], signal.SIGKILL)

        assert_same(student(executor, step), student(IN_PROCESS))
        assert fractions == [(turn + 1) / 8 for turn in range(8)], "no step is done twice"
        assert executor.process_ids()[1] == first[1]
        assert executor.process_ids()[0] != first[0]

        generator = fit_generator(DIGITS.images, DIGITS.labels, DIGITS.space, steps=3, seed=0)
        labels = np.arange(2 * DRAWN_PER_SHARD + 5) % 10
        drawn = executor.draw(generator, labels, seed=7)
        np.testing.assert_array_equal(drawn, IN_PROCESS.draw(generator, labels, seed=7))
        assert executor.draw(generator, labels[:0], seed=7).shape == (0, 1, 8, 8)
        executor.close()


class NoRay(Exception):
    """What Ray raises in `FailingRay`."""


class FailingRay:
    """A Ray whose workers never answer."""

    exceptions = SimpleNamespace(RayError=NoRay)

    def __init__(self) -> None:
        self.asked = 0

    def remote(self, **_options: Any) -> Any:
        worker = SimpleNamespace(gradient=SimpleNamespace(remote=lambda *_: None))
        return lambda _kind: SimpleNamespace(remote=lambda: worker)

    def put(self, value: Any) -> Any:
        return value

    def get(self, _asked: Any, timeout: float) -> Any:
        self.asked += 1
        raise NoRay("it is gone\nwith a long story")


def test_when_ray_fails_for_good_the_work_goes_on_here() -> None:
    ray = FailingRay()
    executor = RayExecutor(ray, 2)
    assert_same(student(executor), student(IN_PROCESS))
    assert ray.asked == 1


def test_what_normalises_over_a_batch_is_computed_here() -> None:
    ray = FailingRay()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    RayExecutor(ray, 2).gradient(model, lambda net, batch: net(batch).square().mean(), [torch.ones(4, 3)])
    assert model[0].weight.grad is not None
    assert ray.asked == 0


@pytest.mark.parametrize(("settings", "roles"), [(Anchor(), ANCHOR), (Anchor(ray="nowhere:1"), frozenset({"node"}))])
def test_only_an_anchor_with_an_address_uses_ray(settings: Anchor, roles: frozenset[str]) -> None:
    with executor_of(settings, roles) as executor:
        assert executor is IN_PROCESS


def test_an_anchor_whose_ray_is_not_there_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with pytest.raises(Unreachable, match="no Ray answers at"), executor_of(Anchor(ray="127.0.0.1:1"), ANCHOR):
        pytest.fail("it started")


def test_an_address_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[anchor]\nray = "http://head"\n')
    with pytest.raises(ConfigError, match=r"line 2: anchor.ray = 'http://head' is refused"):
        load_settings(config, environment={})
