"""The data sets that meshlore knows by name."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .data import Dataset, fixed_permutation
from .space import Space
from .tables import Table, quantised, table_space

DIGITS = Space((1, 8, 8), tuple("0123456789"), levels=17)
DIGITS_TEST_SAMPLES = 500
DIGITS_SPLIT_SEED = 1234
TABLE_SPLIT_SEED = 1234

FASHION_MNIST = Space(
    (1, 28, 28),
    ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
)
FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def digits(part: str) -> Dataset:
    """The 1,797 handwritten digits that come with scikit-learn, 8x8 pixels of 17 levels.

    Args:
        part: ``"train"`` (1,297 samples) or ``"test"`` (500); the split is always the same.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = fixed_permutation(len(bunch.target), DIGITS_SPLIT_SEED)
    chosen = order[:DIGITS_TEST_SAMPLES] if part == "test" else order[DIGITS_TEST_SAMPLES:]
    images = bunch.images.astype(np.uint8)[:, None]
    return Dataset(DIGITS, images[chosen], bunch.target.astype(np.int64)[chosen])


def fashion_mnist(part: str, folder: Path = FASHION_MNIST_FOLDER) -> Dataset:
    """Fashion-MNIST (Xiao et al., 2017, arXiv 1708.07747), 28x28 pixels of 256 levels.

    Args:
        part: ``"train"`` (60,000 samples) or ``"test"`` (10,000).
        folder: where the four gzipped IDX files lie; Debian's package puts them in the default.

    Raises:
        DataError: files missing or damaged.
    """
    prefix = "t10k" if part == "test" else "train"
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if images.shape[1:] != (28, 28) or len(images) != len(labels) or labels.max(initial=0) > 9:
        raise DataError(f"{folder} does not hold Fashion-MNIST", _install)
    return Dataset(FASHION_MNIST, images[:, None], labels.astype(np.int64))


def breast_cancer(part: str) -> Dataset:
    """The breast cancer data of Wisconsin that come with scikit-learn: 30 columns, 2 classes.

    Args:
        part: ``"train"`` (419 rows) or ``"test"`` (150); the split is always the same, and the ranges of the
            columns are those of the training part.
    """
    from sklearn.datasets import load_breast_cancer

    return _table(load_breast_cancer(), part, test_samples=150)


def wine(part: str) -> Dataset:
    """The wine data of UCI that come with scikit-learn: 13 columns, 3 classes.

    Args:
        part: ``"train"`` (128 rows) or ``"test"`` (50), as in `breast_cancer`.
    """
    from sklearn.datasets import load_wine

    return _table(load_wine(), part, test_samples=50)


def _table(bunch: Any, part: str, *, test_samples: int) -> Dataset:
    order = fixed_permutation(len(bunch.target), TABLE_SPLIT_SEED)
    train = order[test_samples:]
    rows = Table(tuple(map(str, bunch.feature_names)), bunch.data[train], None, ())
    space = table_space(rows, [str(name) for name in bunch.target_names])
    chosen = order[:test_samples] if part == "test" else train
    samples, _ = quantised(bunch.data[chosen], space)
    return Dataset(space, samples, bunch.target.astype(np.int64)[chosen])


_install = "install it anew: apt-get install dataset-fashion-mnist"
_MOST_IDX_BYTES = 2**26


def _read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    try:
        with gzip.open(path) as file:
            content = file.read(_MOST_IDX_BYTES)
    except FileNotFoundError:
        raise DataError(
            f"Fashion-MNIST is not on this device ({path} is missing)",
            "apt-get install dataset-fashion-mnist, or use digits",
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})", _install) from None
    header = 4 + 4 * dimensions
    # magic number: two zero bytes, 8 for unsigned bytes, the number of dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        raise DataError(f"{path} is not an IDX file of {dimensions} dimensions", _install)
    shape = tuple(int(side) for side in np.frombuffer(content, ">u4", dimensions, offset=4))
    if math.prod(shape) != len(content) - header:
        raise DataError(f"{path} is truncated", _install)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
