"""Pieces of tasks: short to compute, small enough to send, checked when they come back, and joined. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..codec import pack_array, unpack_array
from ..errors import DecodeError
from ..knowledge import metrics
from ..knowledge.classes import aligned_logits, check_added, grown
from ..knowledge.space import Space
from .results import Answer, Classified, Evaluated, Generated, Result
from .router import DISTANCE, Candidate, Weights
from .tasks import CHUNK_BYTES, Classify, Evaluate, Generate, to_map

LOCAL_CHUNK = 256
MAX_REMOTE_BYTES = 1024 * 1024
MAX_LOCAL_BYTES = 256 * 1024 * 1024
Served = Classify | Generate | Evaluate


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a task that one node does.

    Attributes:
        places: int64 (n,): which of the task's samples these are.
        concerns: the classes that it is probably about, None: any.
        at_home: what this node says about it, where it was asked already.
    """

    task: Served
    places: np.ndarray
    concerns: Weights | None = None
    at_home: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Done:
    """A piece with its reply and who gave it."""

    piece: Piece
    reply: dict[str, Any]
    by: Candidate


def split(task: Served, space: Space) -> list[Piece]:
    """The pieces of a task, in order."""
    if isinstance(task, Generate):
        label, size = space.classes.index(task.label), _most(space)
        parts = [np.arange(start, min(start + size, task.n)) for start in range(0, task.n, size)]
        return [
            Piece(replace(task, n=len(part), seed=(task.seed + int(part[0])) % 2**31), part, {label: 1.0})
            for part in parts
        ]
    return pieces_of(task, np.arange(len(task.images)), None, space)


def pieces_of(task: Classify | Evaluate, places: np.ndarray, concerns: Weights | None, space: Space) -> list[Piece]:
    """The pieces of some samples of a task."""
    size = _most(space)
    parts = [places[start : start + size] for start in range(0, len(places), size)]
    if isinstance(task, Classify):
        return [Piece(replace(task, images=task.images[part]), part, concerns) for part in parts]
    return [Piece(replace(task, images=task.images[part], labels=task.labels[part]), part, concerns) for part in parts]


def as_sent(task: Served) -> dict[str, Any]:
    """The part of a task that the node which does it must see: never labels."""
    if isinstance(task, Evaluate):
        return to_map(Classify(task.images, where="here"))
    return to_map(replace(task, where="here"))


def check(task: Served, reply: dict[str, Any], space: Space) -> None:
    """Refuse a peer's reply that does not fit the task. Raises DecodeError."""
    if isinstance(task, Generate):
        images = unpack_array(reply.get("images"), dtypes=("uint8",), max_bytes=MAX_REMOTE_BYTES)
        if images.shape != (task.n, *space.shape) or (images.size and images.max() >= space.levels):
            raise DecodeError("the images do not fit the task")
        if type(reply.get("confidence")) is not float or not 0 <= reply["confidence"] <= 1:
            raise DecodeError("the confidence is out of range")
    else:
        said = unpack_array(reply.get("logits"), dtypes=("float32",), max_bytes=MAX_REMOTE_BYTES)
        added = check_added(reply.get("added"), space)
        if said.shape != (len(task.images), space.founding.num_classes + len(added)):
            raise DecodeError("the logits do not fit the task")


def logits_reply(said: np.ndarray, space: Space) -> dict[str, Any]:
    """The reply of a classifier: its logits float32 (n, k) and the names of the last columns."""
    # the classifier may be of a moment ago, when this node knew fewer classes
    added = space.added_classes[: said.shape[1] - space.founding.num_classes]
    return {"logits": pack_array(said), "added": list(added)}


def join(
    task: Served, done: Sequence[Done], took_s: float, tried: tuple[str, ...], space: Space, prior: np.ndarray | None
) -> Result:
    """The result of a task whose pieces are done, in any order.

    Args:
        tried: names of nodes that failed. prior: this node's own class mix.
    """
    done = sorted(done, key=lambda part: int(part.piece.places[0]))
    answer = _answer(done, took_s, tried)
    if isinstance(task, Generate):
        images = np.concatenate([unpack_array(part.reply["images"], max_bytes=MAX_LOCAL_BYTES) for part in done])
        sure = sum(len(part.piece.places) * part.reply["confidence"] for part in done)
        return Generated(images, task.label, sure / task.n, answer)
    # whoever answered may know classes that this node does not, in an order of its own
    seen = grown(space, [name for part in done for name in part.reply["added"]])
    said = _in_place(done, "logits", seen)
    if isinstance(task, Classify):
        shifted = np.exp(said - said.max(axis=1, keepdims=True))
        sure_of = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
        labels = tuple(seen.classes[index] for index in said.argmax(axis=1))
        by = {int(place): part.by.name for part in done for place in part.piece.places}
        return Classified(labels, tuple(map(float, sure_of)), tuple(by[place] for place in sorted(by)), answer)
    per_class = metrics.per_class_accuracy(said, task.labels)
    personal = None
    if prior is not None and answer.hop == "here" and space == seen:
        personal = metrics.personal_accuracy(_in_place(done, "personal", seen), task.labels, prior)
    return Evaluated(
        len(said),
        metrics.accuracy(said, task.labels),
        metrics.global_accuracy(said, task.labels),
        None if personal is None or np.isnan(personal) else personal,
        {seen.classes[i]: float(value) for i, value in enumerate(per_class) if not np.isnan(value)},
        answer,
    )


def _most(space: Space) -> int:
    """Samples of one piece."""
    reply_bytes = max(int(np.prod(space.shape)), 4 * len(space.classes))
    return max(1, min(LOCAL_CHUNK, CHUNK_BYTES // reply_bytes))


def _in_place(done: Sequence[Done], name: str, space: Space) -> np.ndarray:
    """What was said about all samples of a task, in its order: float32 (n, classes)."""
    said = [(unpack_array(part.reply[name], max_bytes=MAX_LOCAL_BYTES), part.reply["added"]) for part in done]
    order = np.argsort(np.concatenate([part.piece.places for part in done]), kind="stable")
    everything: np.ndarray = np.concatenate([aligned_logits(answer, added, space) for answer, added in said])
    return everything[order]


def _answer(done: Sequence[Done], took_s: float, tried: tuple[str, ...]) -> Answer:
    shares: Counter[tuple[str, str]] = Counter()
    for part in done:
        shares[part.by.name, part.by.peer_id] += len(part.piece.places)
    most = [who for who, _ in shares.most_common()]
    farthest = max((part.by.hop for part in done), key=lambda hop: DISTANCE[hop])
    return Answer(", ".join(name for name, _ in most), most[0][1], farthest, took_s, tried)
