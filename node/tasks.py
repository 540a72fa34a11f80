"""Tasks that a user injects into the mesh, and their results: typed, bounded, no code inside.

On the wire a task is a map of plain values (`to_map`, `from_map`); a node refuses what it does not
know. Images are uint8 arrays of *levels* (n, channels, height, width) in the mesh's space; the client
turns files, PIL images and float arrays into that (`meshlore.knowledge.samples`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from ..codec import expect_map, pack_array, unpack_array
from ..errors import DecodeError, InvalidTask
from ..knowledge.space import Space

MAX_IMAGES = 100_000
MAX_GENERATED = 4096
MAX_STEPS = 100_000
CHUNK_BYTES = 512 * 1024
Version = Literal["now", "before"]
Head = Literal["global", "personal"]
Where = str
"""``"best"``: the node that competences say is best; ``"here"``: this device only; else a node's name."""


@dataclass(frozen=True)
class Classify:
    """Name the class of each image. Runs on the best node unless ``where`` says otherwise.

    Attributes:
        images: uint8 levels (n, channels, height, width); `meshlore.connect().submit` also takes paths,
            PIL images, and arrays (n, height, width[, channels]) of uint8 0..255 or floats 0..1.
        head: ``"personal"``: for samples like this device's own. Its own class mix is made use of, and where
            that is sound what it learned alone (`knowledge.personal`); no other node can.
    """

    images: Any
    where: Where = "best"
    head: Head = "global"
    kind: Literal["classify"] = field(default="classify", init=False)


@dataclass(frozen=True)
class Generate:
    """Draw ``n`` new images of the class ``label``."""

    label: str
    n: int = 16
    seed: int = 0
    where: Where = "best"
    version: Version = "now"
    kind: Literal["generate"] = field(default="generate", init=False)


@dataclass(frozen=True)
class Evaluate:
    """Measure the classifier of one node (this one by default) on labelled images.

    Attributes:
        images: as in `Classify`.
        labels: class names, one per image.
        version: ``"before"``: the classifier as it was before the mesh taught it.
    """

    images: Any
    labels: Any
    where: Where = "here"
    version: Version = "now"
    kind: Literal["evaluate"] = field(default="evaluate", init=False)


@dataclass(frozen=True)
class FineTune:
    """Teach this device's classifier labelled images. They join its private data and never leave it.

    Attributes:
        steps: optimisation steps, 0: as many as the node's own training takes.
    """

    images: Any
    labels: Any
    steps: int = 0
    kind: Literal["fine-tune"] = field(default="fine-tune", init=False)

    @property
    def where(self) -> Where:
        return "here"


Task = Classify | Generate | Evaluate | FineTune


