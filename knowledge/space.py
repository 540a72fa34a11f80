"""A space is what makes knowledge comparable: what a sample is, and the names of the classes.

A sample is uint8 (channels, height, width), be it an image or a row of a table: a row of d numbers is
(1, 1, d), each column cut into levels between the bounds that the space sets, so that all nodes cut alike.

The classes that a mesh is founded with are the same everywhere, in the same order. Nodes add classes of
their own behind them, each as it meets them; those are matched by name (`meshlore.knowledge.classes`), so
that two nodes may know different ones, in different orders, and still be of one space.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..codec import expect_map, pack
from ..errors import DataError, DecodeError

MIN_SIDE_PX = 8
MAX_SIDE_PX = 64
SMALL_SIDE_PX = 16
MAX_COLUMNS = 512
MAX_COLUMN = 1e30
MAX_CLASSES = 1000
MAX_CLASS_NAME_CHARS = 64


@dataclass(frozen=True)
class Column:
    """A numeric column of a table; values outside ``low`` to ``high`` count as these."""

    name: str
    low: float
    high: float


@dataclass(frozen=True)
class Space:
    """The agreement of one mesh about samples and classes.

    Attributes:
        shape: (channels, height, width) of an image: 1 or 3 channels, sides of 8 to 64 pixels;
            or (1, 1, number of columns) of a table.
        classes: 2 to 1000 distinct names; the position of a name is its label.
        levels: samples hold the values 0 .. levels - 1 (256 for 8-bit images and tables, 17 for digits).
        version: raised by a mesh that changes what its classes mean.
        columns: of a table, 1 to 512; none: samples are images.
        added: how many of the classes, the last ones, this device knows beyond those that the mesh began with.

    Raises:
        DataError: a value is outside these bounds.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    levels: int = 256
    version: int = 1
    columns: tuple[Column, ...] = ()
    added: int = 0

    def __post_init__(self) -> None:
        if self.columns:
            _check_columns(self.columns, self.shape)
        else:
            _check_picture(self.shape)
        if not 2 <= self.levels <= 256:
            raise DataError(f"{self.levels} levels", "use 2 to 256")
        if self.version < 1:
            raise DataError(f"space version {self.version}", "versions start at 1")
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(
                f"{len(self.classes)} class{'es' if len(self.classes) != 1 else ''}",
                f"name 2 to {MAX_CLASSES} classes that the mesh begins with (--all-classes); others may come later",
            )
        if not 0 <= self.added <= len(self.classes) - 2:
            raise DataError(f"{self.added} of {len(self.classes)} classes were added", "a mesh begins with 2 or more")
        for name in self.classes:
            if not is_class_name(name):
                raise DataError(
                    f"class name {name[:80]!r}",
                    f"use 1 to {MAX_CLASS_NAME_CHARS} printable characters without outer spaces",
                )
        if len({class_key(name) for name in self.classes}) != len(self.classes):
            raise DataError("two classes have the same name, or differ only in case", "rename one of them")

    @property
    def channels(self) -> int:
        return self.shape[0]

    @property
    def height(self) -> int:
        return self.shape[1]

    @property
    def width(self) -> int:
        return self.shape[2]

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def is_table(self) -> bool:
        return bool(self.columns)

    @property
    def is_small(self) -> bool:
        """Whether samples are rows, or images of less than 16 pixels: little models and few steps suffice."""
        return self.is_table or max(self.height, self.width) < SMALL_SIDE_PX

    @property
    def added_classes(self) -> tuple[str, ...]:
        """The classes beyond those that the mesh began with, in the order of this device."""
        return self.classes[len(self.classes) - self.added :]

    @property
    def founding(self) -> Space:
        """This space with the classes only that the mesh began with."""
        return replace(self, classes=self.classes[: len(self.classes) - self.added], added=0) if self.added else self

    def grown(self, names: Iterable[str]) -> Space:
        """This space and, behind its classes, those names that it has not yet; labels stay what they are.

        Names that differ in case only are one class.

        Raises:
            DataError: a name that cannot be one, or more than 1000 classes.
        """
        known = {class_key(name) for name in self.classes}
        new = {class_key(name): name for name in names if class_key(name) not in known}
        if not new:
            return self
        return replace(self, classes=(*self.classes, *new.values()), added=self.added + len(new))

    def label_of(self, name: str) -> int:
        """The label of a class.

        Raises:
            DataError: the space has no class of that name.
        """
        try:
            return self.classes.index(name)
        except ValueError:
            alike = [known for known in self.classes if known.casefold() == name.casefold()]
            known = f"did you mean {alike[0]!r}?" if alike else f"it knows {_listed(self.classes)}"
            raise DataError(f"class {name!r} is unknown to this space", known) from None

    def to_map(self) -> dict[str, Any]:
        """What `meshlore.codec.pack` accepts; the inverse of `from_map`."""
        return {
            "shape": list(self.shape),
            "classes": list(self.classes),
            "levels": self.levels,
            "version": self.version,
            "columns": [[column.name, column.low, column.high] for column in self.columns],
            "added": self.added,
        }

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Space:
        """Decode a foreign map.

        Raises:
            DecodeError: unknown fields, wrong types or values out of bounds.
        """
        fields = expect_map(
            value, {"shape": list, "classes": list, "levels": int, "version": int, "columns": list, "added": int}
        )
        shape, classes = fields["shape"], fields["classes"]
        if len(shape) != 3 or not all(type(side) is int for side in shape):
            raise DecodeError("the shape of a space is three integers")
        if not all(type(name) is str for name in classes):
            raise DecodeError("class names are strings")
        columns = tuple(_column(entry) for entry in fields["columns"])
        try:
            return cls(
                (shape[0], shape[1], shape[2]),
                tuple(classes),
                fields["levels"],
                fields["version"],
                columns,
                fields["added"],
            )
        except DataError as error:
            raise DecodeError(f"not a valid space: {error.message}") from None

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of the packed founding space: equal ids mean that knowledge may be exchanged."""
        return hashlib.sha256(pack(self.founding.to_map())).hexdigest()

    def __str__(self) -> str:
        if self.is_table:
            return f"{self.width} columns, {self.levels} levels, {self.num_classes} classes"
        colour = "grey" if self.channels == 1 else "RGB"
        return f"{self.width}x{self.height} {colour}, {self.levels} levels, {self.num_classes} classes"


def is_rows(shape: Sequence[int]) -> bool:
    """Whether samples or batches of this shape (..., height, width) are rows of a table: no image is that low."""
    return shape[-2] == 1


def class_key(name: str) -> str:
    """Equal for names of one class: case does not tell classes apart."""
    return name.casefold()


def is_class_name(name: str) -> bool:
    """Whether a name is printable, NFC-normalised, short enough and without outer spaces."""
    return (
        0 < len(name) <= MAX_CLASS_NAME_CHARS
        and name.isprintable()
        and name == name.strip()
        and name == unicodedata.normalize("NFC", name)
    )


def _check_picture(shape: tuple[int, int, int]) -> None:
    channels, height, width = shape
    if channels not in (1, 3):
        raise DataError(f"samples of {channels} channels", "use grey (1) or RGB (3) images")
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (height, width)):
        raise DataError(
            f"samples of {width}x{height} pixels",
            f"choose sides between {MIN_SIDE_PX} and {MAX_SIDE_PX} pixels",
        )


def _check_columns(columns: tuple[Column, ...], shape: tuple[int, int, int]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"a table of {len(columns)} columns", f"use at most {MAX_COLUMNS}")
    if shape != (1, 1, len(columns)):
        raise DataError(f"samples of shape {shape}", f"a row of {len(columns)} columns is (1, 1, {len(columns)})")
    for column in columns:
        if not is_class_name(column.name):
            raise DataError(
                f"column name {column.name[:80]!r}",
                f"use 1 to {MAX_CLASS_NAME_CHARS} printable characters without outer spaces",
            )
        if not -MAX_COLUMN <= column.low < column.high <= MAX_COLUMN:
            raise DataError(
                f"column {column.name!r} reaches from {column.low} to {column.high}",
                f"give finite bounds, low before high, within {MAX_COLUMN:g}",
            )
    if len({column.name for column in columns}) != len(columns):
        raise DataError("two columns have the same name", "rename one of them")


def _column(entry: Any) -> Column:
    if not isinstance(entry, list) or [type(part) for part in entry] != [str, float, float]:
        raise DecodeError("a column is its name and two numbers")
    return Column(entry[0], entry[1], entry[2])


def _listed(names: tuple[str, ...], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ..." if len(names) > most else shown
