"""The ways of making samples that may travel, all held to the same rules."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from meshlore.knowledge.condense import CondenseSettings
from meshlore.knowledge.copies import distinct
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.flow import FlowSettings
from meshlore.knowledge.metrics import accuracy
from meshlore.knowledge.models import build_model, logits, to_tensor
from meshlore.knowledge.sample_source import SOURCES, SampleSource, SourceSettings
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import FitSettings, fit_classifier, no_step
from meshlore.node.learner import Learner
from meshlore.node.settings import Learning

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

DIGITS = load("digits").dataset
QUICK = SourceSettings(CondenseSettings(per_class=8, iterations=3), FlowSettings(), 20)


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest) -> SampleSource:
    return SOURCES[request.param]


def test_the_sources_are_those_of_the_configuration() -> None:
    assert set(get_args(Learning.model_fields["source"].annotation)) == SOURCES.keys()


def test_samples_repeat_with_the_seed_and_are_told_of_to_the_end(make: SampleSource) -> None:
    part, told = DIGITS.subset(np.arange(150)), []
    first = make(part, QUICK, seed=1, step=told.append, checkpoint=None)
    again, other = (make(part, QUICK, seed=seed, step=no_step, checkpoint=None) for seed in (1, 2))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images[:5], other.images[:5])
    assert told[-1] == pytest.approx(1.0)


def test_quotas_copy_filter_and_size_limit_hold(make: SampleSource) -> None:
    part = DIGITS.subset(np.arange(200))
    settings = replace(QUICK, samples=replace(QUICK.samples, size_limit_bytes=1500))
    samples = make(part, settings, seed=0, step=no_step, checkpoint=None)
    assert 0 < len(zlib.compress(samples.images.tobytes(), 9)) <= 1500
    assert np.bincount(samples.labels).max() <= 8
    assert (np.diff(samples.labels) >= 0).all()
    real, made = (to_tensor(images, part.space) for images in (part.images, samples.images))
    assert distinct(real, torch.from_numpy(part.labels), made, torch.from_numpy(samples.labels)).all()


def test_classes_of_too_few_samples_are_not_told_of(make: SampleSource) -> None:
    few = np.flatnonzero(DIGITS.labels == 3)[:4]
    part = DIGITS.subset(np.concatenate([few, np.flatnonzero(np.isin(DIGITS.labels, [1, 8]))]))
    assert set(make(part, QUICK, seed=0, step=no_step, checkpoint=None).labels) == {1, 8}
    assert len(make(DIGITS.subset(few[:2]), QUICK, seed=0, step=no_step, checkpoint=None)) == 0


def test_rows_of_a_table_are_made_too(make: SampleSource) -> None:
    wine = load("wine").dataset
    samples = make(wine, QUICK, seed=0, step=no_step, checkpoint=None)
    assert samples.images.shape[1:] == wine.space.shape
    assert set(samples.labels) == set(wine.labels)


def test_a_classifier_trained_on_generated_digits_alone_knows_real_ones() -> None:
    settings = SourceSettings(CondenseSettings(per_class=40), FlowSettings(), 250)
    samples = SOURCES["generated"](DIGITS, settings, seed=0, step=no_step, checkpoint=None)
    made = Dataset(DIGITS.space, samples.images, samples.labels)
    model = fit_classifier(
        build_model("cnn-small", DIGITS.space, 0), made, steps=150, seed=0, settings=FitSettings(learning_rate=4e-3)
    )
    test = load("digits:test").dataset
    assert accuracy(logits(model, test.images, test.space), test.labels) > 0.85


@pytest.mark.parametrize("source", SOURCES)
def test_a_node_publishes_from_the_source_that_it_is_told_to(source: str) -> None:
    settings = Learning(source=source, samples_per_class=4, condense_steps=2, generator_steps=5)
    packet = Learner(DIGITS.space, "node", "", DIGITS.subset(np.arange(100)), settings, 0).condense(no_step)
    assert packet is not None
    assert packet.source == source
    assert np.bincount(packet.labels).max() <= 4


def test_images_are_drawn_by_a_unet_where_that_is_asked_for() -> None:
    space = Space((3, 8, 8), ("dark", "bright"))
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(2), 30)
    images = (rng.integers(0, 60, (60, *space.shape)) + 180 * labels[:, None, None, None]).astype(np.uint8)
    flow = replace(FlowSettings.for_space(space, "unet"), width=8, batch_size=16, learning_rate=8e-3, averaging=0.9)
    settings = SourceSettings(CondenseSettings(per_class=4, dimensions=5), flow, 100)
    samples = SOURCES["generated"](Dataset(space, images, labels), settings, seed=0, step=no_step, checkpoint=None)
    means = [samples.images[samples.labels == label].mean() for label in (0, 1)]
    assert means[0] < 80 < 160 < means[1]
