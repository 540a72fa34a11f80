"""Pictures to learn from: circles, crosses, squares and triangles, drawn on the spot."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE_PX = 24


def draw(shape: str, random: np.random.Generator) -> Image.Image:
    """One bright shape of some size and tint, about in the middle of a dark ground."""
    tint, ground = tuple(random.integers(150, 256, 3).tolist()), tuple(random.integers(0, 60, 3).tolist())
    x, y = (int(value) for value in random.integers(SIDE_PX // 2 - 2, SIDE_PX // 2 + 3, 2))
    r = int(random.integers(6, 10))
    picture = Image.new("RGB", (SIDE_PX, SIDE_PX), ground)
    pen = ImageDraw.Draw(picture)
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tint)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=tint)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=tint)
    else:
        pen.line((x - r, y - r, x + r, y + r), fill=tint, width=4)
        pen.line((x - r, y + r, x + r, y - r), fill=tint, width=4)
    return picture


def make_folder(folder: Path, shapes: Iterable[str], images: int, seed: int) -> Path:
    """A data source as meshlore takes it: a folder with one sub-folder of images per class."""
    random = np.random.default_rng(seed)
    for shape in shapes:
        (folder / shape).mkdir(parents=True)
        for number in range(images):
            draw(shape, random).save(folder / shape / f"{number}.png")
    return folder
