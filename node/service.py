"""Tasks: done here or sent to whoever does them best, in chunks, with a deadline, again elsewhere on failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import structlog

from ..codec import pack_array, unpack_array
from ..errors import (
    DeadlineExceeded,
    DecodeError,
    InvalidTask,
    MeshloreError,
    NoCapableNode,
    PeerError,
    PeerTimeout,
    Refused,
)
from ..knowledge import metrics
from ..knowledge.classes import aligned_logits, check_added, grown
from ..knowledge.data import Dataset
from ..knowledge.models import logits
from ..knowledge.personal import personal_logits
from ..knowledge.space import Space
from .lane import Lane
from .router import Ability, Candidate, route
from .skills import Skills
from .tasks import (
    CHUNK_BYTES,
    MAX_GENERATED,
    Answer,
    Classified,
    Classify,
    Evaluate,
    Evaluated,
    FineTune,
    FineTuned,
    Generate,
    Generated,
    Result,
    Task,
    from_map,
    result_to_map,
    to_map,
)

log = structlog.get_logger("meshlore.tasks")

LOCAL_CHUNK = 256
MAX_REMOTE_BYTES = 1024 * 1024
MAX_LOCAL_BYTES = 256 * 1024 * 1024
ATTEMPT_S = 10.0
DRAWS = 4
Progress = Callable[[float, str], None]
Served = Classify | Generate | Evaluate


class Host(Protocol):
    """What tasks need of the node they run on."""

    @property
    def space(self) -> Space: ...

    @property
    def lane(self) -> Lane: ...

    @property
    def skills(self) -> Skills | None: ...

    @property
    def shown_skills(self) -> Skills | None: ...

    @property
    def prior(self) -> np.ndarray | None: ...

    @property
    def held_out(self) -> Dataset | None: ...

    def candidates(self) -> list[Candidate]: ...

    def unlike_private(self, images: np.ndarray, label: int) -> np.ndarray: ...

    def ask(self, peer_id: str, kind: str, body: dict[str, Any], timeout_s: float) -> Awaitable[dict[str, Any]]: ...

    def fine_tune(self, task: FineTune, progress: Progress) -> Awaitable[FineTuned]: ...


class TaskService:
    """Serves the tasks of this device's user and of other members."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def submit(self, task: Any, timeout_s: float, progress: Progress) -> dict[str, Any]:
        """Run a task of this device's user; a map of the result.

        Raises:
            InvalidTask, NoCapableNode, DeadlineExceeded, or what a local task failed with.
        """
        parsed = from_map(task, self._host.space, max_bytes=MAX_LOCAL_BYTES)
        try:
            async with asyncio.timeout(timeout_s):
                result = await self._run(parsed, timeout_s, progress)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the {parsed.kind} task was not done within {timeout_s:g} s", "give it more time (--timeout)"
            ) from None
        return result_to_map(result)

    async def serve(self, body: dict[str, Any]) -> dict[str, Any]:
        """Do another member's task, here only: a task is forwarded once, so it never loops."""
        task = from_map(body, self._host.space, max_bytes=MAX_REMOTE_BYTES)
        if isinstance(task, FineTune):
            raise Refused("fine-tuning is for this device's own user", code="role")
        if getattr(task, "version", "now") == "before":
            raise Refused("models from before the mesh are for this device's own user", code="role")
        if getattr(task, "head", "global") == "personal":
            raise Refused("the personal head is for this device's own user", code="role")
        if len(_split(task, self._host.space)) > 1:
            raise InvalidTask("more than one piece of work", "send it in pieces, so that others get their turn")
        if isinstance(task, Generate):
            return await self._host.lane.serve(lambda: self._draw_for_others(task))
        skills = self._shown_skills()
        return await self._host.lane.serve(lambda: _compute(task, skills, self._host.space))

    def _draw_for_others(self, task: Generate) -> dict[str, Any]:
        """As for this device's own user, but near-copies of private images do not leave: others are drawn
        in their place."""
        skills, space = self._shown_skills(), self._host.space
        label, images = space.classes.index(task.label), np.zeros((0, *space.shape), np.uint8)
        for attempt in range(DRAWS):
            reply = _compute(replace(task, seed=(task.seed + attempt * MAX_GENERATED) % 2**31), skills, space)
            drawn = unpack_array(reply["images"], max_bytes=MAX_LOCAL_BYTES)
            images = np.concatenate([images, drawn[self._host.unlike_private(drawn, label)]])[: task.n]
            if len(images) == task.n:
                return reply | {"images": pack_array(images)}
        raise Refused("what this node draws of that class is too like its own images", code="private")

    async def _run(self, task: Task, timeout_s: float, progress: Progress) -> Result:
        if isinstance(task, FineTune):
            return await self._host.fine_tune(task, progress)
        if getattr(task, "version", "now") == "before" and task.where not in ("best", "here"):
            raise InvalidTask("models from before the mesh are shown to their own device only", "leave --where out")
        if getattr(task, "head", "global") == "personal":
            if task.where not in ("best", "here"):
                raise InvalidTask("the personal head answers on its own device only", "leave --where out")
            if self._host.prior is None:
                raise InvalidTask("this node has no private data, and so no personal head", "leave --personal out")
        started = time.monotonic()
        failed: dict[str, str] = {}
        done: list[tuple[Served, dict[str, Any], Candidate]] = []
        chunks = _split(task, self._host.space)
        pinned = ""
        for number, chunk in enumerate(chunks):
            remaining_s = timeout_s - (time.monotonic() - started)
            part, candidate = await self._one(replace(chunk, where=pinned) if pinned else chunk, failed, remaining_s)
            done.append((chunk, part, candidate))
            if isinstance(task, Evaluate):
                pinned = candidate.peer_id  # the classifier of one node is measured
            progress((number + 1) / len(chunks), f"{task.kind} on {candidate.name}")
        names = {candidate.peer_id: candidate.name for candidate in self._host.candidates()}
        answer = _answer([c for _, _, c in done], time.monotonic() - started, [names.get(p, p) for p in failed])
        return _join(task, [(chunk, part) for chunk, part, _ in done], answer, self._host)

    async def _one(self, chunk: Served, failed: dict[str, str], remaining_s: float) -> tuple[dict[str, Any], Candidate]:
        """Try candidates in the router's order until one answers; ``failed`` grows."""
        started = time.monotonic()
        while True:
            order = self._order(chunk, failed)
            if not order:
                raise _nobody(chunk, failed)
            candidate = order[0]
            left_s = remaining_s - (time.monotonic() - started)
            wait_s = max(0.1, min(ATTEMPT_S, left_s if len(order) == 1 else left_s / 2))
            try:
                if candidate.hop == "here":
                    return await self._perform(chunk), candidate
                reply = await self._host.ask(candidate.peer_id, "task", _as_sent(chunk), wait_s)
                _check(chunk, reply, self._host.space)
                return reply, candidate
            except (PeerError, DecodeError) as error:
                failed[candidate.peer_id] = str(error)
                log.warning("task goes elsewhere", task=chunk.kind, failed=candidate.name, because=str(error))
                if isinstance(error, PeerTimeout) and wait_s >= left_s:
                    raise DeadlineExceeded("nobody answered in time", "give it more time (--timeout)") from None

    def _order(self, chunk: Served, failed: dict[str, str]) -> list[Candidate]:
        classes = [self._host.space.classes.index(chunk.label)] if isinstance(chunk, Generate) else None
        ability: Ability = "generate" if isinstance(chunk, Generate) else "classify"
        own = getattr(chunk, "version", "now") == "before" or getattr(chunk, "head", "global") == "personal"
        where = "here" if own else chunk.where
        return route(ability, classes, self._host.candidates(), where=where, failed=failed)

    async def _perform(self, task: Served) -> dict[str, Any]:
        skills, space = self._skills(), self._host.space

        def work() -> dict[str, Any]:
            return _compute(task, skills, space) | _personal(task, skills, self._host)

        return await self._host.lane.serve(work)

    def _shown_skills(self) -> Skills:
        """What other members may hear of."""
        shown = self._host.shown_skills
        if shown is None:
            raise Refused("this node is still learning what it may tell", "ask again later", code="not-ready")
        return shown

    def _skills(self) -> Skills:
        if self._host.skills is None:
            raise Refused("this node is still learning", "ask again in a moment", code="not-ready")
        return self._host.skills


