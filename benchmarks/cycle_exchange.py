"""Nodes that teach each other lesson by lesson, with an anchor beside them or without: for `benchmarks.cycle`.

As in `benchmarks.attack_harness` by calls of `Learner` alone, each in the order in which `node.plan` has it done, so
that what was learned at home is the same for every way that is compared, and who hears whom can be chosen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from meshlore.knowledge.cutting import SKILL, without
from meshlore.knowledge.generators import Generator
from meshlore.knowledge.models import logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket, coarse, decode, encode
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import no_step
from meshlore.node.learner import Learner
from meshlore.node.library import Entry
from meshlore.node.publishing import MAX_SKILL_BYTES
from meshlore.node.settings import Learning
from meshlore.node.skills import Skills
from torch import nn

from .attack_harness import Ground

Hears = Callable[[int], frozenset[int]]
DRAWN_PER_CLASS = 32


@dataclass(frozen=True)
class Anchor:
    """One that learns from packets alone. ``answers``: what it sent down last."""

    learner: Learner
    classifier: nn.Module
    answers: Entry


@dataclass(frozen=True)
class Village:
    """What all nodes know, and have told, at one moment.

    Attributes:
        samples, answers: of each node that has published some, by its place.
        lessons: how many each node has had.
    """

    ground: Ground
    classifiers: tuple[nn.Module, ...]
    samples: Mapping[int, Entry]
    answers: Mapping[int, Entry] = field(default_factory=dict)
    lessons: int = 0
    anchor: Anchor | None = None


def everybody(nodes: int) -> Hears:
    """Packets spread over the whole mesh, as they do between daemons."""
    return lambda place: frozenset(range(nodes)) - {place}


def ring(nodes: int) -> Hears:
    """A node hears of nobody but the two beside it."""
    return lambda place: frozenset({(place - 1) % nodes, (place + 1) % nodes}) - {place}


def untaught(ground: Ground) -> Village:
    """Everybody has learned at home and published samples."""
    packets = {place: packet for place, packet in enumerate(ground.packets) if packet is not None}
    samples = {place: _entry(f"node{place}", 1, packet, ground.test.space) for place, packet in packets.items()}
    return Village(ground, tuple(ground.classifiers), samples)


def taught(
    village: Village, hears: Hears, places: Iterable[int], more: Callable[[int], Sequence[Entry]] = lambda _: ()
) -> Village:
    """One lesson for each of these nodes, and their new answers; ``more``: skills that a node has beside."""
    classifiers, answers, turn = list(village.classifiers), dict(village.answers), village.lessons
    for place in places:
        learner, own = village.ground.learners[place], village.samples.get(place)
        known = [*heard(village, hears(place)), *more(place)]
        lesson = learner.distil(village.classifiers[place], own, known, {}, turn=turn, step=no_step)
        classifiers[place] = lesson.classifier
        if learner.has_news(lesson, first=not turn, refines=False) and own is not None:
            said = learner.answer(lesson.classifier, [own])
            answers[place] = _entry(f"node{place}", turn + 2, said, village.ground.test.space)
    return replace(village, classifiers=tuple(classifiers), answers=answers, lessons=turn + 1)


def anchored(village: Village, authors: Iterable[int], settings: Learning) -> Village:
    """An anchor learns what these nodes published, goes on from what it knew, and answers about all their samples."""
    space, before = village.ground.test.space, village.anchor
    seed = 1000 * village.ground.seed + 999
    learner = before.learner if before else Learner(space, "anchor", "", None, settings, seed)
    known = heard(replace(village, anchor=None), frozenset(authors))
    start, turn = (before.classifier if before else learner.fresh()), village.lessons
    lesson = learner.distil(start, None, known, {}, turn=turn, step=no_step)
    said = learner.answer(lesson.classifier, [entry for entry in known if isinstance(entry.packet, SamplePacket)])
    return replace(village, anchor=Anchor(learner, lesson.classifier, _entry("anchor", turn + 1, said, space)))


def heard(village: Village, authors: frozenset[int]) -> list[Entry]:
    """The packets of these nodes, samples first, and the anchor's answers."""
    known = [entry for part in (village.samples, village.answers) for place, entry in part.items() if place in authors]
    return [*known, *([village.anchor.answers] if village.anchor else [])]


def cut_skill(village: Village, hears: Hears) -> Callable[[int], Sequence[Entry]]:
    """What a node fetches from the anchor as a skill about all classes, less the samples that are here already.

    Where everybody hears all packets nothing is left of it.
    """
    anchor, packets = _of(village), list(_packets(village.samples.values()))
    space = village.ground.test.space
    skills = Skills(anchor.classifier, anchor.classifier)
    skill = anchor.learner.make_skill(skills, packets, range(space.num_classes), MAX_SKILL_BYTES)

    def fetched(place: int) -> list[Entry]:
        known = list(_packets(heard(village, hears(place) | {place})))
        rest = None if skill is None else without(skill, known)
        return [] if rest is None else [_entry("skill of anchor", 0, rest, space)]

    return fetched


def anchor_generator(village: Village) -> Generator | None:
    """What the anchor draws with; None: nobody has published anything."""
    return _of(village).learner.fit_generator(list(village.samples.values()), {}, no_step)


def drawn_skill(village: Village, generator: Generator | None) -> Callable[[int], Sequence[Entry]]:
    """A skill of samples that the anchor draws, as many of each class, instead of cutting out published ones."""
    anchor, space = _of(village), village.ground.test.space
    if generator is None:
        return lambda _place: ()
    labels = np.repeat(np.arange(space.num_classes), DRAWN_PER_CLASS)
    images = generator.sample(labels, seed=village.ground.seed)
    counts = np.sum([packet.class_counts for packet in _packets(village.samples.values())], axis=0)
    said = coarse(logits(anchor.classifier, images, space))
    skill = _entry("skill of anchor", 0, SamplePacket(space.id, SKILL, images, labels, said, counts), space)
    return lambda _place: (skill,)


def _of(village: Village) -> Anchor:
    if village.anchor is None:
        raise ValueError("a skill needs an anchor to make it")
    return village.anchor


def _packets(entries: Iterable[Entry]) -> Iterable[SamplePacket]:
    return (entry.packet for entry in entries if isinstance(entry.packet, SamplePacket))


def _entry(author: str, number: int, packet: SamplePacket | LogitPacket, space: Space) -> Entry:
    """A packet after its way over the wire."""
    sent = encode(packet)
    name = hashlib.sha256(f"{author} {number} ".encode() + sent).hexdigest()
    return Entry(name, author, author, number, float(number), decode(sent, space), author == "anchor")
