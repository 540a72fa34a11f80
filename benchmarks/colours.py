"""Colour digits: real ones, enlarged, tinted without regard to their class, on textured ground."""

from __future__ import annotations

import numpy as np
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import fitted, load
from meshlore.knowledge.space import Space


def colour_digits(side_px: int, part: str = "digits", classes: str = "0123456789", seed: int = 0) -> Dataset:
    """RGB (3, side_px, side_px) of 256 levels; the colour of ink and paper says nothing about the digit."""
    rng = np.random.default_rng(seed)
    source = load(part).dataset.select_classes(classes)
    space = Space((1, side_px, side_px), tuple(classes))
    grey = fitted(source, space).dataset
    n = len(grey)
    ink = grey.images.astype(np.float32) / 255
    tint = rng.uniform(120, 255, (n, 3, 1, 1))
    paper = rng.uniform(0, 110, (n, 3, 1, 1))
    across, down = np.arange(side_px)[None, None, None], np.arange(side_px)[None, None, :, None]
    pitch, angle, phase = (rng.uniform(*bounds, (n, 1, 1, 1)) for bounds in ((3, 8), (0, np.pi), (0, 6)))
    stripes = np.sin((np.cos(angle) * across + np.sin(angle) * down) * 2 * np.pi / pitch + phase)
    ground = paper * (1 + 0.25 * stripes)
    pixels = ink * tint + (1 - ink) * ground + rng.normal(0, 6, (n, 3, side_px, side_px))
    images = np.clip(np.round(pixels), 0, 255).astype(np.uint8)
    return Dataset(Space((3, side_px, side_px), tuple(classes)), images, grey.labels)