def _compute(task: Served, skills: Skills, space: Space) -> dict[str, Any]:
    """The work itself, on the lane: plain values that fit one message."""
    version = getattr(task, "version", "now")
    classifier = skills.classifier if version == "now" else skills.classifier_before
    if isinstance(task, Generate):
        generator = skills.generator if version == "now" else skills.generator_before
        if generator is None:
            raise Refused("this node has no generator yet", "ask again in a moment", code="not-ready")
        label = space.classes.index(task.label)
        labels = np.full(task.n, label, dtype=np.int64)
        images = generator.sample(labels, seed=task.seed)
        taken = logits(classifier, images, space).argmax(axis=1) == label
        return {"images": pack_array(images), "confidence": float(taken.mean())}
    said = logits(classifier, task.images, space)
    # the classifier may be of a moment ago, when this node knew fewer classes
    added = space.added_classes[: said.shape[1] - space.founding.num_classes]
    return {"logits": pack_array(said), "added": list(added)}


def _personal(task: Served, skills: Skills, host: Host) -> dict[str, Any]:
    """What the personal head says, where it is asked: for this device's own user."""
    prior = host.prior
    if prior is None or isinstance(task, Generate) or (isinstance(task, Classify) and task.head == "global"):
        return {}
    before = skills.classifier_before
    taught = before if isinstance(task, Evaluate) and task.version == "before" else skills.classifier
    said = personal_logits(taught, before, task.images, host.space, prior=prior, held_out=host.held_out)
    if isinstance(task, Evaluate):
        return {"personal": pack_array(said)}
    return {"logits": pack_array(metrics.with_prior(said, prior[: said.shape[1]]).astype(np.float32))}


