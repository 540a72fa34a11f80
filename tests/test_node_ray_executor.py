"""An anchor's work on Ray: the same as in-process, also when a worker is killed or Ray fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import deaf
import numpy as np
import psutil
import pytest
import torch
from meshlore.errors import ConfigError, Unreachable
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.executor import DRAWN_PER_SHARD, IN_PROCESS
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.lessons import Lessons
from meshlore.knowledge.models import build_model, to_tensor
from meshlore.knowledge.sources import load
from meshlore.node import ray_driver, ray_workers
from meshlore.node.ray_driver import Driver, started
from meshlore.node.ray_executor import RayExecutor, executor_of
from meshlore.node.ray_session import LOCAL
from meshlore.node.ray_workers import Workers
from meshlore.node.settings import Anchor, load_settings

from benchmarks.raylets import raylets

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


@contextmanager
def driving(address: str, workers: int) -> Iterator[Driver]:
    driver = Driver(address, workers, first_pause_s=0.2)
    try:
        yield driver
    finally:
        driver.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_worker_costs_the_step_in_flight_and_nothing_else() -> None:
    with driving(LOCAL, 2) as driver:
        executor, first = RayExecutor(driver), driver.process_ids()
        assert len(set(first)) == 2
        fractions = []

        def step(fraction: float) -> None:
            fractions.append(fraction)
            if len(fractions) == 4:
                os.kill(first[0], signal.SIGKILL)

        assert_same(student(executor, step), student(IN_PROCESS))
        assert fractions == [(turn + 1) / 8 for turn in range(8)], "no step is done twice"
        assert driver.process_ids()[1] == first[1]
        assert driver.process_ids()[0] != first[0]

        generator = fit_generator(DIGITS.images, DIGITS.labels, DIGITS.space, steps=3, seed=0)
        labels = np.arange(2 * DRAWN_PER_SHARD + 5) % 10
        drawn = executor.draw(generator, labels, seed=7)
        np.testing.assert_array_equal(drawn, IN_PROCESS.draw(generator, labels, seed=7))
        assert executor.draw(generator, labels[:0], seed=7).shape == (0, 1, 8, 8)
        assert executor.place == "its own Ray"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_killed_head_costs_the_step_in_flight_and_is_returned_to() -> None:
    with ExitStack() as cleanup:
        address = cleanup.enter_context(raylets([0, 1]))
        heads = [each for each in below() if each.name() in {"gcs_server", "raylet"}]
        assert len(heads) == 3
        driver = cleanup.enter_context(driving(address, 1))
        executor, fractions = RayExecutor(driver), []

        def step(fraction: float) -> None:
            fractions.append(fraction)
            if len(fractions) == 4:
                for each in heads:
                    each.kill()

        assert_same(student(executor, step), student(IN_PROCESS))
        assert fractions == [(turn + 1) / 8 for turn in range(8)], "no step is done twice"
        assert executor.place.startswith(f"in-process until Ray at {address} is back")

        cleanup.enter_context(raylets([0, 1], port=int(address.rpartition(":")[2])))
        while executor.place != f"Ray at {address}":
            time.sleep(0.1)
        assert_same(student(executor), student(IN_PROCESS))
        assert executor.place == f"Ray at {address}", "it was done there"


def below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


class NoCrew:
    """Workers that never answer."""

    place = "nowhere"

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 2

    def gradients(self, *_: Any) -> Any:
        self.asked += 1
        raise Unreachable("they are gone")

    drawings = gradients


def test_when_ray_does_not_answer_the_work_is_done_here() -> None:
    crew = NoCrew()
    assert_same(student(RayExecutor(crew)), student(IN_PROCESS))
    assert crew.asked == 8, "it asks again at each step"
    generator = fit_generator(DIGITS.images, DIGITS.labels, DIGITS.space, steps=3, seed=0)
    labels = np.arange(5)
    np.testing.assert_array_equal(
        RayExecutor(crew).draw(generator, labels, seed=7), IN_PROCESS.draw(generator, labels, seed=7)
    )


def test_a_process_that_does_not_read_what_it_is_asked_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_driver, "_drive", deaf.drive)
    monkeypatch.setattr(ray_driver, "SLACK_S", 0.2)
    monkeypatch.setattr(ray_workers, "ANSWER_S", 0.2)
    driver = Driver("head:1", 1, first_pause_s=3600)
    try:
        with pytest.raises(Unreachable):
            driver.gradients(bytes(8 << 20), [])
        assert driver.place.startswith("in-process until Ray at head:1 is back")
    finally:
        driver.close()


def test_workers_that_failed_are_not_waited_for_again() -> None:
    ray = FailingRay()
    workers = Workers(ray, 2)
    for _ in range(2):
        with pytest.raises(Unreachable, match=r"Ray does not answer \(it is gone\)"):
            workers.gradients(b"", [[], []])
    assert ray.asked == 1
    assert workers.place == "in-process, as Ray does not answer (it is gone)"


@pytest.mark.parametrize(
    ("cpus", "says"),
    [
        ({"CPU": 1.0}, "2 workers need a CPU each, and that Ray has 1: lower anchor.workers"),
        ({}, "2 workers need a CPU each, and that Ray has 0: lower anchor.workers"),
        ({"CPU": 2.0}, r"2 workers do not start on that Ray: .*it is gone.*: are as many CPUs free there"),
    ],
)
def test_workers_that_do_not_start_say_whether_the_ray_is_too_small(cpus: dict[str, float], says: str) -> None:
    ray = FailingRay(cpus)
    with pytest.raises(Unreachable, match=says):
        started(ray, Workers(ray, 2))


class NoRay(Exception):
    """What Ray raises in `FailingRay`."""


class FailingRay:
    """A Ray whose workers never answer."""

    exceptions = SimpleNamespace(RayError=NoRay)

    def __init__(self, resources: dict[str, float] | None = None) -> None:
        self.asked = 0
        self.cluster_resources = lambda: resources

    def remote(self, **_options: Any) -> Any:
        method = SimpleNamespace(remote=lambda *_: None)
        worker = SimpleNamespace(gradient=method, process_id=method)
        return lambda _kind: SimpleNamespace(remote=lambda: worker)

    def put(self, value: Any) -> Any:
        return value

    def get(self, _asked: Any, timeout: float) -> Any:
        self.asked += 1
        raise NoRay("it is gone\nwith a long story")


def test_what_normalises_over_a_batch_is_computed_here() -> None:
    crew = NoCrew()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    RayExecutor(crew).gradient(model, lambda net, batch: net(batch).square().mean(), [torch.ones(4, 3)])
    assert model[0].weight.grad is not None
    assert crew.asked == 0


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
    with pytest.raises(ConfigError, match=r"line 2: anchor.ray = 'http://head' is refused: give HOST:PORT"):
        load_settings(config, environment={})
