"""Condensation, near-copies and principal components."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled
from meshlore.knowledge.augment import Views, own_views, same_view
from meshlore.knowledge.basis import principal_components
from meshlore.knowledge.condense import CondenseSettings, condense, gaussian
from meshlore.knowledge.copies import distinct
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.metrics import accuracy
from meshlore.knowledge.models import build_model, logits, to_tensor
from meshlore.knowledge.packet import SamplePacket, encode
from meshlore.knowledge.selection import select
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import FitSettings, fit_classifier

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

QUICK = CondenseSettings(per_class=8, iterations=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits").dataset


def blobs(space: Space, per_class: list[int], seed: int = 0) -> Dataset:
    """Images whose classes differ by where they are bright."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(per_class)), per_class).astype(np.int64)
    images = rng.integers(0, space.levels // 2, (len(labels), *space.shape)).astype(np.uint8)
    for place, label in enumerate(labels):
        images[place, :, label % space.height, :] = space.levels - 1
    return Dataset(space, images, labels)


def test_a_classifier_trained_on_condensed_digits_alone_knows_real_ones(digits: Dataset) -> None:
    samples = condense(digits, settings=CondenseSettings(per_class=30, iterations=25), seed=1)
    made = Dataset(digits.space, samples.images, samples.labels)
    model = fit_classifier(
        build_model("cnn-small", digits.space, 0), made, steps=150, seed=0, settings=FitSettings(learning_rate=4e-3)
    )
    test = load("digits:test").dataset
    assert accuracy(logits(model, test.images, test.space), test.labels) > 0.88


def test_condensing_is_deterministic_given_the_seed_and_leaves_global_randomness_alone(
    digits: Dataset,
) -> None:
    part = digits.subset(np.arange(200))
    before = torch.random.get_rng_state()
    first, again = condense(part, settings=QUICK, seed=3), condense(part, settings=QUICK, seed=3)
    other = condense(part, settings=QUICK, seed=4)
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images[:5], other.images[:5])
    assert torch.equal(before, torch.random.get_rng_state())


def test_samples_are_sorted_by_class_and_within_levels(digits: Dataset) -> None:
    samples = condense(digits.subset(np.arange(200)), settings=QUICK, seed=0)
    assert samples.images.dtype == np.uint8
    assert samples.images.max() <= 16
    assert (np.diff(samples.labels) >= 0).all()


def test_images_travel_in_few_shades_that_span_all_and_rows_keep_their_values() -> None:
    grey = blobs(Space((1, 16, 16), ("a", "b"), levels=256), [40, 40])
    samples = condense(grey, settings=replace(QUICK, shades=5), seed=0)
    assert set(np.unique(samples.images).tolist()) <= {0, 64, 128, 191, 255}
    assert samples.images.min() == 0
    rows = load("wine").dataset
    assert len(np.unique(condense(rows, settings=replace(QUICK, shades=5), seed=0).images)) > 5


def test_a_class_gives_at_most_half_as_many_samples_as_it_has_images() -> None:
    space = Space((1, 8, 8), ("a", "b", "c", "d"), levels=17)
    data = blobs(space, [4, 9, 10, 30])
    counts = np.bincount(condense(data, settings=replace(QUICK, per_class=40), seed=0).labels, minlength=4)
    assert counts[0] == 0
    assert counts[1] == 0
    assert 1 <= counts[2] <= 5
    assert 8 <= counts[3] <= 15


def test_where_all_classes_are_small_those_of_three_images_are_used() -> None:
    space = Space((1, 8, 8), ("a", "b", "c"), levels=17)
    assert set(condense(blobs(space, [8, 2, 6]), settings=QUICK, seed=0).labels) == {0, 2}


def test_too_few_images_of_everything_give_no_samples() -> None:
    space = Space((1, 8, 8), ("a", "b"), levels=17)
    samples = condense(blobs(space, [2, 2]), seed=0)
    assert len(samples) == 0
    assert samples.images.shape == (0, 1, 8, 8)


def test_small_classes_are_condensed_when_the_minimum_is_lowered() -> None:
    space = Space((1, 8, 8), ("a", "b", "c"), levels=17)
    settings = replace(QUICK, class_minimum=3)
    counts = np.bincount(condense(blobs(space, [3, 5, 9]), settings=settings, seed=0).labels, minlength=3)
    assert (counts > 0).all()


