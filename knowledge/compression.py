"""Small arrays to few bytes and back; the way back never takes more memory than it was told to expect.

What is smallest differs (bytes per sample, condensed samples; `tests/test_knowledge_packet.py` compares):

    samples                raw    zlib   lzma   lzma, pixel-major   lossless WebP
    8x8, 17 levels          64    28.7   26.9        24.5               26.9
    28x28, 256 levels      784   611    522         576                497

Pixel-major means the first pixel of all samples, then the second...: what a pixel is like at all
tells more about small samples than its neighbours do. LZMA is used raw, with fixed filters: no header of the
sender's decides how much memory is taken.
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..codec import expect_map
from ..errors import PacketError
from .data import Images
from .space import is_rows

_LZMA_FILTERS: list[dict[str, Any]] = [
    {"id": lzma.FILTER_LZMA1, "preset": 9, "dict_size": 1 << 20, "lc": 3, "lp": 0, "pb": 0}
]
_WEBP_SIGNATURE = 0x2F


def squeeze(data: bytes) -> dict[str, Any]:
    """The smallest of several encodings, as a map ``{"codec", "data"}`` for `meshlore.codec.pack`."""
    return _smallest({"raw": data, "zlib": zlib.compress(data, 9), "lzma": _lzma(data)})


def unsqueeze(value: Any, *, size_bytes: int) -> bytes:
    """The inverse of `squeeze` on foreign values.

    Raises:
        PacketError: unknown codec, or the content is not exactly ``size_bytes`` long.
    """
    fields = expect_map(value, {"codec": str, "data": bytes})
    return _expand(fields["codec"], fields["data"], size_bytes)


def squeeze_images(images: Images) -> dict[str, Any]:
    """Losslessly encode uint8 (n, channels, height, width), n >= 1, whichever way is smallest."""
    encodings = {
        "zlib": zlib.compress(images.tobytes(), 9),
        "lzma": _lzma(images.tobytes()),
        "lzma-pixel-major": _lzma(_pixel_major(images)),
    }
    if not is_rows(images.shape):
        encodings["webp"] = _webp(images)
    return _smallest(encodings)


def unsqueeze_images(value: Any, shape: tuple[int, int, int, int]) -> Images:
    """The inverse of `squeeze_images` on foreign values; the caller has checked that the shape is affordable.

    Raises:
        PacketError: unknown codec, damaged, or the content is not of that shape.
    """
    fields = expect_map(value, {"codec": str, "data": bytes})
    codec, data = fields["codec"], fields["data"]
    if codec == "webp" and not is_rows(shape):
        return _from_webp(data, shape)
    if codec == "lzma-pixel-major":
        columns = np.frombuffer(_expand("lzma", data, math.prod(shape)), np.uint8)
        return np.ascontiguousarray(columns.reshape(-1, shape[0]).T).reshape(shape)
    return np.frombuffer(_expand(codec, data, math.prod(shape)), np.uint8).reshape(shape).copy()


def byte_planes(array: NDArray[Any]) -> bytes:
    """(n, k) values, little-endian, first all low bytes, then all high ones, column by column."""
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    as_bytes = np.frombuffer(little_endian.tobytes(), np.uint8)
    return as_bytes.reshape(*array.shape, array.itemsize).transpose(2, 1, 0).tobytes()


def from_byte_planes(data: bytes, dtype: type[np.generic], shape: tuple[int, int]) -> NDArray[Any]:
    """The inverse of `byte_planes`; the data has the right length."""
    little_endian = np.dtype(dtype).newbyteorder("<")
    planes = np.frombuffer(data, np.uint8).reshape(little_endian.itemsize, shape[1], shape[0])
    return np.frombuffer(planes.transpose(2, 1, 0).tobytes(), little_endian).reshape(shape).astype(dtype)


def _smallest(encodings: dict[str, bytes]) -> dict[str, Any]:
    codec = min(encodings, key=lambda name: len(encodings[name]))
    return {"codec": codec, "data": encodings[codec]}


def _expand(codec: str, data: bytes, size_bytes: int) -> bytes:
    try:
        if codec == "raw":
            content, complete = data, True
        elif codec == "zlib":
            inflate = zlib.decompressobj()
            content = inflate.decompress(data, size_bytes + 1)
            complete = inflate.eof and not inflate.unused_data
        elif codec == "lzma":
            expand = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA_FILTERS)
            content = expand.decompress(data, max_length=size_bytes + 1)
            complete = expand.eof and not expand.unused_data
        else:
            raise PacketError(f"unknown codec {codec[:20]!r}")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise PacketError(f"the {codec} data is damaged ({error})") from None
    if not complete or len(content) != size_bytes:
        raise PacketError(f"the {codec} data does not hold exactly {size_bytes} bytes")
    return content


def _lzma(data: bytes) -> bytes:
    return lzma.compress(data, format=lzma.FORMAT_RAW, filters=_LZMA_FILTERS)


def _pixel_major(images: Images) -> bytes:
    return images.reshape(len(images), -1).T.tobytes()


def _sheet_size(shape: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """(rows, columns, height_px, width_px) of the nearly square sheet that holds all samples."""
    n, _, height, width = shape
    columns = math.isqrt(n - 1) + 1
    rows = -(-n // columns)
    return rows, columns, rows * height, columns * width


def _webp(images: Images) -> bytes:
    from PIL import Image

    n, channels, height, width = images.shape
    rows, columns, _, _ = _sheet_size((n, channels, height, width))
    cells = np.zeros((rows * columns, channels, height, width), np.uint8)
    cells[:n] = images
    grid = cells.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    sheet = np.ascontiguousarray(grid.reshape(rows * height, columns * width, channels))
    picture = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    out = io.BytesIO()
    picture.save(out, "WEBP", lossless=True, quality=75, method=6 if images.size < 2**21 else 4)
    return out.getvalue()


def _from_webp(data: bytes, shape: tuple[int, int, int, int]) -> Images:
    from PIL import Image

    n, channels, height, width = shape
    rows, columns, sheet_height, sheet_width = _sheet_size(shape)
    # one VP8L chunk and nothing else (RFC 9649): no metadata, no animation, and the size is known unread
    chunk = int.from_bytes(data[16:20], "little")
    if (
        len(data) < 25
        or (data[:4], data[8:16]) != (b"RIFF", b"WEBPVP8L")
        or int.from_bytes(data[4:8], "little") != len(data) - 8
        or chunk + chunk % 2 != len(data) - 20
        or data[20] != _WEBP_SIGNATURE
    ):
        raise PacketError("the WebP data is not one lossless picture")
    sides = int.from_bytes(data[21:25], "little")
    if ((sides & 0x3FFF) + 1, (sides >> 14 & 0x3FFF) + 1) != (sheet_width, sheet_height):
        raise PacketError(f"the WebP picture is not {sheet_width}x{sheet_height} pixels")
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP",)) as picture:
            mode, pixels = picture.mode, np.asarray(picture)
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise PacketError(f"the WebP data is damaged ({error})") from None
    if mode != "RGB" or pixels.shape != (sheet_height, sheet_width, 3):
        raise PacketError(f"the WebP picture is {mode}, not RGB")
    if channels == 1 and not (pixels == pixels[:, :, :1]).all():
        raise PacketError("the WebP picture is in colour where grey samples are expected")
    cells = pixels[:, :, :channels].reshape(rows, height, columns, width, channels)
    images = cells.transpose(0, 2, 4, 1, 3).reshape(rows * columns, channels, height, width)
    if images[n:].any():
        raise PacketError("the WebP picture holds more than the samples")
    return np.ascontiguousarray(images[:n])
