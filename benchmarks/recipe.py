"""What the parts of the recipe are worth: `python -m benchmarks.recipe`.

Nodes with skewed shares of a training set condense, learn from each other once, answer, and learn again; the
second turn is repeated with fewer and with more answers. Measured on validation images, which are a part of the
training set, never on the test set. No mesh, no trust: only the steps of the recipe, as `meshlore.node.learner`
takes them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from meshlore.knowledge.answering import answer
from meshlore.knowledge.condense import condense
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.lessons import Lessons, assemble
from meshlore.knowledge.metrics import global_accuracy
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket, published_counts
from meshlore.knowledge.partition import partition_dirichlet
from meshlore.knowledge.process import prepare_to_learn
from meshlore.knowledge.sources import load
from meshlore.knowledge.training import fit_classifier
from meshlore.knowledge.trust import Verdict
from rich.console import Console
from rich.table import Table
from torch import nn

MODELS = ("cnn-small", "mlp", "cnn-medium")
VALIDATION = 2000


@dataclass(frozen=True)
class Row:
    """Mean accuracy over the models named, over all classes alike, and CPU seconds per model."""

    what: str
    accuracy: float
    cpu_s: float


class Study:
    """One partition: its nodes' data, models and packets."""

    def __init__(self, data: str, samples: int, nodes: int, seed: int) -> None:
        whole = load(data).dataset
        train, self.validation = whole.tuning_split(min(VALIDATION, len(whole) // 5))
        train = train.subset(np.random.default_rng(seed).permutation(len(train))[:samples])
        self.space, self.seed = train.space, seed
        self.parts = [train.subset(part) for part in partition_dirichlet(train.labels, nodes, 0.1, seed)]
        self.pooled = train
        self.settings = DistilSettings()
        self.anchor_settings = DistilSettings.for_anchor()
        if not self.space.is_small:
            self.settings = self.settings.for_many_pixels()
            self.anchor_settings = self.anchor_settings.for_many_pixels()

    def run(self) -> list[Row]:
        steps = 150 if self.space.is_small else 500
        models, rows = [], []
        started = time.process_time()
        for place, part in enumerate(self.parts):
            model = build_model(MODELS[place % len(MODELS)], self.space, self.seed + place)
            models.append(fit_classifier(model, part, steps=steps, seed=place))
        rows.append(self._row("local only", models, started))
        many = not self.space.is_small
        teaching = self.settings.for_teaching() if many else self.settings
        listening = self.settings.for_listening() if many else self.settings
        packets = [self._publish(part) for part in self.parts]
        first = self._turn(rows, "first turn: samples alone", models, self._lessons(packets, []), teaching)
        rows.append(Row("first turn: all models asked together", self._together(first), 0.0))
        about = [(_name(place), packet) for place, packet in enumerate(packets)]
        everything = [(f"node {place}", answer(model, about, self.space)) for place, model in enumerate(first)]
        lessons = {
            "own samples": [(who, _cut(said, packets, {_name(place)})) for place, (who, said) in enumerate(everything)],
            "all samples": [(who, _cut(said, packets, set(said.about))) for who, said in everything],
            "all samples and views": everything,
        }
        for what, answers in lessons.items():
            if what != "all samples and views" or not self.space.is_small:
                self._turn(
                    rows, f"second turn: answers about {what}", first, self._lessons(packets, answers), listening
                )
        started = time.process_time()
        fresh = build_model("cnn-large", self.space, self.seed)
        anchor = distil(fresh, None, self._lessons(packets, everything), settings=self.anchor_settings, seed=self.seed)
        rows.append(self._row("anchor: samples and all answers", [anchor], started))
        started = time.process_time()
        pooled = fit_classifier(fresh, self.pooled, steps=3 * steps, seed=self.seed)
        rows.append(self._row("the anchor's model on pooled real data", [pooled], started))
        return rows

    def _publish(self, part: Dataset) -> SamplePacket:
        made = condense(part, seed=self.seed)
        counts = published_counts(part.counts(), made.labels)
        return SamplePacket(self.space.id, "condensed", made.images, made.labels, None, counts)

    def _turn(
        self, rows: list[Row], what: str, models: Sequence[nn.Module], lessons: Lessons, settings: DistilSettings
    ) -> list[nn.Module]:
        started = time.process_time()
        taught = [
            distil(model, part, lessons, settings=settings, seed=self.seed + place)
            for place, (model, part) in enumerate(zip(models, self.parts, strict=True))
        ]
        rows.append(self._row(what, taught, started))
        return taught

    def _lessons(self, packets: Sequence[SamplePacket], answers: Sequence[tuple[str, LogitPacket]]) -> Lessons:
        known = {_name(place): (f"node {place}", packet) for place, packet in enumerate(packets)}
        verdicts = {author: Verdict(1.0, "not weighed here") for author, _ in known.values()}
        return assemble(known, answers, verdicts, self.space)

    def _together(self, models: Sequence[nn.Module]) -> float:
        said = [torch.from_numpy(logits(model, self.validation.images, self.space)).softmax(dim=1) for model in models]
        return global_accuracy(torch.stack(said).mean(dim=0).numpy(), self.validation.labels)

    def _row(self, what: str, models: Sequence[nn.Module], started: float) -> Row:
        took_s = (time.process_time() - started) / len(models)
        reached = [
            global_accuracy(logits(model, self.validation.images, self.space), self.validation.labels)
            for model in models
        ]
        return Row(what, float(np.mean(reached)), took_s)


def _name(place: int) -> str:
    return f"{place:064x}"


def _cut(said: LogitPacket, packets: Sequence[SamplePacket], about: set[str]) -> LogitPacket:
    """The same answers without views, about some packets only."""
    kept = [
        (name, part[: len(packets[int(name, 16)])])
        for name, part in zip(said.about, said.logits, strict=True)
        if name in about
    ]
    return LogitPacket(said.space_id, tuple(name for name, _ in kept), tuple(part for _, part in kept))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__)
    parser.add_argument("--data", default="fashion-mnist", choices=["digits", "fashion-mnist"])
    parser.add_argument("--samples", type=int, default=5000, help="training samples of all nodes together")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--seed", type=int, action="append", help="may be given several times; default 0")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    chosen = parser.parse_args()
    prepare_to_learn(1)
    seeds = chosen.seed or [0]
    runs = [Study(chosen.data, chosen.samples, chosen.nodes, seed).run() for seed in seeds]
    rows = [
        (same[0].what, float(np.mean([row.accuracy for row in same])), float(np.mean([row.cpu_s for row in same])))
        for same in zip(*runs, strict=True)
    ]
    if chosen.json:
        print(json.dumps({"data": chosen.data, "samples": chosen.samples, "seeds": seeds, "rows": rows}))
        return
    table = Table("step", "validation accuracy", "CPU s per model", title=f"{chosen.data}, seeds {seeds}")
    for what, accuracy, cpu_s in rows:
        table.add_row(what, f"{accuracy:.4f}", f"{cpu_s:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
