"""Tables of numbers with class labels: read from CSV files, cut into the levels of a space, and written again."""

from __future__ import annotations

import csv
import math
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, StateError
from .data import Images
from .space import MAX_COLUMN, MAX_COLUMNS, Column, Space, is_class_name

SUFFIXES = frozenset((".csv", ".tsv"))
LABEL_NAMES = ("label", "class")
MAX_FILE_BYTES = 2**30
OUTLIERS = 0.5, 99.5  # percentiles of a column between which its range is taken from the data
MARGIN = 0.05  # of the span between them, added at both ends

Ranges = Mapping[str, tuple[float, float]]
"""Bounds (low, high) of columns that are given by hand."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table as it was read.

    Attributes:
        columns: names of the numeric columns, NFC.
        values: float64 (n, number of columns), finite.
        labels: a class name per row; None if the table has no label column.
        lines: the line of the file on which each row stands.
    """

    columns: tuple[str, ...]
    values: NDArray[np.float64]
    labels: tuple[str, ...] | None
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()


def read_csv(path: Path, space: Space | None = None) -> Table:
    """A CSV file whose first line names the columns; ``,``, ``;`` or tabs between them, a point in numbers.

    Args:
        space: the columns that are wanted, found by name; the label column may then be missing, and other
            columns are left out. None: all columns are wanted, and one is the label: that named ``label``
            or ``class``, else the last.

    Raises:
        DataError: not such a file, a missing column, or cells that are empty or no numbers: one line that names
            the first by line and column.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path} has more than {MAX_FILE_BYTES} bytes", "use fewer rows")
        with path.open(encoding="utf-8-sig", newline="") as file:
            heading = file.readline()
            file.seek(0)
            rows = csv.reader(file, delimiter=max(",;\t", key=heading.count), strict=True)
            header = [unicodedata.normalize("NFC", cell.strip()) for cell in next(rows, [])]
            places, label, notes = _layout(path, header, space)
            return _read(path, rows, header, places, label, notes)
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file ({error})", "save it as CSV") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "check its path and rights") from None


def read_ranges(path: Path) -> dict[str, tuple[float, float]]:
    """Bounds of columns from a TOML file of lines like ``age = [0, 120]``.

    Raises:
        DataError: not such a file.
    """
    remedy = "write one line per column, like: age = [0, 120]"
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "check its path and rights") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path} is not TOML ({' '.join(str(error).split())[:100]})", remedy) from None
    ranges = {}
    for name, bounds in fields.items():
        if not isinstance(bounds, list) or len(bounds) != 2 or not all(type(b) in (int, float) for b in bounds):
            raise DataError(f"{path}: {name!r} is not given as two numbers", remedy)
        ranges[unicodedata.normalize("NFC", name)] = (float(bounds[0]), float(bounds[1]))
    return ranges


def table_space(table: Table, classes: Sequence[str], ranges: Ranges | None = None) -> Space:
    """The space of a table: each column between outliers of its own, a little widened, or between given bounds.

    Raises:
        DataError: bounds of a column that is not there, or values that make no space.
    """
    given = ranges or {}
    if unknown := sorted(set(given) - set(table.columns)):
        raise DataError(f"a range is given for {unknown[0]!r}, which is no column", f"known: {_listed(table.columns)}")
    columns = []
    for name, values in zip(table.columns, table.values.T, strict=True):
        low, high = given.get(name) or robust_range(values)
        columns.append(Column(name, low, high))
    return Space((1, 1, len(columns)), tuple(classes), columns=tuple(columns))


def robust_range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Bounds for a column, rounded to a hundredth of its span: what is rare lies outside, and is not told."""
    low, high = (float(bound) for bound in np.percentile(values, OUTLIERS))
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):
        span = max(1.0, 0.1 * abs(low))
        low, high = low - span / 2, high + span / 2
    decimals = 2 - math.floor(math.log10(span))
    return round(low - MARGIN * span, decimals), round(high + MARGIN * span, decimals)


def quantised(values: NDArray[np.float64], space: Space) -> tuple[Images, int]:
    """Rows of numbers as levels.

    Args:
        values: float64 (n, number of columns), finite, in the space's order of columns.

    Returns:
        uint8 (n, 1, 1, number of columns), and how many values lay outside their column's range.
    """
    low, high = _bounds(space)
    outside = int(((values < low) | (values > high)).sum())
    share = (np.clip(values, low, high) - low) / (high - low)
    levels = np.round(share * (space.levels - 1)).astype(np.uint8)
    return levels.reshape(len(values), *space.shape), outside


def in_units(samples: Images, space: Space) -> NDArray[np.float64]:
    """Levels uint8 (n, 1, 1, number of columns) as numbers of the columns' own units, float64 (n, columns)."""
    low, high = _bounds(space)
    return low + samples.reshape(-1, space.width) * ((high - low) / (space.levels - 1))