def _check(task: Served, reply: dict[str, Any], space: Space) -> None:
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


def _as_sent(task: Served) -> dict[str, Any]:
    """The part of a task that the node which does it must see: never labels."""
    if isinstance(task, Evaluate):
        return to_map(Classify(task.images, where="here"))
    return to_map(replace(task, where="here"))


def _split(task: Served, space: Space) -> list[Served]:
    """Chunks that are short to compute and small enough to send."""
    image_bytes = int(np.prod(space.shape))
    reply_bytes = max(image_bytes, 4 * len(space.classes))
    size = max(1, min(LOCAL_CHUNK, CHUNK_BYTES // reply_bytes))
    if isinstance(task, Generate):
        return [
            replace(task, n=min(size, task.n - start), seed=(task.seed + start) % 2**31)
            for start in range(0, task.n, size)
        ]
    parts = range(0, len(task.images), size)
    if isinstance(task, Classify):
        return [replace(task, images=task.images[start : start + size]) for start in parts]
    return [
        replace(task, images=task.images[start : start + size], labels=task.labels[start : start + size])
        for start in parts
    ]


def _join(task: Served, parts: Sequence[tuple[Served, dict[str, Any]]], answer: Answer, host: Host) -> Result:
    space = host.space
    if isinstance(task, Generate):
        images = np.concatenate([unpack_array(p["images"], max_bytes=MAX_LOCAL_BYTES) for _, p in parts])
        sure = [(chunk.n, part["confidence"]) for chunk, part in parts if isinstance(chunk, Generate)]
        confidence = sum(n * c for n, c in sure) / task.n
        return Generated(images, task.label, confidence, answer)
    # whoever answered may know classes that this node does not, in an order of its own
    space = grown(space, [name for _, part in parts for name in part["added"]])
    said = _answers(parts, "logits", space)
    if isinstance(task, Classify):
        shifted = np.exp(said - said.max(axis=1, keepdims=True))
        sure_of = (shifted / shifted.sum(axis=1, keepdims=True)).max(axis=1)
        labels = tuple(space.classes[index] for index in said.argmax(axis=1))
        return Classified(labels, tuple(float(c) for c in sure_of), answer)
    per_class = metrics.per_class_accuracy(said, task.labels)
    prior = host.prior if answer.hop == "here" and len(host.space.classes) == space.num_classes else None
    personal = None
    if prior is not None:
        personal = metrics.personal_accuracy(_answers(parts, "personal", space), task.labels, prior)
    return Evaluated(
        len(said),
        metrics.accuracy(said, task.labels),
        metrics.global_accuracy(said, task.labels),
        None if personal is None or np.isnan(personal) else personal,
        {space.classes[i]: float(value) for i, value in enumerate(per_class) if not np.isnan(value)},
        answer,
    )


def _answers(parts: Sequence[tuple[Served, dict[str, Any]]], name: str, space: Space) -> np.ndarray:
    """The logits of all parts, float32 (n, classes)."""
    said = [(unpack_array(part[name], max_bytes=MAX_LOCAL_BYTES), part["added"]) for _, part in parts]
    return np.concatenate([aligned_logits(answer, added, space) for answer, added in said])


def _answer(candidates: Sequence[Candidate], took_s: float, tried: list[str]) -> Answer:
    names = list(dict.fromkeys(candidate.name for candidate in candidates))
    last = candidates[-1]
    return Answer(", ".join(names), last.peer_id, last.hop, took_s, tuple(tried))


def _nobody(task: Served, failed: dict[str, str]) -> MeshloreError:
    if failed:
        reasons = "; ".join(sorted(set(failed.values())))
        return NoCapableNode(f"everyone who could {task.kind} failed ({reasons[:300]})", "try again")
    if task.where not in ("best", "here"):
        return NoCapableNode(f"no live node named {task.where!r} can {task.kind}", "see: meshlore peers")
    if isinstance(task, Generate):
        return NoCapableNode(
            f"no live node can generate {task.label!r} yet", "wait until a node that knows it has published"
        )
    return NoCapableNode("no live node has learned to classify yet", "wait a moment, see: meshlore status")
