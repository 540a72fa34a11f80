"""A folder with one sub-folder of images per class: read whole, or refused with one line."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .data import Dataset, Images
from .pictures import SUFFIXES, Header, read_header, read_picture
from .space import MAX_SIDE_PX, MIN_SIDE_PX, Space, is_class_name

MAX_SAMPLE_BYTES = 2**31
Item = TypeVar("Item")
_CLUTTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))


@dataclass(frozen=True)
class Found:
    """The image files of each class, sorted, and the names of files that are no images."""

    files: dict[str, list[Path]]
    skipped: list[str]


def read_folder(
    root: Path,
    *,
    space: Space | None,
    size: tuple[int, int] | None,
    channels: int | None,
    classes: Sequence[str] | None,
) -> tuple[Dataset, list[str]]:
    """All images below a folder as samples, and notes on what was done to them.

    Without a space, one is made: the classes are the sub-folders (or the given ones), the size is that of
    the images if they all agree and fit, else a square of at most 64x64, grey if all images are grey.

    Raises:
        DataError: no class folders, an empty or unknown one, a broken image: one line naming it.
    """
    found = find_images(root)
    names = list(space.classes if space else classes or ordered(found.files))
    _check_classes(root, found, names)
    paths = [path for name in names for path in found.files.get(name, [])]
    headers = _each(paths, read_header)
    target = space.shape[1:] if space else size or common_size([header.size for header in headers])
    inferred = space or _inferred(root, (channels or 3, *target), names)
    if len(paths) * 3 * target[0] * target[1] > MAX_SAMPLE_BYTES:
        raise DataError(f"{root} holds {len(paths)} images, too many for memory", "use fewer")
    pixels = np.stack(_each(paths, lambda path: read_picture(path, target)))
    grey = bool((pixels == pixels[..., :1]).all())
    wanted = space.channels if space else channels or (1 if grey else 3)
    chosen = space or replace(inferred, shape=(wanted, *target))
    images = to_channels(pixels, wanted)
    if chosen.levels != 256:
        images = np.round(images * ((chosen.levels - 1) / 255)).astype(np.uint8)
    labels = np.concatenate([[chosen.label_of(name)] * len(found.files.get(name, [])) for name in names])
    notes = _notes(found, headers, target, names)
    if wanted == 1 and not grey:
        notes.append("colour images were turned into grey ones")
    return Dataset(chosen, images, labels.astype(np.int64)), notes


def find_images(root: Path) -> Found:
    """The image files in the sub-folders of a folder; links are followed one level deep, so never in circles.

    Raises:
        DataError: not a readable folder, no class folders, one without images, names that clash.
    """
    files: dict[str, list[Path]] = {}
    skipped: list[str] = []
    loose_images = 0
    for entry in _entries(root):
        if _is_folder(entry):
            name = unicodedata.normalize("NFC", entry.name)
            if not is_class_name(name):
                raise DataError(f"folder {entry.path!r} cannot name a class", "rename it")
            if clash := [other for other in files if other.casefold() == name.casefold()]:
                raise DataError(
                    f"class folders {clash[0]!r} and {name!r} in {root} differ only in case",
                    "rename one of them",
                )
            files[name] = _images_of(Path(entry.path), skipped)
        elif Path(entry.name).suffix.lower() in SUFFIXES:
            loose_images += 1
            skipped.append(entry.name)
        else:
            skipped.append(entry.name)
    if not files:
        what = "images but no class folders" if loose_images else "no class folders"
        raise DataError(f"{root} holds {what}", "put the images of each class into a sub-folder of that name")
    return Found(files, skipped)


def common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) for samples made of images of these sizes."""
    if len(set(sizes)) == 1 and all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in sizes[0]):
        return sizes[0]
    median = int(np.median([max(size) for size in sizes]))
    side = min(max(median, MIN_SIDE_PX), MAX_SIDE_PX)
    return side, side


def to_channels(pixels: NDArray[np.uint8], channels: int) -> Images:
    """uint8 RGB (n, height, width, 3) to (n, channels, height, width); grey by ITU-R 601 luma."""
    if channels == 3:
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((luma + 2**15) >> 16).astype(np.uint8)[:, None]


def _images_of(folder: Path, skipped: list[str]) -> list[Path]:
    images = []
    sub_folders = 0
    for entry in _entries(folder):
        if _is_file(entry) and Path(entry.name).suffix.lower() in SUFFIXES:
            images.append(Path(entry.path))
        else:
            sub_folders += _is_folder(entry)
            skipped.append(f"{folder.name}/{entry.name}")
    if not images:
        hint = "choose the folder whose sub-folders hold the images" if sub_folders else "add some or remove it"
        raise DataError(f"class folder {folder} holds no images", hint)
    return images


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder sorted by name, without hidden ones."""
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"folder {folder} cannot be read ({error.strerror})", "check its path and rights") from None
    return sorted((entry for entry in visible if entry.name.lower() not in _CLUTTER), key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that ends nowhere or in itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def ordered(names: Iterable[str]) -> list[str]:
    """Class names, each once, sorted; by value if all are numbers."""
    distinct = set(names)
    if all(name.isascii() and name.isdigit() for name in distinct):
        return sorted(distinct, key=lambda name: (int(name), name))
    return sorted(distinct)


def _inferred(root: Path, shape: tuple[int, int, int], names: Sequence[str]) -> Space:
    try:
        return Space(shape, tuple(names))
    except DataError as error:
        raise DataError(f"{root}: {error.message}", error.remedy) from None


def _check_classes(root: Path, found: Found, names: Sequence[str]) -> None:
    for name in found.files:
        if name not in names:
            alike = [known for known in names if known.casefold() == name.casefold()]
            remedy = f"rename it to {alike[0]!r}" if alike else "rename or remove it; known: " + _listed(names)
            raise DataError(f"class folder {root / name} is none of the classes", remedy)


def _each(paths: Sequence[Path], read: Callable[[Path], Item]) -> list[Item]:
    """What ``read`` makes of every file; all files are tried, so that one message tells of all bad ones."""
    items: list[Item] = []
    failures: list[DataError] = []
    for path in paths:
        try:
            items.append(read(path))
        except DataError as error:
            failures.append(error)
    if failures:
        more = f", and {len(failures) - 1} more like it" if len(failures) > 1 else ""
        raise DataError(failures[0].message + more, failures[0].remedy)
    return items


def _notes(found: Found, headers: Sequence[Header], target: tuple[int, int], names: Sequence[str]) -> list[str]:
    notes = []
    other_sizes = Counter(header.size for header in headers if header.size != target)
    if other_sizes:
        (height, width), _ = other_sizes.most_common(1)[0]
        more = f" and {len(other_sizes) - 1} other sizes" if len(other_sizes) > 1 else ""
        notes.append(f"resized {other_sizes.total()} images: {width}x{height}{more} -> {target[1]}x{target[0]}")
    if animated := sum(header.frames > 1 for header in headers):
        notes.append(f"took the first picture of {animated} animated or many-page images")
    if found.skipped:
        notes.append(f"skipped {len(found.skipped)} entries that are no images: {_listed(found.skipped, 3)}")
    if missing := [name for name in names if name not in found.files]:
        notes.append(f"no samples of {_listed(missing)}")
    return notes


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
