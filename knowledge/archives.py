"""Datasets and tables in .npz files, numpy's own archives; never with pickles in them."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .data import Dataset
from .folders import MAX_SAMPLE_BYTES
from .space import MAX_COLUMN, Column, Space
from .tables import Table

_DATASET_FIELDS = {"images", "labels", "classes", "levels", "columns", "bounds"}
_TABLE_FIELDS = {"table", "columns", "labels"}


def save_npz(path: Path, dataset: Dataset) -> None:
    """Write a dataset to one file that `load` reads; it is replaced whole, and on the disk when this returns."""
    temporary = path.with_name(f".{path.name}.tmp{os.getpid()}")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            images=dataset.images,
            labels=dataset.labels,
            classes=np.array(dataset.space.classes),
            levels=np.array(dataset.space.levels),
            columns=np.array([column.name for column in dataset.space.columns], dtype=str),
            bounds=np.array([[c.low, c.high] for c in dataset.space.columns], dtype=np.float64).reshape(-1, 2),
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_npz(path: Path) -> Dataset:
    """A dataset written by `save_npz`.

    Raises:
        DataError: the file is damaged, too large, or was written by something else.
    """
    with _readable(path, "write it with meshlore.knowledge.sources.save_npz"):
        arrays = _arrays(path, _DATASET_FIELDS)
        images, names, bounds = arrays["images"], arrays["columns"], arrays["bounds"]
        if (
            images.ndim != 4
            or not all(arrays[name].ndim == 1 and arrays[name].dtype.kind == "U" for name in ("classes", "columns"))
            or arrays["levels"].shape != ()
            or bounds.dtype != np.float64
            or bounds.shape != (len(names), 2)
        ):
            raise ValueError("arrays of the wrong form")
        channels, height, width = images.shape[1:]
        columns = tuple(Column(str(n), float(low), float(high)) for n, (low, high) in zip(names, bounds, strict=True))
        classes = tuple(str(name) for name in arrays["classes"])
        space = Space((channels, height, width), classes, int(arrays["levels"]), columns=columns)
        return Dataset(space, images, arrays["labels"])


def is_table_archive(path: Path) -> bool:
    """Whether an .npz file is a table that a user wrote, rather than a dataset of `save_npz`."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "table.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):  # what reads it next says so
        return False


def load_table(path: Path) -> Table:
    """A table that users wrote with numpy.

    Raises:
        DataError: the file is damaged, too large, or its arrays do not make a table.
    """
    with _readable(path, "save float table (n, d), columns (d names) and labels (n) with numpy.savez"):
        arrays = _arrays(path, _TABLE_FIELDS)
        values, names, labels = arrays["table"], arrays["columns"], arrays["labels"]
        if values.ndim != 2 or values.dtype.kind not in "fiu" or names.shape != values.shape[1:] or 0 in values.shape:
            raise ValueError(f"table {values.dtype} {values.shape} with {names.size} columns")
        if names.dtype.kind != "U" or labels.dtype.kind not in "Uiu" or labels.shape != values.shape[:1]:
            raise ValueError(f"columns {names.dtype} and labels {labels.dtype} {labels.shape}")
        values = values.astype(np.float64)
        if len(bad := np.argwhere(~(np.abs(values) < MAX_COLUMN))):
            row, column = bad[0]
            more = f" ({len(bad) - 1} more cells like it)" if len(bad) > 1 else ""
            raise DataError(
                f"{path}, row {row}, column {str(names[column])!r}: {values[row, column]} is not a number{more}",
                "fill it in, or remove the row or the column",
            )
        lines = tuple(range(len(values)))
        return Table(tuple(map(str, names)), values, tuple(str(label) for label in labels), lines)


def _arrays(path: Path, fields: set[str]) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        size_bytes = sum(member.file_size for member in archive.infolist())
    if size_bytes > MAX_SAMPLE_BYTES:
        raise DataError(f"{path} unpacks to {size_bytes} bytes", "use fewer samples")
    with np.load(path, allow_pickle=False) as arrays:
        if set(arrays.files) != fields:
            raise ValueError(f"it holds {sorted(arrays.files)}, not {sorted(fields)}")
        return {name: arrays[name] for name in fields}


@contextmanager
def _readable(path: Path, remedy: str) -> Iterator[None]:
    """One line about the file for all that can be wrong with an .npz file."""
    try:
        yield
    except DataError as error:
        raise DataError(
            error.message if str(path) in error.message else f"{path}: {error.message}", error.remedy
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:120]})", remedy) from None
