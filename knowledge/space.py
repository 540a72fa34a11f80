"""A space is what makes knowledge comparable: sample shape, grey levels and ordered class names."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..codec import expect_map, pack
from ..errors import DataError, DecodeError

MIN_SIDE_PX = 8
MAX_SIDE_PX = 64
MAX_CLASSES = 1000
MAX_CLASS_NAME_CHARS = 64


@dataclass(frozen=True)
class Space:
    """The agreement of one mesh about samples and classes.

    Attributes:
        shape: (channels, height, width); 1 or 3 channels, sides of 8 to 64 pixels.
        classes: 2 to 1000 distinct names; the position of a name is its label.
        levels: samples hold the values 0 .. levels - 1 (256 for 8-bit images, 17 for digits).
        version: raised by a mesh that changes what its classes mean.

    Raises:
        DataError: a value is outside these bounds.
    """

    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    levels: int = 256
    version: int = 1

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        if channels not in (1, 3):
            raise DataError(f"samples of {channels} channels", "use grey (1) or RGB (3) images")
        if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (height, width)):
            raise DataError(
                f"samples of {width}x{height} pixels",
                f"choose sides between {MIN_SIDE_PX} and {MAX_SIDE_PX} pixels",
            )
        if not 2 <= self.levels <= 256:
            raise DataError(f"{self.levels} grey levels", "use 2 to 256")
        if self.version < 1:
            raise DataError(f"space version {self.version}", "versions start at 1")
        if not 2 <= len(self.classes) <= MAX_CLASSES:
            raise DataError(
                f"{len(self.classes)} class{'es' if len(self.classes) != 1 else ''}",
                f"name the 2 to {MAX_CLASSES} classes of the whole mesh, not only those of this device",
            )
        for name in self.classes:
            if not is_class_name(name):
                raise DataError(
                    f"class name {name[:80]!r}",
                    f"use 1 to {MAX_CLASS_NAME_CHARS} printable characters without outer spaces",
                )
        folded = {name.casefold() for name in self.classes}
        if len(folded) != len(self.classes):
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
        }

    @classmethod
    def from_map(cls, value: Mapping[str, Any]) -> Space:
        """Decode a foreign map.

        Raises:
            DecodeError: unknown fields, wrong types or values out of bounds.
        """
        fields = expect_map(value, {"shape": list, "classes": list, "levels": int, "version": int})
        shape, classes = fields["shape"], fields["classes"]
        if len(shape) != 3 or not all(type(side) is int for side in shape):
            raise DecodeError("the shape of a space is three integers")
        if not all(type(name) is str for name in classes):
            raise DecodeError("class names are strings")
        try:
            return cls((shape[0], shape[1], shape[2]), tuple(classes), fields["levels"], fields["version"])
        except DataError as error:
            raise DecodeError(f"not a valid space: {error.message}") from None

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of the packed map: equal ids mean that knowledge may be exchanged."""
        return hashlib.sha256(pack(self.to_map())).hexdigest()

    def __str__(self) -> str:
        colour = "grey" if self.channels == 1 else "RGB"
        return f"{self.width}x{self.height} {colour}, {self.levels} levels, {self.num_classes} classes"


def is_class_name(name: str) -> bool:
    """Whether a name is printable, NFC-normalised, short enough and without outer spaces."""
    return (
        0 < len(name) <= MAX_CLASS_NAME_CHARS
        and name.isprintable()
        and name == name.strip()
        and name == unicodedata.normalize("NFC", name)
    )


def _listed(names: tuple[str, ...], most: int = 12) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, ..." if len(names) > most else shown
