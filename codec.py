"""Strict msgpack: the one way in which meshlore turns values into bytes and foreign bytes into values.

``pack`` is canonical (equal values give equal bytes), so packed values can be signed and hashed.
``unpack`` accepts exactly what ``pack`` can produce and raises `DecodeError` for all else: it is
the gate that every foreign byte passes, so its limits are checked before memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np

from .errors import DecodeError

MAX_DEPTH = 16
MAX_CONTAINERS = 65_536
_PLAIN = frozenset({str, bytes, int, bool, type(None)})
ARRAY_DTYPES = ("uint8", "float16", "float32", "int64")


def pack(value: Any) -> bytes:
    """Encode nested maps (string keys), lists, str, bytes, int, finite float, bool and None.

    Raises:
        TypeError, ValueError: the value is not of that kind; that is a bug of the caller.
    """
    packed: bytes = msgpack.packb(_canonical(value), use_bin_type=True, strict_types=True)
    return packed


def unpack(data: bytes, *, max_bytes: int, max_items: int = 4096) -> Any:
    """Decode bytes that ``pack`` could have made.

    Args:
        data: the bytes, foreign and not trusted.
        max_bytes: refuse longer input unread.
        max_items: most entries of any one map or list.

    Raises:
        DecodeError: too long, not canonical, trailing bytes, NaN, extension types, repeated keys...
    """
    if len(data) > max_bytes:
        raise DecodeError(f"{len(data)} bytes where at most {max_bytes} are allowed")
    count = _Containers()
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=count.on_map,
            list_hook=count.on_list,
            ext_hook=_no_extensions,
            max_array_len=max_items,
            max_map_len=max_items,
            max_ext_len=0,
        )
        if pack(value) != data:
            raise DecodeError("the encoding is not canonical")
    except DecodeError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise DecodeError(f"not a valid message ({reason[:120]})") from None
    return value


def pack_array(array: np.ndarray) -> dict[str, Any]:
    """A map that ``pack`` accepts: ``{"dtype", "shape", "data"}``, little-endian, C order."""
    if array.dtype.name not in ARRAY_DTYPES:
        raise TypeError(f"arrays of {array.dtype.name} are not sent; one of {ARRAY_DTYPES} is")
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": little_endian.tobytes()}


def unpack_array(value: Any, *, dtypes: Sequence[str] = ARRAY_DTYPES, max_bytes: int) -> np.ndarray:
    """The inverse of `pack_array` on foreign values; float arrays must be finite.

    Raises:
        DecodeError: unknown fields or dtype, a shape that does not match the data, NaN, too large.
    """
    fields = expect_map(value, {"dtype": str, "shape": list, "data": bytes})
    shape = fields["shape"]
    if fields["dtype"] not in dtypes or fields["dtype"] not in ARRAY_DTYPES:
        raise DecodeError(f"array of {fields['dtype'][:16]!r} where {list(dtypes)} is expected")
    if len(shape) > 4 or not all(type(side) is int and 0 <= side < 2**31 for side in shape):
        raise DecodeError("the array's shape is malformed")
    dtype = np.dtype(fields["dtype"])
    # an empty array is judged by its other sides too, as numpy does
    largest_bytes = math.prod(max(side, 1) for side in shape) * dtype.itemsize
    if largest_bytes > max_bytes or math.prod(shape) * dtype.itemsize != len(fields["data"]):
        raise DecodeError(f"array of shape {shape} with {len(fields['data'])} bytes of data")
    array = np.frombuffer(fields["data"], dtype.newbyteorder("<")).reshape(shape).astype(dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise DecodeError("the array holds NaN or infinity")
    return array


def expect_map(value: Any, fields: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    """``value`` if it is a map with exactly these keys and types (a bool is not an int).

    Raises:
        DecodeError: naming the first field that differs.
    """
    if not isinstance(value, dict):
        raise DecodeError(f"a {type(value).__name__} where a map is expected")
    if unknown := set(value) - set(fields):
        raise DecodeError(f"unknown field {sorted(unknown)[0][:40]!r}")
    for name, kind in fields.items():
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if name not in value:
            raise DecodeError(f"field {name!r} is missing")
        if type(value[name]) not in kinds:
            raise DecodeError(f"field {name!r} is a {type(value[name]).__name__}")
    return value


def _canonical(value: Any, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if type(value) in _PLAIN:  # most values by far
        return value
    if isinstance(value, dict):
        if not all(type(key) is str for key in value):
            raise TypeError("map keys are strings")
        return {key: _canonical(value[key], depth + 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_canonical(item, depth + 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are not sent")
    if type(value) is float:
        return value
    raise TypeError(f"{type(value).__name__} is not sent")


class _Containers:
    """Counts the maps and lists of one message: many small ones take far more memory than their bytes."""

    def __init__(self) -> None:
        self._left = MAX_CONTAINERS

    def on_map(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self._count()
        fields = dict(pairs)
        if len(fields) != len(pairs):
            raise DecodeError("a map repeats a key")
        return fields

    def on_list(self, items: list[Any]) -> list[Any]:
        self._count()
        return items

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise DecodeError(f"more than {MAX_CONTAINERS} maps and lists")


def _no_extensions(code: int, _data: bytes) -> Any:
    raise DecodeError(f"extension type {code} is not accepted")
