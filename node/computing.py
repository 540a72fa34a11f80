"""The work of a task itself, as the compute lane does it: for this device's user, and for other members."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from ..codec import pack_array, unpack_array
from ..errors import Refused
from ..knowledge import metrics
from ..knowledge.data import Dataset
from ..knowledge.drawing import draw
from ..knowledge.models import logits
from ..knowledge.space import Space
from .pieces import MAX_LOCAL_BYTES, Served, logits_reply
from .skills import Skills
from .tasks import MAX_GENERATED, Classify, Evaluate, Generate

DRAWS = 4


class Home(Protocol):
    """What the work needs of the node that it is done on."""

    @property
    def space(self) -> Space: ...

    @property
    def prior(self) -> np.ndarray | None: ...

    @property
    def held_out(self) -> Dataset | None: ...

    def unlike_private(self, images: np.ndarray, label: int) -> np.ndarray: ...


def for_user(task: Served, skills: Skills, home: Home) -> dict[str, Any]:
    """For this device's own user: with the personal head where it is asked, and models from before the mesh."""
    return compute(task, skills, home.space) | _personal(task, skills, home)


def for_member(task: Served, skills: Skills, home: Home) -> dict[str, Any]:
    """For another member: near-copies of private images do not leave, others are drawn in their place.

    Raises:
        Refused: all that can be drawn is too like private images.
    """
    if not isinstance(task, Generate):
        return compute(task, skills, home.space)
    space = home.space
    label, images = space.classes.index(task.label), np.zeros((0, *space.shape), np.uint8)
    for attempt in range(DRAWS):
        reply = compute(replace(task, seed=(task.seed + attempt * MAX_GENERATED) % 2**31), skills, space)
        drawn = unpack_array(reply["images"], max_bytes=MAX_LOCAL_BYTES)
        images = np.concatenate([images, drawn[home.unlike_private(drawn, label)]])[: task.n]
        if len(images) == task.n:
            return reply | {"images": pack_array(images)}
    raise Refused("what this node draws of that class is too like its own images", code="private")


def compute(task: Served, skills: Skills, space: Space) -> dict[str, Any]:
    """Plain values that fit one message."""
    version = getattr(task, "version", "now")
    classifier = skills.classifier if version == "now" else skills.classifier_before
    if not isinstance(task, Generate):
        return logits_reply(logits(classifier, task.images, space), space)
    generator = skills.generator if version == "now" else skills.generator_before
    if generator is None:
        raise Refused("this node has no generator yet", "ask again when its status shows one", code="not-ready")
    label = space.classes.index(task.label)
    labels = np.full(task.n, label, dtype=np.int64)
    drawn = draw(generator, classifier, labels, space, seed=task.seed)
    return {"images": pack_array(drawn.images), "confidence": float(drawn.taken.mean())}


def _personal(task: Served, skills: Skills, home: Home) -> dict[str, Any]:
    """What the personal head says, where it is asked."""
    prior = home.prior
    if prior is None or isinstance(task, Generate) or (isinstance(task, Classify) and task.head == "global"):
        return {}
    if isinstance(task, Evaluate) and task.version == "before":
        skills = Skills(skills.classifier_before, skills.classifier_before)
    said = skills.at_home(task.images, home.space, prior=prior, held_out=home.held_out)
    if isinstance(task, Evaluate):
        return {"personal": pack_array(said)}
    return {"logits": pack_array(metrics.with_prior(said, prior[: said.shape[1]]).astype(np.float32))}