def fitted_rows(table: Table, space: Space) -> tuple[Images, list[str]]:
    """The rows of a table as samples of a space, columns found by name, and notes on what was cut off.

    Raises:
        DataError: a column is missing.
    """
    if missing := [column.name for column in space.columns if column.name not in table.columns]:
        raise DataError(f"the column {missing[0]!r} is missing", f"the mesh has {_listed(_names(space))}")
    order = [table.columns.index(column.name) for column in space.columns]
    samples, outside = quantised(table.values[:, order], space)
    notes = []
    if left := [name for name in table.columns if name not in _names(space)]:
        notes.append(f"left out {len(left)} columns that the mesh does not have: {_listed(left, 3)}")
    if outside:
        share = outside / max(1, samples.size)
        notes.append(f"{outside} values ({share:.2%}) lie outside the ranges of their columns and count as their ends")
    return samples, notes


def write_csv(path: Path, values: NDArray[np.float64], columns: Sequence[str], labels: Iterable[str]) -> None:
    """Rows of numbers and their class names as a CSV file that `read_csv` reads.

    Raises:
        StateError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow([*columns, "label"])
            for row, label in zip(values, labels, strict=True):
                lines.writerow([*(f"{value:.6g}" for value in row), label])
    except OSError as error:
        raise StateError(f"cannot write {path} ({error.strerror})", "choose another place") from None


def _layout(path: Path, header: list[str], space: Space | None) -> tuple[list[int], int | None, list[str]]:
    """Where the wanted columns and the label (None: nowhere) are, and notes."""
    if len(set(header)) != len(header) or not all(is_class_name(name) for name in header):
        bad = next((name for name in header if not is_class_name(name) or header.count(name) > 1), "")
        raise DataError(
            f"{path}: {bad[:80]!r} in its first line cannot name a column",
            "give every column a name of its own, of at most 64 characters, in the first line",
        )
    if len(header) > MAX_COLUMNS + 1:
        raise DataError(f"{path} has {len(header)} columns", f"use at most {MAX_COLUMNS} and a label")
    named = [place for place, name in enumerate(header) if name.casefold() in LABEL_NAMES]
    if space is not None:
        if missing := [name for name in _names(space) if name not in header]:
            raise DataError(f"{path} lacks the column {missing[0]!r}", f"the mesh has {_listed(_names(space))}")
        places = [header.index(name) for name in _names(space)]
        left = [place for place in range(len(header)) if place not in places]
        label = next((place for place in left if place in named), left[-1] if left[-1:] == [len(header) - 1] else None)
        unused = [header[place] for place in left if place != label]
        return places, label, [f"{path.name}: left out {len(unused)} columns: {_listed(unused, 3)}"] if unused else []
    if len(named) > 1:
        raise DataError(f"{path} has columns {header[named[0]]!r} and {header[named[1]]!r}", "rename one of them")
    if len(header) < 2:
        raise DataError(f"{path} has {len(header)} columns", "give numeric columns and one named 'label'")
    label = named[0] if named else len(header) - 1
    note = [] if named else [f"{path.name}: the last column, {header[label]!r}, is taken for the label"]
    return [place for place in range(len(header)) if place != label], label, note


def _read(path: Path, rows: Any, header: list[str], places: list[int], label: int | None, notes: list[str]) -> Table:
    values: list[list[float]] = []
    labels: list[str] = []
    lines: list[int] = []
    bad: list[str] = []
    for row in rows:
        if not row:
            continue
        line = rows.line_num
        if len(row) != len(header):
            raise DataError(f"{path}, line {line}: {len(row)} cells under {len(header)} names", "mend that line")
        numbers = [_number(row[place]) for place in places]
        bad += [
            f"line {line}, column {header[place]!r}: {row[place].strip()[:40]!r}"
            for place, number in zip(places, numbers, strict=True)
            if number is None
        ]
        if label is not None:
            name = unicodedata.normalize("NFC", row[label].strip())
            if not is_class_name(name):
                raise DataError(f"{path}, line {line}: {name[:40]!r} is no class name", "label every row")
            labels.append(name)
        values.append([number or 0.0 for number in numbers])
        lines.append(line)
    if bad:
        more = f" ({len(bad) - 1} more cells like it)" if len(bad) > 1 else ""
        raise DataError(
            f"{path}, {bad[0]} is not a number{more}",
            "fill it in, write decimals with a point, or remove the row or the column",
        )
    if not values:
        raise DataError(f"{path} has no rows", "add some below the first line")
    array = np.array(values, dtype=np.float64).reshape(len(values), len(places))
    columns = tuple(header[place] for place in places)
    return Table(columns, array, None if label is None else tuple(labels), tuple(lines), tuple(notes))


def _number(cell: str) -> float | None:
    """A finite number of sensible size; None for all else, empty cells among it."""
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if -MAX_COLUMN < number < MAX_COLUMN and "_" not in cell else None


def _bounds(space: Space) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    low = np.array([column.low for column in space.columns])
    return low, np.array([column.high for column in space.columns])


def _names(space: Space) -> list[str]:
    return [column.name for column in space.columns]


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
