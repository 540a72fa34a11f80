"""What a node does next: a pure function from its situation to one action.

Rules are tried in order; each is a small function that returns an action or None. Nothing here
knows of networks, clocks or tensors, so every decision is tested as a table of cases.

A node goes through *stages*, which it advertises so that others know what to wait for:

    0 learning     no knowledge published yet
    1 published    its samples are out; an anchor, which has none, starts here
    2 taught       it distilled what the others published, and sent the answers that came of it; or they have
                   published nothing that it could learn from

Nobody waits for ever: ``patience_s`` after the first new knowledge a node goes on with what it has. What neighbours
answer later is learned once all of them have answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Role = Literal["node", "anchor"]


class Stage(IntEnum):
    LEARNING = 0
    PUBLISHED = 1
    TAUGHT = 2


@dataclass(frozen=True)
class PeerView:
    """What the plan needs to know of a live peer: its role and the stage that it advertises."""

    role: Role
    stage: int


@dataclass(frozen=True)
class Situation:
    """All that decides the next action.

    Attributes:
        trained: the classifier has learnt from the private data.
        published: the node's own samples are out.
        samples, logits: names of the usable packets of others that are here.
        taught_by: names of the packets that were in the last distillation.
        refined: distillations since the last one that brought new samples.
        unheard: a live neighbour's answers are here that were not, when new samples were learned, nor any of its since.
        logits_due: others have not heard its answers since what it last learned.
        generator_taught_by: names of the sample packets behind the generator, None: no generator yet.
        to_unlearn, generator_to_unlearn: authors that were learned from and may teach no more.
        missing: packets that peers announced and that are still on their way.
        peers: the live peers.
        skills: names of the skills in the toolbox.
        lessons: ``"asked"``: it learns skills only, and no packets come up for lessons.
        unlearned: names of usable packets that are no lessons. judged: of those, the ones whose authors were weighed.
        waited_s: seconds since the oldest news that was not learned from yet arrived; without any, since the
            last lesson (or the start).
    """

    role: Role
    trained: bool = False
    published: bool = False
    samples: frozenset[str] = frozenset()
    logits: frozenset[str] = frozenset()
    taught_by: frozenset[str] = frozenset()
    refined: int = 0
    unheard: bool = False
    logits_due: bool = False
    generator_taught_by: frozenset[str] | None = None
    to_unlearn: frozenset[str] = frozenset()
    generator_to_unlearn: frozenset[str] = frozenset()
    missing: int = 0
    peers: tuple[PeerView, ...] = ()
    waited_s: float = 0.0
    patience_s: float = 20.0
    refinements: int = 1
    skills: frozenset[str] = frozenset()
    lessons: Literal["all", "asked"] = "all"
    unlearned: frozenset[str] = frozenset()
    judged: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Train:
    """Learn the classifier from private data."""


@dataclass(frozen=True)
class Publish:
    """Condense the private data, and publish samples."""


@dataclass(frozen=True)
class Distil:
    """Learn from the packets named, in one go; ``refines`` when they bring new logits only.

    ``anew``: begin with what was there before the mesh taught, so that nothing else is left of what was learned.
    """

    packets: frozenset[str]
    refines: bool
    anew: bool = False


@dataclass(frozen=True)
class Judge:
    """Weigh who made the packets named, and measure by them what it can do itself, without learning from them."""

    packets: frozenset[str]


@dataclass(frozen=True)
class PublishLogits:
    """Send fresh logits: about its own samples (a node), about all trusted samples (an anchor)."""


@dataclass(frozen=True)
class TrainGenerator:
    """Fit the generator to private data and to the sample packets and skills named; ``anew`` as in `Distil`."""

    packets: frozenset[str]
    anew: bool = False


@dataclass(frozen=True)
class Wait:
    """Nothing to do until something changes; ``settled`` when nothing is waited for either.

    Attributes:
        at_most_s: look again after this many seconds, None: only on news.
    """

    settled: bool
    at_most_s: float | None = field(default=None)


Action = Train | Publish | Distil | Judge | PublishLogits | TrainGenerator | Wait


def stage_of(now: Situation) -> Stage:
    """The stage to advertise."""
    if now.lessons == "asked" and now.published:
        return Stage.TAUGHT
    if now.taught_by and not now.logits_due:
        return Stage.TAUGHT
    if not now.published and now.role == "node":
        return Stage.LEARNING
    return Stage.TAUGHT if _has_silent_peers(now) else Stage.PUBLISHED


def plan(now: Situation) -> Action:
    """The next action; `Wait` when there is none."""
    for rule in _RULES:
        if action := rule(now):
            return action
    return _wait(now)


def _train(now: Situation) -> Action | None:
    return Train() if now.role == "node" and not now.trained else None


def _publish(now: Situation) -> Action | None:
    return Publish() if now.role == "node" and not now.published else None


def _unlearn(now: Situation) -> Action | None:
    return Distil(now.samples | now.logits, refines=False, anew=True) if now.to_unlearn else None


def _unlearn_in_generator(now: Situation) -> Action | None:
    return TrainGenerator(now.samples | now.skills, anew=True) if now.generator_to_unlearn else None


def _publish_logits(now: Situation) -> Action | None:
    return PublishLogits() if now.logits_due else None


def _distil_new_samples(now: Situation) -> Action | None:
    if not now.samples - now.taught_by or not _gathered(now, Stage.PUBLISHED):
        return None
    return Distil(now.samples | now.logits, refines=False)


def _refine(now: Situation) -> Action | None:
    if not now.logits - now.taught_by or not now.taught_by:
        return None
    in_turn = now.refined < now.refinements and _gathered(now, Stage.TAUGHT)
    # patience had run out before a slow neighbour had answered: once more, now that all have
    for_the_late = now.unheard and now.refined < 2 * now.refinements and _complete(now, Stage.TAUGHT)
    return Distil(now.samples | now.logits, refines=True) if in_turn or for_the_late else None


def _judge(now: Situation) -> Action | None:
    return Judge(now.unlearned) if now.trained and not now.unlearned <= now.judged else None


def _first_generator(now: Situation) -> Action | None:
    if now.role == "node" and now.generator_taught_by is None:
        return TrainGenerator(frozenset())
    return None


def _better_generator(now: Situation) -> Action | None:
    material = now.samples | now.skills
    if not now.trained or material <= (now.generator_taught_by or frozenset()) or _expects_more(now):
        return None
    return TrainGenerator(material)


_RULES: tuple[Callable[[Situation], Action | None], ...] = (
    _train,
    _publish,
    _unlearn,
    _unlearn_in_generator,
    _publish_logits,
    _distil_new_samples,
    _refine,
    _judge,
    _first_generator,
    _better_generator,
)


def _gathered(now: Situation, stage: Stage) -> bool:
    """All that live peers are about to tell is here, or patience has run out."""
    return _complete(now, stage) or now.waited_s >= now.patience_s


def _complete(now: Situation, stage: Stage) -> bool:
    """All that live peers are about to tell is here."""
    return not now.missing and all(peer.stage >= stage for peer in now.peers)


def _has_silent_peers(now: Situation) -> bool:
    """All live peers have published, and nothing of it is or will be here to learn from."""
    return bool(now.peers) and _complete(now, Stage.PUBLISHED) and not now.samples and not now.taught_by


def _expects_more(now: Situation) -> bool:
    """Something that this node would still distil is on its way (and patience has not run out)."""
    if now.waited_s >= now.patience_s:
        return False
    if now.missing or now.samples - now.taught_by:
        return True
    waits_for_samples = any(peer.stage < Stage.PUBLISHED for peer in now.peers)
    waits_for_logits = now.refined < now.refinements and any(peer.stage < Stage.TAUGHT for peer in now.peers)
    return waits_for_samples or (bool(now.taught_by) and waits_for_logits)


def _wait(now: Situation) -> Wait:
    if _expects_more(now):
        return Wait(settled=False, at_most_s=max(0.1, now.patience_s - now.waited_s))
    return Wait(settled=True)
