"""Classes that some nodes know and others do not, matched by name.

The classes that a mesh was founded with have the same label everywhere. Behind them every node numbers the
others as it meets them, so that a packet (or an answer, or a measured competence) says the names of its author's,
``added``, and who receives it turns them into its own numbers. A list of added names is foreign text: bounded,
checked, and believed only where samples stand behind a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, DecodeError
from .data import Labels
from .space import MAX_CLASSES, Space, class_key, is_class_name

MAX_INTRODUCED = 64  # classes that one packet may bring samples of beyond those that the mesh was founded with
F = TypeVar("F", np.float16, np.float32)
UNHEARD_OF = -24.0  # the logit of a class that a teacher does not know, from its largest one: no probability at all


def check_added(added: Any, space: Space) -> tuple[str, ...]:
    """Foreign names of classes beyond those that ``space`` was founded with.

    Raises:
        DecodeError: no class names, too many, or one twice or of a founding class.
    """
    founding = space.founding.classes
    if not isinstance(added, list | tuple) or not all(type(name) is str and is_class_name(name) for name in added):
        raise DecodeError("the added classes are not class names")
    if len(founding) + len(added) > MAX_CLASSES:
        raise DecodeError(f"{len(added)} added classes", f"{MAX_CLASSES} classes are the most")
    if len({class_key(name) for name in (*founding, *added)}) != len(founding) + len(added):
        raise DecodeError("an added class is named twice, or the mesh was founded with it")
    return tuple(added)


def introduced(labels: Labels, added: Sequence[str], space: Space) -> tuple[str, ...]:
    """The names beyond the founding ones that a packet with these labels int64 (n,) brings samples of."""
    founding = space.num_classes - space.added
    used = set(labels.tolist())
    return tuple(name for number, name in enumerate(added, start=founding) if number in used)


def grown(space: Space, names: Sequence[str]) -> Space:
    """``space`` and as many of ``names`` as it can hold."""
    for name in names:
        try:
            space = space.grown([name])
        except DataError:
            return space
    return space


def aligned_logits(logits: NDArray[np.float32], added: Sequence[str], space: Space) -> NDArray[np.float32]:
    """float32 (n, founding + added) as (n, num_classes): names that ``space`` lacks fall away, others that the
    teacher lacks have no probability."""
    return spread_logits(logits, columns_in(added, space), space)


def aligned_shares(shares: Sequence[float], added: Sequence[str], space: Space) -> tuple[float, ...]:
    """One number per class of somebody's, by the names of ``space``; 0 for a class that it does not name."""
    values = [0.0] * space.num_classes
    for share, column in zip(shares, columns_in(added, space).tolist(), strict=False):
        if column >= 0:
            values[column] = share
    return tuple(values)


def columns_in(added: Sequence[str], space: Space) -> NDArray[np.int64]:
    """For each class of somebody's the label that it has in ``space``; -1: none."""
    place = {class_key(name): label for label, name in enumerate(space.classes)}
    founding = space.num_classes - space.added
    return np.array([*range(founding), *(place.get(class_key(name), -1) for name in added)], dtype=np.int64)


def spread_logits(logits: NDArray[F], columns: NDArray[np.int64], space: Space) -> NDArray[F]:
    """Logits (n, k) under the k labels ``columns`` as (n, num_classes)."""
    largest = logits.max(axis=1, keepdims=True).astype(np.float32)
    spread = np.broadcast_to(largest + UNHEARD_OF, (len(logits), space.num_classes)).copy()
    spread[:, columns[columns >= 0]] = logits[:, columns >= 0]
    limit = float(np.finfo(logits.dtype).max)
    clipped: NDArray[F] = np.clip(spread, -limit, limit).astype(logits.dtype)
    return clipped
