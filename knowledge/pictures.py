"""From one image file to one small sample, for whatever people have on their devices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 50_000_000
_EXIF_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Header:
    """What an image file says of itself: (height, width) in pixels as it is to be seen, and its frames."""

    size: tuple[int, int]
    frames: int


def read_header(path: Path) -> Header:
    """Raises DataError if the file is not an image, or a far too large one."""
    with _opened(path) as picture:
        width, height = picture.size
        # a PNG without EXIF data in its head would be decoded whole to look for some at its end
        exif = picture.getexif() if picture.format != "PNG" or "exif" in picture.info else {}
        turned = exif.get(_EXIF_ORIENTATION, 1) in _LYING
        # phones put a preview behind the photo (MPO): that is no animation
        frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        return Header((width, height) if turned else (height, width), frames)


def read_picture(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The first frame of an image file, turned upright, on white, resized, uint8 RGB (height, width, 3).

    Raises:
        DataError: not an image, broken, truncated, or of a kind that has no plain 8-bit form.
    """
    from PIL import ImageOps

    with _opened(path) as picture:
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return np.asarray(resized(_flattened(upright), size).convert("RGB"))


def resized(picture: Picture, size: tuple[int, int]) -> Picture:
    """The picture stretched to (height, width), smoothed when it shrinks."""
    from PIL import Image

    height, width = size
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BICUBIC)


@contextmanager
def _opened(path: Path) -> Iterator[Picture]:
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are judged here, other oddities do not matter
            with Image.open(path, formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(_too_large(path), "shrink or remove it")
                yield picture
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(_too_large(path), "shrink or remove it") from None
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read", "replace or remove it") from None
    except FileNotFoundError:
        raise DataError(f"there is no file {path}", "check its name") from None
    except PermissionError:
        raise DataError(f"{path} may not be read", f"chmod u+r '{path}'") from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"{path} cannot be used ({reason})", "replace or remove it") from None


def _too_large(path: Path) -> str:
    return f"{path} has more than {MAX_PIXELS // 1_000_000} megapixels"


def _flattened(picture: Picture) -> Picture:
    """The picture as 8-bit grey or RGB, what is transparent becoming white."""
    from PIL import Image

    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture).astype(np.uint32) // 257).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("32-bit pixels; save it with 8 bits")
    if picture.mode in _TRANSPARENT_MODES or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return picture if picture.mode in ("L", "RGB") else picture.convert("L" if picture.mode == "1" else "RGB")
