"""Colour images made of what is at hand: digits on coloured ground, and shapes that differ in colour alone."""

from __future__ import annotations

import numpy as np
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import fitted, load
from meshlore.knowledge.space import Space
from numpy.typing import NDArray

GRAIN = 6  # standard deviation of a pixel's noise, of 256 levels
INK, PAPER = (220, 190, 120), (60, 70, 110)
PAINTS = np.array([(220, 60, 50), (60, 200, 70), (60, 80, 220), (220, 210, 60), (200, 200, 200)])


def colour_digits(side_px: int, part: str = "digits", classes: str = "0123456789", seed: int = 0) -> Dataset:
    """RGB (3, side_px, side_px) of 256 levels; the colour of ink and paper says nothing about the digit."""
    rng = np.random.default_rng(seed)
    grey = _grey_digits(side_px, part, classes)
    n = len(grey)
    tint = rng.uniform(120, 255, (n, 3, 1, 1))
    paper = rng.uniform(0, 110, (n, 3, 1, 1))
    across, down = np.arange(side_px)[None, None, None], np.arange(side_px)[None, None, :, None]
    pitch, angle, phase = (rng.uniform(*bounds, (n, 1, 1, 1)) for bounds in ((3, 8), (0, np.pi), (0, 6)))
    stripes = np.sin((np.cos(angle) * across + np.sin(angle) * down) * 2 * np.pi / pitch + phase)
    return _inked(grey, tint, paper * (1 + 0.25 * stripes), rng)


def one_ink_digits(side_px: int, seed: int = 0) -> Dataset:
    """The same, all in about the same ink on about the same paper."""
    rng = np.random.default_rng(seed)
    grey = _grey_digits(side_px, "digits", "0123456789")
    ink, paper = (rng.normal(np.reshape(colour, (3, 1, 1)), 10, (len(grey), 3, 1, 1)) for colour in (INK, PAPER))
    return _inked(grey, ink, paper, rng)


def painted_shapes(side_px: int, per_class: int = 150, seed: int = 0) -> Dataset:
    """Ten classes: discs and squares in five colours on grey ground, so that five look alike but for their colour."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(2 * len(PAINTS)), per_class)
    n = len(labels)
    down, across = np.mgrid[:side_px, :side_px]
    x, y = rng.uniform(0.4, 0.6, (2, n, 1, 1)) * side_px
    radius = rng.uniform(0.22, 0.34, (n, 1, 1)) * side_px
    discs = (across - x) ** 2 + (down - y) ** 2 < radius**2
    squares = np.maximum(abs(across - x), abs(down - y)) < 0.88 * radius
    inside = np.where((labels < len(PAINTS))[:, None, None], discs, squares)[:, None]
    paint = PAINTS[labels % len(PAINTS)] * rng.uniform(0.85, 1.1, (n, 1)) + rng.normal(0, 8, (n, 3))
    ground = rng.uniform(60, 130, (n, 1)) + rng.normal(0, 6, (n, 3))
    pixels = np.where(inside, paint[:, :, None, None], ground[:, :, None, None])
    names = tuple(f"{shape} {colour}" for shape in ("disc", "square") for colour in range(len(PAINTS)))
    return Dataset(Space((3, side_px, side_px), names), _taken(pixels, rng), labels)


def _grey_digits(side_px: int, part: str, classes: str) -> Dataset:
    source = load(part).dataset.select_classes(classes)
    return fitted(source, Space((1, side_px, side_px), tuple(classes))).dataset


def _inked(grey: Dataset, tint: NDArray[np.float64], paper: NDArray[np.float64], rng: np.random.Generator) -> Dataset:
    ink = grey.images.astype(np.float32) / 255
    space = Space((3, *grey.space.shape[1:]), grey.space.classes)
    return Dataset(space, _taken(ink * tint + (1 - ink) * paper, rng), grey.labels)


def _taken(pixels: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(np.round(pixels + rng.normal(0, GRAIN, pixels.shape)), 0, 255).astype(np.uint8)