@dataclass(frozen=True)
class Answer:
    """Who answered, how sure, how long it took.

    Attributes:
        node, peer_id: name and PeerID of the node that did it.
        hop: ``"here"``, ``"peer"`` or ``"anchor"``.
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
    """Class name and confidence (softmax probability, 0..1) per image."""

    labels: tuple[str, ...]
    confidence: tuple[float, ...]
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


Result = Classified | Generated | Evaluated | FineTuned


def to_map(task: Task) -> dict[str, Any]:
    """The task as plain values; ``images`` must be an array of levels, ``labels`` class indices."""
    match task:
        case Classify():
            return {"kind": task.kind, "where": task.where, "images": pack_array(task.images), "head": task.head}
        case Generate():
            return {
                "kind": task.kind,
                "where": task.where,
                "label": task.label,
                "n": task.n,
                "seed": task.seed,
                "version": task.version,
            }
        case Evaluate():
            return {
                "kind": task.kind,
                "where": task.where,
                "images": pack_array(task.images),
                "labels": pack_array(np.asarray(task.labels, dtype=np.int64)),
                "version": task.version,
            }
        case FineTune():
            return {
                "kind": task.kind,
                "images": pack_array(task.images),
                "labels": pack_array(np.asarray(task.labels, dtype=np.int64)),
                "steps": task.steps,
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
    kinds: dict[str, type[Result]] = {kind.__name__: kind for kind in (Classified, Generated, Evaluated, FineTuned)}
    try:
        fields = dict(value)
        kind = kinds[fields.pop("kind")]
        answer = dict(fields.pop("answer"))
        fields["answer"] = Answer(**answer | {"took_s": took_s, "tried": tuple(answer["tried"])})
        if kind is Generated:
            fields["images"] = unpack_array(fields["images"], dtypes=("uint8",), max_bytes=256 * 1024 * 1024)
        if kind is Classified:
            fields["labels"], fields["confidence"] = tuple(fields["labels"]), tuple(fields["confidence"])
        return kind(**fields)
    except (KeyError, TypeError, ValueError) as error:
        raise DecodeError(f"the result is malformed ({error!r})") from None


_FIELDS: dict[str, dict[str, type]] = {
    "classify": {"kind": str, "where": str, "images": dict, "head": str},
    "generate": {"kind": str, "where": str, "label": str, "n": int, "seed": int, "version": str},
    "evaluate": {"kind": str, "where": str, "images": dict, "labels": dict, "version": str},
    "fine-tune": {"kind": str, "images": dict, "labels": dict, "steps": int},
}


def from_map(value: Any, space: Space, *, max_bytes: int) -> Task:
    """A foreign map as a task in ``space``.

    Raises:
        InvalidTask: unknown kind or field, wrong shape, class unknown to the mesh, number out of range.
    """
    try:
        kind = value.get("kind") if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise InvalidTask(f"no such task: {str(kind)[:40]!r}", f"one of {', '.join(_FIELDS)}")
        fields = expect_map(value, _FIELDS[kind])
        if kind == "generate":
            return _generate(fields, space)
        images = _images(fields["images"], space, max_bytes)
        if kind == "classify":
            return Classify(images, where=fields["where"], head=_head(fields["head"]))
        labels = unpack_array(fields["labels"], dtypes=("int64",), max_bytes=8 * MAX_IMAGES)
        if labels.shape != (len(images),) or not ((labels >= 0) & (labels < len(space.classes))).all():
            raise InvalidTask("the labels do not fit the images", "one known class per image")
        if kind == "evaluate":
            return Evaluate(images, labels, where=fields["where"], version=_version(fields["version"]))
        if not 0 <= fields["steps"] <= MAX_STEPS:
            raise InvalidTask(f"{fields['steps']} steps", f"0 to {MAX_STEPS}")
        return FineTune(images, labels, steps=fields["steps"])
    except DecodeError as error:
        raise InvalidTask(f"the task is malformed ({error})") from None


def _generate(fields: dict[str, Any], space: Space) -> Generate:
    if fields["label"] not in space.classes:
        raise InvalidTask(
            f"no class {fields['label'][:40]!r} in this mesh", f"its classes are {', '.join(space.classes)}"
        )
    if not 1 <= fields["n"] <= MAX_GENERATED:
        raise InvalidTask(f"{fields['n']} images were asked for", f"ask for 1 to {MAX_GENERATED}")
    if not 0 <= fields["seed"] < 2**31:
        raise InvalidTask(f"seed {fields['seed']}", "0 to 2147483647")
    return Generate(
        fields["label"],
        fields["n"],
        fields["seed"],
        where=fields["where"],
        version=_version(fields["version"]),
    )


def _images(value: Any, space: Space, max_bytes: int) -> np.ndarray:
    images = unpack_array(value, dtypes=("uint8",), max_bytes=max_bytes)
    if images.ndim != 4 or images.shape[1:] != tuple(space.shape) or not 1 <= len(images) <= MAX_IMAGES:
        raise InvalidTask(
            f"images of shape {images.shape}",
            f"send (n, {', '.join(map(str, space.shape))}), 1 to {MAX_IMAGES}",
        )
    if images.max() >= space.levels:
        raise InvalidTask(f"pixel level {images.max()}", f"this mesh has the levels 0 to {space.levels - 1}")
    return images


def _version(value: str) -> Version:
    if value == "before":
        return "before"
    if value == "now":
        return "now"
    raise InvalidTask(f"version {value[:20]!r}", "'now' or 'before'")


def _head(value: str) -> Head:
    if value == "personal":
        return "personal"
    if value == "global":
        return "global"
    raise InvalidTask(f"head {value[:20]!r}", "'global' or 'personal'")
