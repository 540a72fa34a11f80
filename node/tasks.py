"""Tasks that a user injects into the mesh, and their results: typed, bounded, no code inside.

On the wire a task is a map of plain values (`to_map`, `from_map`); a node refuses what it does not
know. Images are uint8 arrays of *levels* (n, channels, height, width) in the mesh's space; the client
turns files, PIL images and float arrays into that (`meshlore.knowledge.samples`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ..codec import expect_map, pack_array, unpack_array
from ..errors import DecodeError, InvalidTask
from ..knowledge.space import Space

MAX_IMAGES = 100_000
MAX_GENERATED = 4096
MAX_STEPS = 100_000
MAX_SKILL_CLASSES = 32
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
        head: ``"personal"``: for samples like this device's own. Its own class mix is made use of, and what it
            learned alone (`knowledge.personal`); no other node can.
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


@dataclass(frozen=True)
class Skill:
    """Learn to do at home what others do better: fetch what they know about a few classes, and distil it.

    Attributes:
        classes: their names.
        where: ``"best"``: the anchor, else whoever knows them best; or a node's name.
    """

    classes: tuple[str, ...]
    where: Where = "best"
    kind: Literal["skill"] = field(default="skill", init=False)


Task = Classify | Generate | Evaluate | FineTune | Skill


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
        case Skill():
            return {"kind": task.kind, "where": task.where, "classes": list(task.classes)}


_FIELDS: dict[str, dict[str, type]] = {
    "classify": {"kind": str, "where": str, "images": dict, "head": str},
    "generate": {"kind": str, "where": str, "label": str, "n": int, "seed": int, "version": str},
    "evaluate": {"kind": str, "where": str, "images": dict, "labels": dict, "version": str},
    "fine-tune": {"kind": str, "images": dict, "labels": dict, "steps": int},
    "skill": {"kind": str, "where": str, "classes": list},
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
        if kind == "skill":
            return _skill(fields, space)
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


def _skill(fields: dict[str, Any], space: Space) -> Skill:
    names = fields["classes"]
    if not all(type(name) is str for name in names) or not 1 <= len(set(names)) <= MAX_SKILL_CLASSES:
        raise InvalidTask("a skill is about class names", f"name 1 to {MAX_SKILL_CLASSES}")
    for name in names:
        _check_class(name, space)
    if fields["where"] == "here":
        raise InvalidTask("a skill comes from another node", "leave --where out, or name a node")
    return Skill(tuple(dict.fromkeys(names)), where=fields["where"])


def _check_class(name: str, space: Space) -> None:
    if name not in space.classes:
        raise InvalidTask(f"no class {name[:40]!r} in this mesh", f"its classes are {', '.join(space.classes)}")


def _generate(fields: dict[str, Any], space: Space) -> Generate:
    _check_class(fields["label"], space)
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
