"""What devices see through other cameras, and that whoever sees the same is believed."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cameras import SAME, SETS, refuted
from benchmarks.colours import PAINTS, painted_shapes


@pytest.mark.parametrize(
    ("name", "camera"), [(name, camera) for name in ("digits", "digits in one ink") for camera in SETS[name][1]]
)
def test_a_camera_changes_what_some_devices_see_and_nothing_but_that(name: str, camera: str) -> None:
    see, images = SETS[name][1][camera], np.random.default_rng(1).integers(0, 17, (3, 3, 8, 8)).astype(np.float64)
    changed = [not np.array_equal(see(images, 16, place, np.random.default_rng(place)), images) for place in (0, 1)]
    assert changed == [camera.startswith("white"), see is not SAME]
    assert see(images, 16, 1, np.random.default_rng(0)).shape == images.shape


def test_painted_shapes_differ_in_colour_alone() -> None:
    shapes = painted_shapes(16, per_class=40)
    colours = [shapes.images[shapes.labels == label][:, :, 6:10, 6:10].mean(axis=(0, 2, 3)) for label in range(10)]
    for label, paint in enumerate(PAINTS):
        assert colours[label] == pytest.approx(0.975 * paint, abs=12)
        assert colours[label + len(PAINTS)] == pytest.approx(0.975 * paint, abs=12)


def test_devices_that_see_the_same_refute_nobody() -> None:
    assert refuted(SETS["digits"][0](), SAME, "iid", 2, draws=1) == (0, 20)