def test_the_byte_limit_holds_and_shortens_the_largest_classes_first(digits: Dataset) -> None:
    free = condense(digits, settings=CondenseSettings(iterations=2), seed=0)
    limited = condense(digits, settings=CondenseSettings(iterations=2, size_limit_bytes=3000), seed=0)
    assert len(zlib.compress(free.images.tobytes(), 9)) > 6000
    assert len(zlib.compress(limited.images.tobytes(), 9)) <= 3000
    counts = np.bincount(limited.labels, minlength=10)
    assert counts.max() - counts.min() <= 3


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 9, 13)])
def test_any_shape_is_condensed(shape: tuple[int, int, int]) -> None:
    space = Space(shape, ("a", "b"))
    settings = replace(CondenseSettings.for_space(space), iterations=2, per_class=4)
    samples = condense(blobs(space, [14, 12]), settings=settings, seed=0)
    assert samples.images.shape[1:] == shape
    assert set(samples.labels) == {0, 1}


def test_a_single_class_and_a_hundred_classes_are_condensed() -> None:
    alone = blobs(Space((1, 8, 8), ("a", "b"), levels=17), [20])
    assert set(condense(alone, settings=QUICK, seed=0).labels) == {0}
    space = Space((1, 8, 8), tuple(f"c{label}" for label in range(100)), levels=17)
    many = condense(blobs(space, [10] * 100), settings=replace(QUICK, per_class=2, class_minimum=5), seed=0)
    assert len(set(many.labels.tolist())) > 80


@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 110), ((3, 64, 64), 20)])
def test_what_is_made_of_many_classes_fits_a_packet(shape: tuple[int, int, int], classes: int) -> None:
    space = Space(shape, tuple(f"c{label}" for label in range(classes)), levels=17)
    settings = CondenseSettings(per_class=40, dimensions=10)
    samples = gaussian(blobs(space, [80] * classes), settings=settings, seed=0)
    counts = np.bincount(samples.labels, minlength=classes)
    assert counts.min() >= 1
    assert counts.max() <= 37
    packet = SamplePacket(space.id, "gaussian", samples.images, samples.labels, None, np.full(classes, 80))
    assert encode(packet)


def test_where_not_every_class_fits_those_with_most_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{select.__module__}.MAX_SAMPLES", 2)
    space = Space((1, 8, 8), ("a", "b", "c"), levels=17)
    samples = gaussian(blobs(space, [12, 40, 30]), settings=QUICK, seed=0)
    assert samples.labels.tolist() == [1, 2]


def test_a_step_that_raises_stops_the_work(digits: Dataset) -> None:
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) == 2:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        condense(digits.subset(np.arange(100)), settings=replace(QUICK, iterations=50), seed=0, step=stop)
    assert seen == [pytest.approx(0.02), pytest.approx(0.04)]


def test_the_gaussian_start_alone_is_a_source_too(digits: Dataset) -> None:
    samples = gaussian(digits, settings=CondenseSettings(per_class=10), seed=0)
    assert np.array_equal(np.unique(samples.labels), np.arange(10))


def test_copies_of_private_images_are_filtered_out(digits: Dataset) -> None:
    private = digits.subset(np.arange(300))
    images, labels = to_tensor(private.images, private.space), torch.from_numpy(private.labels)
    assert not distinct(images, labels, images, labels).any()
    assert not distinct(images, labels, images + 0.01, labels).any()
    far = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert distinct(images, labels, far, labels[:50]).all()


def test_published_samples_are_no_nearer_to_private_images_than_private_images_are(digits: Dataset) -> None:
    private = digits.subset(np.arange(400))
    samples = condense(private, settings=CondenseSettings(iterations=20), seed=0)
    images, labels = to_tensor(private.images, private.space), torch.from_numpy(private.labels)
    assert distinct(images, labels, to_tensor(samples.images, private.space), torch.from_numpy(samples.labels)).all()


def test_principal_components_are_orthonormal_whichever_side_is_smaller() -> None:
    random = torch.Generator().manual_seed(0)
    for count, width in ((50, 200), (200, 50)):
        rows = torch.randn(count, width, generator=random) * torch.linspace(3, 0.1, width)
        rows = rows - rows.mean(dim=0)
        directions, variance = principal_components(rows, 10)
        assert torch.allclose(directions.T @ directions, torch.eye(10), atol=1e-3)
        assert torch.allclose((rows @ directions).square().mean(dim=0), variance, rtol=1e-2)


def test_views_repeat_with_the_seed_and_none_leaves_images_alone() -> None:
    batch = torch.rand(4, 3, 16, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1
    still = Views(rotation_deg=0, shift=0)
    assert torch.allclose(own_views(batch, still, torch.Generator()), batch, atol=1e-5)
    lively = Views(15, 0.2, 0.1, 0.3, 0.5, 0.5)
    first = same_view([batch, batch], lively, torch.Generator().manual_seed(2))
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], same_view([batch], lively, torch.Generator().manual_seed(2))[0])
