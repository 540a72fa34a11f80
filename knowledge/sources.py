"""From the name of a data source to a dataset: built-in data sets, folders of images, CSV tables, .npz files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import DataError
from . import tables
from .archives import is_table_archive, load_table
from .archives import load_npz as load_npz
from .archives import save_npz as save_npz
from .builtin import breast_cancer, digits, fashion_mnist, wine
from .classes import MAX_INTRODUCED
from .data import Dataset
from .folders import find_images, ordered, read_folder, to_channels
from .pictures import resized
from .space import Space
from .tables import Ranges, Table

BUILT_IN = {"digits": digits, "fashion-mnist": fashion_mnist, "breast-cancer": breast_cancer, "wine": wine}
FEWEST_SAMPLES = 10
FEWEST_PER_CLASS = 2
NewClasses = Literal["refuse", "add"]


@dataclass(frozen=True)
class Loaded:
    """A dataset, and what the user should know of how it came about, one line each."""

    dataset: Dataset
    notes: tuple[str, ...] = ()


def load(
    source: str,
    *,
    space: Space | None = None,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    ranges: Ranges | None = None,
    new_classes: NewClasses = "refuse",
) -> Loaded:
    """Read a data source, whole or not at all.

    Args:
        source: a name of `BUILT_IN`, alone or with ``:test`` behind it; a folder with one sub-folder of images
            per class; a CSV file (see `meshlore.knowledge.tables.read_csv`); an .npz file written by `save_npz`,
            or one of ``table`` (float (n, d)), ``columns`` (d names) and ``labels`` (n).
        space: what the samples are turned into; a mesh's charter gives it. None: it is made from the data
            and the following four, which otherwise do not matter.
        size: (height, width) in pixels, 8 to 64.
        channels: 1 (grey) or 3 (RGB).
        classes: all class names of the mesh, in order; the data may lack some.
        ranges: bounds of a table's columns; those not given are taken from the data.
        new_classes: what becomes of classes that ``space`` does not have.

    Raises:
        DataError: missing, broken, unknown classes, fewer than 10 samples or than 2 of a class; one line
            that names the file or folder and the remedy.
    """
    check_source(source)
    name, _, part = source.partition(":")
    path = Path(source).expanduser()
    if name not in BUILT_IN and path.is_dir():
        if space is not None and space.is_table:
            raise DataError(f"{path} is a folder, and the mesh is about tables", "give a CSV file")
        if space is not None and new_classes == "add":
            space = space.grown(find_images(path).files)
        dataset, found = read_folder(path, space=space, size=size, channels=channels, classes=classes)
        _check_counts(path, dataset)
        return Loaded(dataset, tuple(found))
    archive = path.suffix.lower() == ".npz"
    if name not in BUILT_IN and (not archive or is_table_archive(path)):
        table = load_table(path) if archive else tables.read_csv(path, space)
        return _from_table(path, table, space, classes, ranges, new_classes)
    dataset = load_npz(path) if archive else BUILT_IN[name](part or "train")
    if space is not None and new_classes == "add":
        space = space.grown(dataset.class_names())
    return fitted(dataset, space, size=size, channels=channels, classes=classes)


def load_private(source: str, space: Space, only: Sequence[str] = ()) -> Loaded:
    """A member's own data in the space of its mesh, which grows by the classes that only this member has.

    Args:
        only: the classes of the data to use; none: all.

    Raises:
        DataError: as `load` does, or too many new classes.
    """
    loaded = load(source, space=space, new_classes="add")
    chosen = loaded.dataset.select_classes(only) if only else loaded.dataset
    dataset = fitted(chosen, space.grown(chosen.class_names())).dataset
    new = dataset.space.added_classes[space.added :]
    if dataset.space.added > MAX_INTRODUCED and len(new) > 0:
        raise DataError(
            f"{source} has {len(new)} classes that the mesh does not know", f"{MAX_INTRODUCED} may be added to a mesh"
        )
    notes = [f"new to the mesh, and added to its classes: {', '.join(new)}"] if new else []
    return Loaded(dataset, (*loaded.notes, *notes))


def check_source(source: str) -> None:
    """Whether there is such a source, before anything is read.

    Raises:
        DataError: it is neither built in nor a folder nor a CSV or .npz file.
    """
    name, _, part = source.partition(":")
    path = Path(source).expanduser()
    if (name in BUILT_IN and part in ("", "test")) or path.is_dir():
        return
    if path.is_file() and path.suffix.lower() in (".npz", *tables.SUFFIXES):
        return
    if path.exists():
        raise DataError(
            f"{path} is neither a folder nor an .npz file nor a .csv file",
            "give a folder with one folder per class, or a table",
        )
    raise DataError(
        f"there is no data source {source!r}",
        f"give a folder of class folders, a CSV file, or one of {', '.join(BUILT_IN)}",
    )


def fitted(
    dataset: Dataset,
    space: Space | None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
) -> Loaded:
    """The samples turned into those of another space: resized, recoloured, requantised, relabelled by name.

    Raises:
        DataError: a class that has samples is unknown to the space, or one is of images and the other of tables.
    """
    own = dataset.space
    shape = own.shape if own.is_table else (channels or own.channels, *(size or own.shape[1:]))
    wanted = space or Space(shape, tuple(classes or own.classes), own.levels, columns=own.columns)
    if wanted == own:
        return Loaded(dataset)
    if wanted.is_table != own.is_table:
        kinds = ("images", "a table")
        raise DataError(
            f"the data are {kinds[own.is_table]}, and the mesh is about {'tables' if wanted.is_table else 'images'}",
            "give data like that of the other members",
        )
    labels = dataset.labels
    if wanted.classes != own.classes:
        new_label = np.zeros(own.num_classes, dtype=np.int64)
        for name in dataset.class_names():
            new_label[own.classes.index(name)] = wanted.label_of(name)
        labels = new_label[labels]
    images, notes = dataset.images, list[str]()
    if own.is_table:
        if (own.columns, own.levels) != (wanted.columns, wanted.levels):
            names = tuple(column.name for column in own.columns)
            rows = Table(names, tables.in_units(images, own), None, ())
            images, notes = tables.fitted_rows(rows, wanted)
        return Loaded(Dataset(wanted, images, labels), tuple(notes))
    if (wanted.shape, wanted.levels) != (own.shape, own.levels):
        images = _converted(dataset, wanted)
    if wanted.shape[1:] != own.shape[1:]:
        notes.append(f"resized {own.width}x{own.height} -> {wanted.width}x{wanted.height}")
    if wanted.channels < own.channels:
        notes.append("colour images were turned into grey ones")
    if wanted.levels < own.levels:
        notes.append(f"{own.levels} levels became {wanted.levels}")
    return Loaded(Dataset(wanted, images, labels), tuple(notes))


def _from_table(
    path: Path,
    table: Table,
    space: Space | None,
    classes: Sequence[str] | None,
    ranges: Ranges | None,
    new_classes: NewClasses,
) -> Loaded:
    """The rows of a table in the space of the mesh or, without one, in a space of their own."""
    if table.labels is None:
        raise DataError(f"{path} has no labels", "add a column named 'label'")
    found = ordered(table.labels)
    if len(found) > max(FEWEST_SAMPLES, len(table.labels) // FEWEST_PER_CLASS):
        raise DataError(
            f"{path} has {len(found)} different labels in {len(table.labels)} rows",
            "name the column of the classes 'label'",
        )
    if space is not None and not space.is_table:
        raise DataError(f"{path} is a table, and the mesh is about images", "give a folder with one folder per class")
    notes = list(table.notes)
    try:
        if space is None:
            space = tables.table_space(table, classes or found, ranges)
            if told := len(table.columns) - len(ranges or ()):
                notes.append(f"the ranges of {told} columns, taken from the data, become known to all members")
        elif new_classes == "add":
            space = space.grown(found)
        label_of = {name: space.label_of(name) for name in found}
        samples, cut = tables.fitted_rows(table, space)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", error.remedy) from None
    dataset = Dataset(space, samples, np.array([label_of[name] for name in table.labels], dtype=np.int64))
    _check_counts(path, dataset)
    return Loaded(dataset, (*notes, *cut))


def _converted(dataset: Dataset, wanted: Space) -> np.ndarray:
    from PIL import Image

    brightest = dataset.space.levels - 1
    full_range = np.round(dataset.images * (255 / brightest)).astype(np.uint8).transpose(0, 2, 3, 1)
    pixels = np.broadcast_to(full_range, (*full_range.shape[:3], 3))
    if wanted.shape[1:] != dataset.space.shape[1:]:
        size = (wanted.height, wanted.width)
        sheets = (Image.fromarray(np.ascontiguousarray(sample)) for sample in pixels)
        pixels = np.stack([np.asarray(resized(sheet, size)) for sheet in sheets])
    return np.round(to_channels(pixels, wanted.channels) * ((wanted.levels - 1) / 255)).astype(np.uint8)


def _check_counts(path: Path, dataset: Dataset) -> None:
    if len(dataset) < FEWEST_SAMPLES:
        raise DataError(
            f"{path} holds {len(dataset)} samples", f"at least {FEWEST_SAMPLES} are needed to learn anything"
        )
    for name, count in zip(dataset.space.classes, dataset.counts().tolist(), strict=True):
        if 0 < count < FEWEST_PER_CLASS:
            raise DataError(f"class {name!r} in {path} has one sample only", "add another, or remove the class")
