"""The flow generator."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled, ModelError
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.flow import FlowSettings
from meshlore.knowledge.generator import FlowGenerator, fit_generator
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import fit_classifier

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits").dataset


@pytest.fixture(scope="module")
def some(digits: Dataset) -> Dataset:
    return digits.subset(np.flatnonzero(np.isin(digits.labels, [0, 1, 4, 6])))


@pytest.fixture(scope="module")
def generator(some: Dataset) -> FlowGenerator:
    return fit_generator(some.images, some.labels, some.space, steps=250, seed=0)


def test_what_it_draws_is_what_was_asked_for(digits: Dataset, generator: FlowGenerator) -> None:
    oracle = fit_classifier(build_model("cnn-small", digits.space, 0), digits, steps=250, seed=0)
    wanted = np.repeat(np.array([0, 1, 4, 6]), 25)
    drawn = generator.sample(wanted, seed=5)
    assert (logits(oracle, drawn, digits.space).argmax(axis=1) == wanted).mean() > 0.9


def test_drawing_repeats_with_the_seed(generator: FlowGenerator) -> None:
    labels = np.array([0, 1, 4])
    assert np.array_equal(generator.sample(labels, seed=1), generator.sample(labels, seed=1))
    assert not np.array_equal(generator.sample(labels, seed=1), generator.sample(labels, seed=2))


def test_fitting_repeats_with_the_seed_and_leaves_global_randomness_alone(some: Dataset) -> None:
    before = torch.random.get_rng_state()
    first, again = (fit_generator(some.images, some.labels, some.space, steps=3, seed=7).state() for _ in "ab")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(before, torch.random.get_rng_state())


def test_classes_it_never_saw_are_drawn_without_a_crash(generator: FlowGenerator) -> None:
    assert torch.where(generator.seen)[0].tolist() == [0, 1, 4, 6]
    drawn = generator.sample(np.array([9, 9]), seed=0)
    assert drawn.shape == (2, 1, 8, 8)
    assert drawn.dtype == np.uint8
    assert drawn.max() <= 16


def test_no_labels_give_no_images(generator: FlowGenerator) -> None:
    assert generator.sample(np.zeros(0, np.int64), seed=0).shape == (0, 1, 8, 8)


def test_it_comes_back_from_its_state(generator: FlowGenerator) -> None:
    back = FlowGenerator.from_state(generator.state(), generator.space)
    labels = np.array([0, 6, 3])
    assert np.array_equal(back.sample(labels, seed=3), generator.sample(labels, seed=3))


def test_a_damaged_or_foreign_state_is_refused(generator: FlowGenerator) -> None:
    state = generator.state()
    with pytest.raises(ModelError):
        FlowGenerator.from_state({name: state[name] for name in list(state)[1:]}, generator.space)
    with pytest.raises(ModelError):
        FlowGenerator.from_state(state, Space((1, 28, 28), generator.space.classes))
    with pytest.raises(ModelError):
        FlowGenerator.from_state(state, Space((1, 8, 8), ("a", "b"), levels=17))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28)])
def test_larger_images_and_single_samples_are_learned_from(shape: tuple[int, int, int]) -> None:
    space = Space(shape, ("a", "b", "c"))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, *shape)).astype(np.uint8)
    settings = FlowSettings.for_space(space)
    made = fit_generator(images, np.array([1, 1, 2]), space, settings=settings, steps=2, seed=0)
    assert made.sample(np.array([0, 1, 2]), seed=0).shape == (3, *shape)
    alone = fit_generator(images[:1], np.array([1]), space, steps=2, seed=0)
    assert alone.sample(np.array([1]), seed=0).shape == (1, *shape)


def test_a_unet_comes_back_from_its_state_and_takes_up_classes_whatever_the_sides_are() -> None:
    space = Space((1, 9, 13), ("a", "b"))
    images = np.random.default_rng(0).integers(0, 256, (4, *space.shape)).astype(np.uint8)
    settings = replace(FlowSettings.for_space(space, "unet"), batch_size=2)
    made = fit_generator(images, np.array([0, 0, 1, 1]), space, settings=settings, steps=2, seed=0)
    grown = made.grown(space.grown(["c"]))
    back = FlowGenerator.from_state(grown.state(), grown.space)
    labels = np.array([0, 1, 2])
    assert np.array_equal(grown.sample(labels[:2], seed=3, steps=2), made.sample(labels[:2], seed=3, steps=2))
    assert np.array_equal(back.sample(labels, seed=3, steps=2), grown.sample(labels, seed=3, steps=2))


def test_a_unet_is_refused_for_tables() -> None:
    with pytest.raises(ModelError, match="draws images"):
        FlowSettings.for_space(load("wine").dataset.space, "unet")


def test_samples_of_weight_zero_are_not_learned(some: Dataset) -> None:
    weights = np.where(some.labels == 6, 0.0, 1.0)
    made = fit_generator(some.images, some.labels, some.space, weights=weights, steps=2, seed=0)
    assert torch.where(made.seen)[0].tolist() == [0, 1, 4]


def test_a_step_that_raises_stops_the_fit(some: Dataset) -> None:
    def stop(fraction: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        fit_generator(some.images, some.labels, some.space, steps=5, seed=0, step=stop)


def test_two_threads_may_import_from_diffusers_at_once():
    code = """
import threading
from meshlore.knowledge.flow import from_diffusers
found = []
threads = [threading.Thread(target=lambda: found.append(from_diffusers("UNet2DModel"))) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 4, found
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0
