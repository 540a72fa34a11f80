"""Between what people have, images or rows of numbers, and the samples of a space; the one place where callers
of any kind turn one into the other without knowing which it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, InvalidTask, StateError
from .arrays import as_pixels, contact_sheet
from .data import Dataset, Images
from .folders import to_channels
from .space import MAX_COLUMN, Space
from .tables import fitted_rows, in_units, quantised, read_csv, write_csv

DRAWN_PX = 64  # side that a small image is enlarged to at least, when it is written


@dataclass(frozen=True, eq=False)
class Files:
    """Samples uint8 (n, *space.shape) read from files, and what each is called: its path, or path and line."""

    samples: Images
    names: tuple[str, ...]


def read_files(paths: Sequence[Path], space: Space) -> Files:
    """One sample per image file, one per row of a CSV file.

    Raises:
        InvalidTask: no files; DataError: one that cannot be read.
    """
    if not space.is_table:
        return Files(as_levels(list(paths), space), tuple(map(str, paths)))
    parts, names = [], []
    for path in paths:
        table = read_csv(path, space)
        parts.append(fitted_rows(table, space)[0])
        names += [f"{path}:{line}" for line in table.lines]
    if not parts:
        raise InvalidTask("no files", "give CSV files")
    return Files(np.concatenate(parts), tuple(names))


def as_levels(items: Any, space: Space) -> Images:
    """Samples of any usual kind as uint8 levels (n, channels, height, width) of ``space``.

    Args:
        items: a `Dataset` of this space or `Files`. Of images: a path, a PIL image, a list of these, or an array
            (n, height, width), (n, height, width, 1 or 3) or one such image; uint8 means 0..255, floats mean 0..1.
            Of tables: a path of a CSV file or a list of these, an array (n, columns) or (columns,) in the order and
            the units of the mesh's columns, or a mapping or data frame from the names of columns to their values.

    Raises:
        InvalidTask: something else, or nothing.
        DataError: a file that cannot be read.
    """
    if isinstance(items, Dataset):
        known = items.space
        if known.id != space.id or known.classes != space.classes[: known.num_classes]:
            raise InvalidTask("the dataset is of another space than this mesh", f"load it for {space}")
        return items.images
    if isinstance(items, Files):
        return items.samples
    if space.is_table:
        return _rows(items, space)
    pixels = as_pixels(items, (space.height, space.width))
    return np.round(to_channels(pixels, space.channels) * ((space.levels - 1) / 255)).astype(np.uint8)


def as_labels(labels: Any, n: int, space: Space) -> NDArray[np.int64]:
    """Class names (or indices, as in `Dataset.labels`) as int64 (n,).

    Raises:
        InvalidTask: another number of labels than of samples, or a class unknown to the mesh.
    """
    if not isinstance(labels, Iterable):
        raise InvalidTask(f"a {type(labels).__name__} where labels are expected", "give one class name per sample")
    items = [labels] * n if isinstance(labels, str) else list(labels)
    if len(items) != n:
        raise InvalidTask(f"{len(items)} labels for {n} samples", "give one class name per sample")
    indices = []
    for item in items:
        if isinstance(item, int | np.integer) and 0 <= item < len(space.classes):
            indices.append(int(item))
        elif item in space.classes:
            indices.append(space.classes.index(item))
        else:
            raise InvalidTask(f"no class {item!r} in this mesh", f"its classes are {', '.join(space.classes)}")
    return np.array(indices, dtype=np.int64)


def presented(levels: Images, space: Space) -> NDArray[Any]:
    """Levels as people want them: uint8 0..255, (n, height, width[, 3]), or rows float64 (n, columns) in units."""
    if space.is_table:
        return in_units(levels, space)
    pixels = np.round(levels.astype(np.float32) * (255 / (space.levels - 1))).astype(np.uint8)
    return pixels[:, 0] if space.channels == 1 else pixels.transpose(0, 2, 3, 1)


def check_writable(path: Path, space: Space) -> None:
    """Whether samples can be written under this name. Raises ConfigError."""
    suffix = ".csv" if space.is_table else ".png"
    if path.suffix.lower() != suffix:
        raise ConfigError(f"{path} does not end in {suffix}", f"name a {suffix[1:].upper()} file")


def write_samples(path: Path, samples: NDArray[Any], label: str, space: Space) -> None:
    """Write what `presented` gave: images as one enlarged PNG, rows as CSV with the label in the last column.

    Raises:
        StateError: the file cannot be written.
    """
    if space.is_table:
        write_csv(path, samples, [column.name for column in space.columns], [label] * len(samples))
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(samples, max(1, DRAWN_PX // samples.shape[1])).save(path)
    except OSError as error:
        raise StateError(f"cannot write {path} ({error})", "choose another place") from None


def _rows(items: Any, space: Space) -> Images:
    if isinstance(items, str | Path):
        items = [items]
    if isinstance(items, list | tuple) and items and all(isinstance(item, str | Path) for item in items):
        return read_files([Path(item) for item in items], space).samples
    if isinstance(items, Mapping) or hasattr(items, "columns"):
        names = [column.name for column in space.columns]
        if missing := [name for name in names if name not in items]:
            raise InvalidTask(f"the column {missing[0]!r} is missing", f"the mesh has {', '.join(names[:8])}")
        items = [np.atleast_1d(np.asarray(items[name])) for name in names]
        if len({column.shape for column in items}) != 1:
            raise InvalidTask("columns of different lengths", "give one value per row in each")
        items = np.stack(items, axis=1)
    try:
        values = np.asarray(items, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidTask("rows that are not numbers", f"give an array (n, {space.width})") from None
    values = values[None] if values.ndim == 1 else values
    if values.ndim != 2 or values.shape[1] != space.width or not len(values):
        raise InvalidTask(f"an array of shape {values.shape}", f"give (n, {space.width}), one row per sample")
    if not (np.abs(values) < MAX_COLUMN).all():
        raise InvalidTask("rows with missing or infinite values", "fill them in, or leave these rows out")
    return quantised(values, space)[0]
