"""Images as people have them, turned into the levels of a space, and back."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import DataError, InvalidTask
from meshlore.knowledge.arrays import contact_sheet
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.samples import as_labels, as_levels, presented
from meshlore.knowledge.space import Space
from PIL import Image

GREY = Space((1, 8, 10), ("cat", "dog", "7"), levels=256)
DIGITS = Space((1, 8, 8), ("0", "1"), levels=17)
RGB = Space((3, 8, 10), ("cat", "dog"), levels=256)

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 8, 10), dtype=np.uint8)
COLOURS = np.random.default_rng(1).integers(0, 256, (2, 8, 10, 3), dtype=np.uint8)


def refused(images, space=GREY) -> str:
    with pytest.raises(InvalidTask) as caught:
        as_levels(images, space)
    return str(caught.value)


def test_path_pil_image_and_array_of_one_picture_give_the_same_levels(tmp_path):
    picture = Image.fromarray(PIXELS[0])
    picture.save(tmp_path / "p.png")
    for given_as in (
        str(tmp_path / "p.png"),
        tmp_path / "p.png",
        picture,
        [picture],
        PIXELS[0],
        PIXELS[:1],
        [PIXELS[0]],
    ):
        levels = as_levels(given_as, GREY)
        assert levels.dtype == np.uint8
        assert np.array_equal(levels, PIXELS[:1, None])


def test_a_mixed_list_keeps_its_order(tmp_path):
    Image.fromarray(PIXELS[1]).save(tmp_path / "p.png")
    levels = as_levels([PIXELS[0], tmp_path / "p.png", Image.fromarray(PIXELS[0])], GREY)
    assert np.array_equal(levels[:, 0], PIXELS[[0, 1, 0]])


def test_rgb_arrays_keep_their_channels_and_one_colour_image_is_not_taken_for_many_grey_ones():
    assert np.array_equal(as_levels(COLOURS, RGB), COLOURS.transpose(0, 3, 1, 2))
    assert np.array_equal(as_levels(COLOURS[0], RGB), COLOURS[:1].transpose(0, 3, 1, 2))
    assert as_levels(COLOURS, GREY).shape == (2, 1, 8, 10)


def test_a_grey_image_in_a_colour_space_has_three_equal_channels():
    levels = as_levels(PIXELS, RGB)
    assert all(np.array_equal(levels[:, channel], PIXELS) for channel in range(3))


def test_floats_mean_0_to_1_and_bytes_0_to_255():
    assert np.array_equal(as_levels(PIXELS / 255, GREY), as_levels(PIXELS, GREY))
    assert np.array_equal(as_levels((PIXELS / 255).astype(np.float32), GREY), as_levels(PIXELS, GREY))
    assert as_levels(np.full((8, 8), 1.0), DIGITS).max() == 16
    assert as_levels(np.full((8, 8), 255, np.uint8), DIGITS).max() == 16
    assert as_levels(np.full((8, 8), 1, np.uint8), DIGITS).max() == 0


def test_other_sizes_are_resized():
    levels = as_levels(np.full((3, 30, 20), 200, np.uint8), GREY)
    assert levels.shape == (3, 1, 8, 10)
    assert np.all(levels == 200)
    assert as_levels(Image.new("RGB", (64, 64), (9, 9, 9)), RGB).shape == (1, 3, 8, 10)


@pytest.mark.parametrize(
    ("images", "cause"),
    [
        (np.zeros((8, 10), np.int64), "images of int64"),
        (np.zeros((8, 10), bool), "images of bool"),
        (np.full((8, 10), 1.01), "float images outside 0..1"),
        (np.full((8, 10), -0.01), "float images outside 0..1"),
        (np.full((8, 10), np.nan), "float images outside 0..1"),
        (np.zeros(8, np.uint8), "an array of shape (8,)"),
        (np.zeros((2, 3, 8, 10), np.uint8), "an array of shape (2, 3, 8, 10)"),
        (np.zeros((2, 8, 10, 4), np.uint8), "an array of shape (2, 8, 10, 4)"),
        (np.zeros((0, 8, 10), np.uint8), "an array of shape (0, 8, 10"),
        ([], "no images"),
        (None, "no images"),
        (7, "no images"),
        ([7], "a int is no image"),
        ([PIXELS[0], None], "a NoneType is no image"),
        ([PIXELS], "2 images in one item"),
    ],
)
def test_what_is_no_image_is_refused_with_its_cause(images, cause):
    assert cause in refused(images)


def test_unreadable_files_are_refused_by_name(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("broken.png", "missing.png"):
        with pytest.raises(DataError, match=name):
            as_levels([tmp_path / name], GREY)


def test_a_dataset_of_this_space_passes_as_it_is_and_one_of_another_is_refused():
    levels = np.zeros((2, *DIGITS.shape), np.uint8)
    assert as_levels(Dataset(DIGITS, levels, np.array([0, 1])), DIGITS) is levels
    other = replace(DIGITS, version=2)
    assert "another space" in refused(Dataset(other, levels, np.array([0, 1])), DIGITS)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["dog", "cat"], [1, 0]),
        (("7", 0), [2, 0]),
        (np.array([2, 1]), [2, 1]),
        (np.array(["cat", "7"]), [0, 2]),
        ("dog", [1, 1]),
    ],
)
def test_labels_are_class_names_or_indices_and_one_name_stands_for_all(labels, expected):
    indices = as_labels(labels, 2, GREY)
    assert indices.dtype == np.int64
    assert indices.tolist() == expected


@pytest.mark.parametrize(
    ("labels", "cause"),
    [
        (["cat"], "1 labels for 2 samples"),
        (["cat", "cow"], "no class 'cow' in this mesh: its classes are cat, dog, 7"),
        ([0, 3], "no class 3"),
        ([0, -1], "no class -1"),
        ([0.0, 1.0], "no class 0.0"),
        ([None, "cat"], "no class None"),
        (1, "a int where labels are expected"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_cause(labels, cause):
    with pytest.raises(InvalidTask) as caught:
        as_labels(labels, 2, GREY)
    assert cause in str(caught.value)


@settings(deadline=None)
@given(
    levels=st.integers(2, 256),
    channels=st.sampled_from([1, 3]),
    n=st.integers(1, 3),
    seed=st.integers(0, 2**31 - 1),
)
def test_levels_become_pixels_and_the_same_levels_again(levels, channels, n, seed):
    space = Space((channels, 8, 9), ("a", "b"), levels=levels)
    before = np.random.default_rng(seed).integers(0, levels, (n, *space.shape)).astype(np.uint8)
    pixels = presented(before, space)
    assert pixels.shape == ((n, 8, 9) if channels == 1 else (n, 8, 9, 3))
    assert np.array_equal(as_levels(pixels, space), before)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_a_contact_sheet_shows_every_image_enlarged(n):
    sheet = contact_sheet(np.full((n, 8, 10), 255, np.uint8), scale=2)
    assert np.count_nonzero(np.asarray(sheet) == 255) == n * 8 * 10 * 4
    assert contact_sheet(COLOURS, scale=1).mode == "RGB"
