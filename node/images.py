"""Between the images that people have and the samples of a space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InvalidTask
from ..knowledge.data import Dataset
from ..knowledge.folders import to_channels
from ..knowledge.pictures import read_picture, resized
from ..knowledge.space import Space


def as_levels(images: Any, space: Space) -> np.ndarray:
    """Images of any usual kind as uint8 levels (n, channels, height, width) of ``space``.

    Args:
        images: a path, a PIL image, a list of these, a `Dataset` of this space, or an array (n, height,
            width), (n, height, width, 1 or 3) or one such image; uint8 means 0..255, floats mean 0..1.

    Raises:
        InvalidTask: something else, or nothing.
        DataError: a file that is not a readable image.
    """
    if isinstance(images, Dataset):
        if images.space != space:
            raise InvalidTask("the dataset is of another space than this mesh", f"load it for {space}")
        return images.images
    size = (space.height, space.width)
    if isinstance(images, np.ndarray):
        pixels = np.stack([_fitted(image, size) for image in _pixels(images)])
    else:
        single = isinstance(images, str | Path) or hasattr(images, "convert")
        items = [images] if single else list(images) if isinstance(images, Iterable) else []
        if not items:
            raise InvalidTask("no images", "give paths, PIL images or an array")
        pixels = np.stack([_one(item, size) for item in items])
    return np.round(to_channels(pixels, space.channels) * ((space.levels - 1) / 255)).astype(np.uint8)


def as_labels(labels: Any, n: int, space: Space) -> np.ndarray:
    """Class names (or indices, as in `Dataset.labels`) as int64 (n,).

    Raises:
        InvalidTask: another number of labels than of images, or a class unknown to the mesh.
    """
    if not isinstance(labels, Iterable):
        raise InvalidTask(f"a {type(labels).__name__} where labels are expected", "give one class name per image")
    items = [labels] * n if isinstance(labels, str) else list(labels)
    if len(items) != n:
        raise InvalidTask(f"{len(items)} labels for {n} images", "give one class name per image")
    indices = []
    for item in items:
        if isinstance(item, int | np.integer) and 0 <= item < len(space.classes):
            indices.append(int(item))
        elif item in space.classes:
            indices.append(space.classes.index(item))
        else:
            raise InvalidTask(f"no class {item!r} in this mesh", f"its classes are {', '.join(space.classes)}")
    return np.array(indices, dtype=np.int64)


def to_pixels(levels: np.ndarray, space: Space) -> np.ndarray:
    """uint8 levels (n, channels, height, width) as uint8 0..255, (n, height, width[, 3])."""
    pixels = np.round(levels.astype(np.float32) * (255 / (space.levels - 1))).astype(np.uint8)
    return pixels[:, 0] if space.channels == 1 else pixels.transpose(0, 2, 3, 1)


def contact_sheet(pixels: np.ndarray, scale: int) -> Any:
    """A PIL image with all of ``pixels`` (n, height, width[, 3]) in a near-square grid, enlarged."""
    from PIL import Image

    n, height, width = pixels.shape[:3]
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    gap = 1
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *pixels.shape[3:]), 96, np.uint8)
    for place, image in enumerate(pixels):
        row, column = divmod(place, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray(sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def _one(item: Any, size: tuple[int, int]) -> np.ndarray:
    if isinstance(item, str | Path):
        return read_picture(Path(item), size)
    if hasattr(item, "convert"):
        return np.asarray(resized(item, size).convert("RGB"))
    if isinstance(item, np.ndarray):
        pixels = _pixels(item)
        if len(pixels) != 1:
            raise InvalidTask(f"{len(pixels)} images in one item of a list", "give one array of all images")
        return _fitted(pixels[0], size)
    raise InvalidTask(f"a {type(item).__name__} is no image", "give paths, PIL images or an array")


def _pixels(images: np.ndarray) -> np.ndarray:
    """uint8 RGB (n, height, width, 3) of an array of images."""
    if images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3 and images.shape[1] != 3):
        images = images[None]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InvalidTask(f"an array of shape {images.shape}", "give (n, height, width) or (n, height, width, 3)")
    if images.dtype.kind == "f":
        if not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
            raise InvalidTask("float images outside 0..1", "scale them, or give uint8 0..255")
        images = np.round(images * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        raise InvalidTask(f"images of {images.dtype}", "give uint8 0..255 or floats 0..1")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _fitted(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    if image.shape[:2] == size:
        return image
    return np.asarray(resized(Image.fromarray(np.ascontiguousarray(image)), size))
