"""What tasks come to: typed results, which say who did them, how sure it is, how long it took and how far away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..codec import pack_array, unpack_array
from ..errors import DecodeError

MAX_RESULT_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """Who answered, how sure, how long it took.

    Attributes:
        node, peer_id: name and PeerID of the node that did it. Where several did, all names, the one that did most
            first, and its PeerID.
        hop: ``"here"``, ``"peer"`` or ``"anchor"``: the farthest of those who did it.
        took_s: seconds from submission to the result, on the node where the task was submitted.
        tried: names of nodes that failed before.
    """

    node: str
    peer_id: str
    hop: str
    took_s: float
    tried: tuple[str, ...] = ()


@dataclass(frozen=True)
class Classified:
    """Class name, confidence (softmax probability, 0..1) and who answered, by name, per image."""

    labels: tuple[str, ...]
    confidence: tuple[float, ...]
    by: tuple[str, ...]
    answer: Answer


@dataclass(frozen=True)
class Generated:
    """``images``: uint8 0..255, (n, height, width) grey or (n, height, width, 3); ``confidence``: share
    of them that the answering node's own classifier takes for the class."""

    images: np.ndarray
    label: str
    confidence: float
    answer: Answer


@dataclass(frozen=True)
class Evaluated:
    """Shares 0..1: ``accuracy`` over all images, ``balanced`` the mean over classes, ``personal`` the same
    images reweighted to the node's own class mix and predicted with it (None on a node without data)."""

    images: int
    accuracy: float
    balanced: float
    personal: float | None
    per_class: Mapping[str, float]
    answer: Answer


@dataclass(frozen=True)
class FineTuned:
    """Accuracy on the images taught (``before``, ``after``) and at home (private hold-out); ``kept`` is
    False when the new classifier was worse at home and was rolled back."""

    images: int
    before: float
    after: float
    home_before: float
    home_after: float
    kept: bool
    answer: Answer


@dataclass(frozen=True)
class Learned:
    """What fetching a skill came to; ``answer`` names who gave it.

    Attributes:
        classes: the class names asked for.
        samples: how many the skill brought.
        before, after: quality 0..1 for each of these classes, measured here.
        home_before, home_after: accuracy on the private hold-out, None where there is none.
        kept: False when it was rolled back; ``reason`` says why, in words.
    """

    classes: tuple[str, ...]
    samples: int
    before: Mapping[str, float]
    after: Mapping[str, float]
    home_before: float | None
    home_after: float | None
    kept: bool
    reason: str
    answer: Answer


Result = Classified | Generated | Evaluated | FineTuned | Learned
RESULTS: Mapping[str, type[Result]] = {
    kind.__name__: kind for kind in (Classified, Generated, Evaluated, FineTuned, Learned)
}


def result_to_map(result: Result) -> dict[str, Any]:
    """A result as plain values."""
    fields = {name: getattr(result, name) for name in result.__dataclass_fields__}
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            fields[name] = pack_array(value)
        elif isinstance(value, Answer):
            fields[name] = asdict(value)
        elif isinstance(value, Mapping):
            fields[name] = dict(value)
    return {"kind": type(result).__name__} | fields


def result_from_map(value: dict[str, Any], *, took_s: float) -> Result:
    """The inverse of `result_to_map`; ``took_s`` as seen by whoever asked.

    Raises:
        DecodeError: not such a map.
    """
    try:
        fields = dict(value)
        kind = RESULTS[fields.pop("kind")]
        answer = dict(fields.pop("answer"))
        fields["answer"] = Answer(**answer | {"took_s": took_s, "tried": tuple(answer["tried"])})
        if kind is Generated:
            fields["images"] = unpack_array(fields["images"], dtypes=("uint8",), max_bytes=MAX_RESULT_BYTES)
        fields |= {name: tuple(field) for name, field in fields.items() if isinstance(field, list)}
        return kind(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the result is malformed ({error!r})") from None
