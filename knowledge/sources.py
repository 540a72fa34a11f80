"""From the name of a data source to a dataset: built-in data sets, folders of images, .npz files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from .builtin import digits, fashion_mnist
from .data import Dataset
from .folders import MAX_SAMPLE_BYTES, read_folder, to_channels
from .pictures import resized
from .space import Space

BUILT_IN = {"digits": digits, "fashion-mnist": fashion_mnist}
FEWEST_SAMPLES = 10
FEWEST_PER_CLASS = 2
_NPZ_FIELDS = {"images", "labels", "classes", "levels"}


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
) -> Loaded:
    """Read a data source, whole or not at all.

    Args:
        source: ``digits``, ``digits:test``, ``fashion-mnist``, ``fashion-mnist:test``, a folder with one
            sub-folder of images per class, or an .npz file written by `save_npz`.
        space: what the samples are turned into; a mesh's charter gives it. None: it is made from the data
            and the following three, which otherwise do not matter.
        size: (height, width) in pixels, 8 to 64.
        channels: 1 (grey) or 3 (RGB).
        classes: all class names of the mesh, in order; the data may lack some.

    Raises:
        DataError: missing, broken, unknown classes, fewer than 10 samples or than 2 of a class; one line
            that names the file or folder and the remedy.
    """
    check_source(source)
    name, _, part = source.partition(":")
    if name in BUILT_IN:
        return fitted(BUILT_IN[name](part or "train"), space, size=size, channels=channels, classes=classes)
    path = Path(source).expanduser()
    if path.is_dir():
        dataset, notes = read_folder(path, space=space, size=size, channels=channels, classes=classes)
        _check_counts(path, dataset)
        return Loaded(dataset, tuple(notes))
    return fitted(load_npz(path), space, size=size, channels=channels, classes=classes)


def check_source(source: str) -> None:
    """Whether there is such a source, before anything is read.

    Raises:
        DataError: it is neither built in nor a folder nor an .npz file.
    """
    name, _, part = source.partition(":")
    path = Path(source).expanduser()
    if (name in BUILT_IN and part in ("", "test")) or path.is_dir():
        return
    if path.is_file() and path.suffix.lower() == ".npz":
        return
    if path.exists():
        raise DataError(f"{path} is neither a folder nor an .npz file", "give a folder with one folder per class")
    raise DataError(
        f"there is no data source {source!r}", f"give a folder of class folders, or one of {', '.join(BUILT_IN)}"
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
        DataError: a class that has samples is unknown to the space.
    """
    own = dataset.space
    wanted = space or Space(
        (channels or own.channels, *(size or own.shape[1:])), tuple(classes or own.classes), own.levels
    )
    if wanted == own:
        return Loaded(dataset)
    labels = dataset.labels
    if wanted.classes != own.classes:
        new_label = np.zeros(own.num_classes, dtype=np.int64)
        for name in dataset.class_names():
            new_label[own.classes.index(name)] = wanted.label_of(name)
        labels = new_label[labels]
    images, notes = dataset.images, []
    if (wanted.shape, wanted.levels) != (own.shape, own.levels):
        images = _converted(dataset, wanted)
    if wanted.shape[1:] != own.shape[1:]:
        notes.append(f"resized {own.width}x{own.height} -> {wanted.width}x{wanted.height}")
    if wanted.channels < own.channels:
        notes.append("colour images were turned into grey ones")
    if wanted.levels < own.levels:
        notes.append(f"{own.levels} levels became {wanted.levels}")
    return Loaded(Dataset(wanted, images, labels), tuple(notes))


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
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_npz(path: Path) -> Dataset:
    """A dataset written by `save_npz`.

    Raises:
        DataError: the file is damaged, too large, or was written by something else.
    """
    remedy = "write it with meshlore.knowledge.sources.save_npz"
    try:
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
        if size_bytes > MAX_SAMPLE_BYTES:
            raise DataError(f"{path} unpacks to {size_bytes} bytes", "use fewer samples")
        with np.load(path, allow_pickle=False) as arrays:
            if set(arrays.files) != _NPZ_FIELDS:
                raise DataError(f"{path} holds {sorted(arrays.files)}, not {sorted(_NPZ_FIELDS)}", remedy)
            images, labels = arrays["images"], arrays["labels"]
            names, levels = arrays["classes"], arrays["levels"]
        if images.ndim != 4 or names.ndim != 1 or names.dtype.kind != "U" or levels.shape != ():
            raise DataError(f"{path} holds arrays of the wrong form", remedy)
        channels, height, width = images.shape[1:]
        space = Space((channels, height, width), tuple(str(name) for name in names), int(levels))
        return Dataset(space, images, labels)
    except DataError as error:
        raise DataError(
            error.message if str(path) in error.message else f"{path}: {error.message}", error.remedy
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())[:120]})", remedy) from None


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
