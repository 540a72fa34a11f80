"""A mesh without a mesh: nodes that condense, weigh, distil and answer as `meshlore.node` has them do, some lying.

One exchange and one refinement, by calls of `Learner` alone: no network, no disk, no clocks. What honest nodes
publish does not hang on who lies, so that a `Ground` is prepared once and each attack costs only its weighing and
distilling. Honest nodes that are not judged answer as they would if the liars were silent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket, decode, encode
from meshlore.knowledge.partition import partition_classes, partition_dirichlet
from meshlore.knowledge.personal import personal_logits
from meshlore.knowledge.training import no_step
from meshlore.knowledge.trust import Verdict
from meshlore.node.learner import Learner
from meshlore.node.library import Entry
from meshlore.node.settings import Learning
from torch import nn

from .attacks import Backdoor
from .liar import Attack, Liar, Scene

MODELS = ("cnn-small", "mlp", "cnn-medium")
PARTITIONS: Mapping[str, Callable[[Dataset, int, int], list[np.ndarray]]] = {
    "dirichlet 0.1": lambda data, nodes, seed: partition_dirichlet(data.labels, nodes, 0.1, seed),
    "dirichlet 0.5": lambda data, nodes, seed: partition_dirichlet(data.labels, nodes, 0.5, seed),
    "two classes": lambda data, nodes, seed: partition_classes(data.labels, nodes, 2, seed),
}


class Silent:
    """A liar that sends nothing at all: what is left without it is the most that a perfect gate can reach."""

    def samples(self, packet: SamplePacket, scene: Scene) -> SamplePacket | None:
        return None

    def answers(self, packet: LogitPacket, about: Sequence[SamplePacket], scene: Scene) -> LogitPacket | None:
        return None


@dataclass
class Ground:
    """Nodes that have learned at home and published, once for all attacks.

    Attributes:
        test: what accuracies are measured on.
        seed: all randomness follows from it.
        told: (place, who is silent) -> the honest student and its answers, filled as needed.
    """

    parts: list[Dataset]
    test: Dataset
    seed: int
    learners: list[Learner]
    classifiers: list[nn.Module]
    packets: list[SamplePacket | None]
    told: dict[tuple[int, frozenset[int]], LogitPacket | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What came of one run, for the honest nodes that were judged, in their order.

    Attributes:
        before, after: accuracy on all classes, each counting alike; before: local only.
        at_home_before, at_home: on the node's own class mix.
        refused: how many verdicts of judged nodes about honest authors are below one half; ``verdicts``: of how many.
        heeded: the mean weight that liars got.
        triggered: share of stamped test images of other classes that are taken for the target; None: no backdoor.
    """

    judged: tuple[int, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    at_home_before: tuple[float, ...]
    at_home: tuple[float, ...]
    refused: int
    verdicts: int
    heeded: float
    triggered: float | None
    kept: tuple[bool, ...]


def prepare(
    train: Dataset, test: Dataset, partition: str, nodes: int, seed: int, settings: Learning | None = None
) -> Ground:
    """Share the training data out, train every node at home and condense."""
    parts = [train.subset(part) for part in PARTITIONS[partition](train, nodes, seed)]
    return prepare_parts(parts, test, seed, settings)


def prepare_parts(parts: list[Dataset], test: Dataset, seed: int, settings: Learning | None = None) -> Ground:
    """The same for data that are shared out already."""
    chosen = settings or Learning()
    learners = [
        Learner(part.space, "node", MODELS[place % 3], part, chosen, 1000 * seed + place)
        for place, part in enumerate(parts)
    ]
    classifiers = [learner.train(no_step) for learner in learners]
    packets = [learner.condense(no_step) for learner in learners]
    return Ground(parts, test, seed, learners, classifiers, packets)


def liars_among(ground: Ground, fraction: float, repeat: int = 0) -> list[int]:
    """Who lies: a fraction of the nodes, drawn by the ground's seed; more liars contain fewer."""
    nodes = len(ground.parts)
    order = np.random.default_rng([ground.seed, repeat]).permutation(nodes)
    return sorted(order[: round(fraction * nodes)].tolist())


def published(ground: Ground, attacks: Mapping[int, Attack]) -> dict[int, Entry]:
    """Everybody's samples after a trip over the wire; those of liars last, who have seen the others'."""
    entries: dict[int, Entry] = {}
    honest = [place for place in range(len(ground.parts)) if place not in attacks]
    for place in honest:
        packet = ground.packets[place]
        if packet is not None:
            entries[place] = _entry(place, 1, packet, ground)
    seen = list(entries.values())
    for place in sorted(attacks):
        truth = ground.packets[place]
        lie = None if truth is None else _liar(ground, attacks[place], place, seen).lie(truth)
        if lie is not None:
            entries[place] = _entry(place, 1, lie, ground)
    return entries


def verdicts_of(ground: Ground, attacks: Mapping[int, Attack], judge: int) -> dict[int, Verdict]:
    """What one honest node thinks of all authors after the first exchange, before any answers."""
    entries = published(ground, attacks)
    foreign = [entry for place, entry in entries.items() if place != judge]
    verdicts = ground.learners[judge].weigh(foreign, {})
    return {int(author): verdict for author, verdict in verdicts.items()}


def run(ground: Ground, attacks: Mapping[int, Attack], judged: Sequence[int] | None = None) -> Outcome:
    """One exchange and one refinement.

    Args:
        attacks: place of each liar -> what it does.
        judged: honest nodes that learn and are measured; None: all.
    """
    honest = [place for place in range(len(ground.parts)) if place not in attacks]
    chosen = tuple(honest if judged is None else [place for place in judged if place in honest])
    samples = published(ground, attacks)
    first = {place: _distilled(ground, place, samples, {}, 0, ground.classifiers[place]) for place in chosen}
    answers: dict[int, Entry] = {}
    for place in honest:
        if place not in samples:
            continue
        if place in chosen:
            said = ground.learners[place].answer(first[place][0], [samples[place]])
        else:
            said = _usual_answer(ground, place, frozenset(attacks))
        if said is not None:
            answers[place] = _entry(place, 2, said, ground)
    for place, attack in sorted(attacks.items()):
        if place in samples:
            liar = _liar(ground, attack, place, [*samples.values(), *answers.values()])
            answers[place] = _entry(place, 2, liar.answer(ground.classifiers[place], [samples[place]]), ground)
    last = {
        place: _distilled(ground, place, samples, answers, int(first[place][2]), first[place][0]) for place in chosen
    }
    return _measured(ground, attacks, chosen, first, last)


_Student = tuple[nn.Module, Mapping[str, Verdict], bool]


def _distilled(
    ground: Ground, place: int, samples: Mapping[int, Entry], answers: Mapping[int, Entry], turn: int, now: nn.Module
) -> _Student:
    foreign = [entry for known in (samples, answers) for author, entry in known.items() if author != place]
    beside = now if answers else None
    taught = ground.learners[place].distil(
        now, samples.get(place), foreign, {}, turn=turn, step=no_step, refines=bool(answers), beside=beside
    )
    return taught.classifier, taught.verdicts, taught.kept


def _usual_answer(ground: Ground, place: int, silent: frozenset[int]) -> LogitPacket | None:
    if (place, silent) not in ground.told:
        samples = published(ground, dict.fromkeys(silent, Silent()))
        student = _distilled(ground, place, samples, {}, 0, ground.classifiers[place])[0]
        ground.told[place, silent] = ground.learners[place].answer(student, [samples[place]])
    return ground.told[place, silent]


def _measured(
    ground: Ground,
    attacks: Mapping[int, Attack],
    chosen: Sequence[int],
    first: Mapping[int, _Student],
    last: Mapping[int, _Student],
) -> Outcome:
    test = ground.test
    said = {place: (_said(ground.classifiers[place], test), _said(last[place][0], test)) for place in chosen}
    priors = {place: ground.parts[place].prior() for place in chosen}
    at_home = {
        place: personal_logits(
            last[place][0],
            ground.classifiers[place],
            test.images,
            test.space,
            prior=priors[place],
            held_out=ground.learners[place].held_out,
            expert=first[place][0] if last[place][2] else None,
        )
        for place in chosen
    }
    about_honest = [v.weight for p in chosen for a, v in last[p][1].items() if int(a) not in attacks]
    about_liars = [v.weight for p in chosen for a, v in last[p][1].items() if int(a) in attacks]
    backdoors = [attack for attack in attacks.values() if isinstance(attack, Backdoor)]
    triggered = None
    if backdoors:
        others = test.subset(np.flatnonzero(test.labels != backdoors[0].target))
        stamped = Dataset(test.space, backdoors[0].stamp(others.images, test.space.levels), others.labels)
        hits = [(_said(last[p][0], stamped).argmax(axis=1) == backdoors[0].target).mean() for p in chosen]
        triggered = float(np.mean(hits))
    return Outcome(
        tuple(chosen),
        tuple(metrics.global_accuracy(said[p][0], test.labels) for p in chosen),
        tuple(metrics.global_accuracy(said[p][1], test.labels) for p in chosen),
        tuple(metrics.personal_accuracy(said[p][0], test.labels, priors[p]) for p in chosen),
        tuple(metrics.personal_accuracy(at_home[p], test.labels, priors[p]) for p in chosen),
        sum(weight < 0.5 for weight in about_honest),
        len(about_honest),
        float(np.mean(about_liars)) if about_liars else 0.0,
        triggered,
        tuple(last[p][2] for p in chosen),
    )


def _said(model: nn.Module, data: Dataset) -> np.ndarray:
    return logits(model, data.images, data.space)


def _liar(ground: Ground, attack: Attack, place: int, seen: Sequence[Entry]) -> Liar:
    liar = Liar(ground.learners[place], attack, lambda: seen)
    liar.classifier = ground.classifiers[place]
    return liar


def _entry(place: int, number: int, packet: SamplePacket | LogitPacket, ground: Ground) -> Entry:
    sent = encode(packet)
    # named by its content, as on the wire: nodes remember what they made of packets
    name = hashlib.sha256(f"{place} {number} ".encode() + sent).hexdigest()
    return Entry(name, str(place), f"n{place}", number, float(number), decode(sent, ground.test.space))
