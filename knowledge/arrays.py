"""Images in memory: arrays and PIL images of many kinds to pixels, and pixels to one sheet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidTask
from .pictures import read_picture, resized


def as_pixels(images: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paths, PIL images, a list of these, or an array as uint8 RGB (n, height, width, 3) of this size.

    Raises:
        InvalidTask: something else, or nothing.
        DataError: a file that is not a readable image.
    """
    if isinstance(images, np.ndarray):
        return np.stack([_fitted(image, size) for image in _pixels(images)])
    single = isinstance(images, str | Path) or hasattr(images, "convert")
    items = [images] if single else list(images) if isinstance(images, Iterable) else []
    if not items:
        raise InvalidTask("no images", "give paths, PIL images or an array")
    return np.stack([_one(item, size) for item in items])


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
