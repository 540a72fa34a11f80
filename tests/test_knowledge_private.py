"""Knowledge under differential privacy: bounded statistics, and samples that are a function of these alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import PacketError
from meshlore.knowledge.builtin import digits
from meshlore.knowledge.data import Dataset, concatenate
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.lessons import assemble
from meshlore.knowledge.metrics import accuracy
from meshlore.knowledge.models import build_model, logits, to_tensor
from meshlore.knowledge.packet import decode, encode
from meshlore.knowledge.private import (
    SENSITIVITY,
    LowPass,
    Statistics,
    condense_private,
    coordinates,
    exact_sums,
    measure,
    noisy_counts,
    private_packet,
    record_vectors,
)
from meshlore.knowledge.space import Column, Space
from meshlore.knowledge.trust import Verdict

torch.set_num_threads(1)

GREY = Space((1, 8, 8), ("a", "b", "c"), levels=17)
COLOUR = Space((3, 20, 16), ("a", "b"))
TABLE = Space((1, 1, 5), ("a", "b"), columns=tuple(Column(f"c{i}", 0.0, 1.0) for i in range(5)))
SPACES = (GREY, COLOUR, TABLE)
NOISE = 1.0811  # epsilon 4, delta 1e-5


def noise_images(space: Space, n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, space.levels, (n, *space.shape)).astype(np.uint8)
    return Dataset(space, images, rng.integers(0, space.num_classes, n))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(SPACES),
    st.integers(0, 2**31),
    st.integers(0, 6),
    st.sampled_from(["noise", "black", "white", "stripes"]),
)
def test_one_record_more_or_less_moves_the_statistics_by_the_stated_bound_at_most(space, seed, others, kind):
    data, one = noise_images(space, others, seed), noise_images(space, 1, seed + 1)
    fill = {"black": 0, "white": space.levels - 1}.get(kind)
    images = one.images if fill is None else np.full_like(one.images, fill)
    if kind == "stripes":
        images = np.where(np.arange(space.width) % 2, space.levels - 1, 0).astype(np.uint8) * np.ones_like(one.images)
    more = concatenate([data, Dataset(space, images, one.labels)])
    difference = exact_sums(more) - exact_sums(data)
    assert np.linalg.norm(difference) <= SENSITIVITY + 1e-9
    np.testing.assert_allclose(
        difference[one.labels[0]], record_vectors(Dataset(space, images, one.labels))[0], atol=1e-9
    )


@pytest.mark.parametrize("space", SPACES, ids=["grey", "colour", "table"])
def test_coordinates_are_orthonormal_public_and_invertible(space):
    view = coordinates(space)
    np.testing.assert_allclose(view.basis @ view.basis.T, np.eye(len(view)), atol=1e-9)
    vectors = view.of(np.random.default_rng(0).uniform(-0.2, 0.1, (20, math.prod(space.shape))))
    assert (np.linalg.norm(vectors, axis=1) <= 1).all()
    smooth = view.values(vectors)
    np.testing.assert_allclose(view.values(view.of(smooth)), smooth, atol=0.2)


def test_the_noise_has_the_stated_deviation_in_every_number():
    data = noise_images(GREY, 50, 0)
    deviation = np.concatenate(
        [measure(data, 2.5, np.random.default_rng(seed)).sums - exact_sums(data) for seed in range(5)]
    )
    assert deviation.std() == pytest.approx(2.5 * SENSITIVITY, rel=0.05)
    assert abs(deviation.mean()) < 0.1


def test_a_class_without_records_gets_noise_like_any_other():
    data = noise_images(GREY, 50, 0)
    only_a = data.subset(np.flatnonzero(data.labels == 0))
    assert measure(only_a, 1.0, np.random.default_rng(1)).sums[2].std() == pytest.approx(1.0, rel=0.1)


def test_the_same_noisy_statistics_make_the_same_packet_whatever_the_data_were():
    noisy = measure(digits("train"), NOISE, np.random.default_rng(3)).sums
    space = digits("train").space
    packets = [private_packet(Statistics(space.id, space.classes, NOISE, noisy), space, 4.0, seed=1) for _ in range(2)]
    assert encode(packets[0]) == encode(packets[1])


def test_statistics_come_back_from_disk_as_they_were_even_when_the_space_has_grown():
    statistics = measure(noise_images(GREY, 400, 0), 0.5, np.random.default_rng(0))
    for space in (GREY, GREY.grown(["late"])):
        again = Statistics.from_bytes(statistics.to_bytes(), space)
        assert again.name == statistics.name
        assert noisy_counts(again, space)[:3].tolist() == noisy_counts(statistics, GREY).tolist()
        assert len(condense_private(again, space, seed=0))


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b"", lambda b: b.replace(b"noise", b"noisE")])
def test_damaged_statistics_are_refused(damage):
    statistics = measure(noise_images(GREY, 10, 0), 1.0, np.random.default_rng(0))
    with pytest.raises(PacketError):
        Statistics.from_bytes(damage(statistics.to_bytes()), GREY)
    with pytest.raises(PacketError, match="another space"):
        Statistics.from_bytes(statistics.to_bytes(), COLOUR)


def test_where_noise_drowns_everything_nothing_is_published():
    few = digits("train").subset(np.arange(60))
    statistics = measure(few, NOISE, np.random.default_rng(0))
    assert private_packet(statistics, few.space, 4.0, seed=0) is None


@pytest.mark.parametrize("space", SPACES, ids=["grey", "colour", "table"])
def test_samples_fit_the_space_and_a_packet(space):
    data = noise_images(space, 3000, 0)
    packet = private_packet(measure(data, 0.6, np.random.default_rng(0)), space, 8.0, per_class=10, seed=0)
    again = decode(encode(packet), space)
    assert again.epsilon == 8.0
    assert (np.bincount(again.labels, minlength=space.num_classes) >= 7).all()
    np.testing.assert_allclose(packet.class_counts, data.counts(), atol=40)


def test_samples_have_the_mean_of_their_class():
    data = digits("train")
    samples = condense_private(measure(data, 0.01, np.random.default_rng(0)), data.space, per_class=300, seed=0)
    for label in range(10):
        real, made = (part.images[part.labels == label].mean(axis=0) for part in (data, samples))
        assert np.abs(real - made).mean() < 1.0  # of 16 levels


def test_what_is_published_teaches_digits_at_epsilon_four():
    data, test = digits("train"), digits("test")
    packet = private_packet(measure(data, NOISE, np.random.default_rng(0)), data.space, 4.0, seed=0)
    lessons = assemble({"p": ("ann", packet)}, [], {"ann": Verdict(1.0, "own")}, data.space)
    fresh = LowPass(build_model("cnn-small", data.space, 0), data.space)
    taught = distil(fresh, None, lessons, settings=DistilSettings.for_anchor(), seed=0)
    assert accuracy(logits(taught, test.images, test.space), test.labels) > 0.8


def test_a_low_passed_classifier_sees_what_the_statistics_see():
    class Looks(torch.nn.Module):
        def forward(self, images):
            self.seen = images
            return torch.zeros(len(images), 2)

    looks = Looks()
    data = noise_images(COLOUR, 4, 0)
    LowPass(looks, COLOUR)(to_tensor(data.images, COLOUR))
    view = coordinates(COLOUR)
    flat = data.images.reshape(4, -1) * (2 / 255) - 1
    wanted = np.clip((flat - view.origin) @ view.basis.T @ view.basis + view.origin, -1, 1)
    np.testing.assert_allclose(looks.seen.reshape(4, -1).numpy(), wanted, atol=1e-4)
