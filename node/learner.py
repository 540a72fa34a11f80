"""What one device knows and learns: its private data, its models, and the work that changes them.

No network and no disk here. Each method that is long takes ``step`` (see `meshlore.node.lane`) and
returns something new; nothing that is being served is changed in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import nn

from ..errors import ModelError
from ..knowledge import metrics
from ..knowledge.answering import answer
from ..knowledge.copies import Guard, distinct, everything
from ..knowledge.cutting import cut
from ..knowledge.data import Dataset, concatenate
from ..knowledge.device import choose_device
from ..knowledge.distil import DistilSettings, distil
from ..knowledge.executor import IN_PROCESS, Elsewhere, Executor
from ..knowledge.flow import FlowSettings
from ..knowledge.generators import Flows, Generator, GeneratorKind, usual_steps
from ..knowledge.growth import grown_classifier
from ..knowledge.lessons import Lessons, assemble
from ..knowledge.models import build_model, default_model, logits, to_tensor
from ..knowledge.packet import LogitPacket, SamplePacket, published_counts
from ..knowledge.resuming import Checkpoint
from ..knowledge.rollback import hold_out, keep_better
from ..knowledge.sample_source import SOURCES, SourceSettings
from ..knowledge.space import Space
from ..knowledge.training import Step, fit_private, half
from ..knowledge.trust import Verdict, weigh
from .competence import Measured, measured
from .effort import classifier_steps, condensing, distilling
from .library import Entry
from .settings import Learning
from .skills import Skills, grown_skills
from .taught import Taught, Tuned

MORE_PRIVATE = 96  # samples in a batch, at least, at the second try
COMPARED_DIMENSIONS = 20
GUARDS: Mapping[str, Guard] = {"off": everything, "filter": distinct}


class Learner:
    """One device's learning.

    Args:
        private: all private samples; None for an anchor. A stratified part is held out to decide
            whether what the mesh taught is kept.
        guard: says which synthetic samples may leave the device.
        generators: the kind of its generator; None: the compact one that the settings name.
        checkpoint: where condensing and generating go on when they were interrupted; None: they begin anew.
        executor: who computes gradients of distillation and generation, and draws.

    Attributes:
        held_out: the private samples that no classifier here is trained on.

    Raises:
        ModelError: the generator that the settings name cannot learn samples of this space.
        ConfigError: the GPU that the settings ask for cannot be used.
    """

    def __init__(
        self,
        space: Space,
        role: Literal["node", "anchor"],
        model: str,
        private: Dataset | None,
        settings: Learning,
        seed: int,
        *,
        guard: Guard = distinct,
        generators: GeneratorKind | None = None,
        checkpoint: Checkpoint | None = None,
        executor: Executor = IN_PROCESS,
    ) -> None:
        self.space = space
        self.role = role
        self.model = model or default_model(space, role)
        self.settings = settings
        self.seed = seed
        self.guard = guard
        self.private = private
        self._checkpoint, self.executor = checkpoint, executor
        self._device = device = choose_device(settings.device)
        self._fit = partial(fit_private, device=device)
        self._distil = partial(distil, device=device, executor=executor)
        self._flow = FlowSettings.for_space(space, settings.generator)
        kind = generators or Flows(self._flow, device, executor)
        self.generators = kind if executor is IN_PROCESS else Elsewhere(kind, executor)
        self._train: Dataset | None = None
        self.held_out: Dataset | None = None
        self._weighed: tuple[tuple[tuple[str, int], ...], dict[str, Verdict]] = (), {}
        if private is not None:
            self._train, self.held_out = hold_out(private, seed=seed)

    @property
    def retells(self) -> bool:
        """Whether what is published follows when fine-tuning has added private samples."""
        return True

    @property
    def answers_about_all(self) -> bool:
        """Whether this device answers about the samples of all, or about its own alone."""
        return self.role == "anchor" or not self.space.is_small

    def shown_to_others(self, skills: Skills) -> Skills | None:
        """The models that answer other members; None as long as there are none."""
        return skills

    def has_news(self, taught: Taught, *, first: bool, refines: bool) -> bool:
        """Whether others hear answers after this distillation (its ``first`` one, one that ``refines``).

        A node's first answers are due whatever came of it, as nobody else knows what it knows. An anchor's word counts
        as that of all others together: where all answer about all samples, it first learns from what they say.
        """
        if self.role == "anchor" and not self.space.is_small and self.settings.refinements:
            return taught.kept and refines
        return (taught.kept or (first and self.role == "node")) and not refines

    def evidence(self) -> Dataset | None:
        """The private samples on which what is advertised is measured."""
        return self.held_out

    def fresh(self) -> nn.Module:
        """An untrained classifier. Raises ModelError when the model does not fit the space."""
        return build_model(self.model, self.space, self.seed)

    def grow(self, space: Space) -> None:
        """Go on in a space that has classes behind those known so far. Never while something is being learned."""
        self.space, self._weighed = space, ((), {})
        self.private, self._train, self.held_out = (
            None if part is None else Dataset(space, part.images, part.labels)
            for part in (self.private, self._train, self.held_out)
        )

    def grown(self, skills: Skills, old: Space, new: Space) -> Skills | None:
        """Models of ``old`` for ``new``, which has classes behind those; None when they must be trained anew."""
        return grown_skills(skills, lambda model: self._wider(model, old, new), new)

    def unlearned(self, skills: Skills) -> nn.Module:
        """Where a distillation begins that shall leave nothing of what others taught before."""
        return skills.classifier_before

    def restore(self, tensors: Mapping[str, object], space: Space) -> nn.Module:
        """A classifier of ``space`` with saved weights. Raises ModelError when they are of another model."""
        classifier = build_model(self.model, space, self.seed)
        try:
            classifier.load_state_dict(tensors)
        except RuntimeError:
            raise ModelError(
                f"the saved classifier is not a {self.model!r}",
                "set the model that it was, or delete the state folder to learn anew",
            ) from None
        return classifier.eval()

    def add_private(self, more: Dataset) -> None:
        """Take labelled samples into the private data that is learned from; the hold-out stays what it was."""
        self._weighed = (), {}
        self.private = more if self.private is None else concatenate([self.private, more])
        self._train = more if self._train is None else concatenate([self._train, more])

    def train(self, step: Step) -> nn.Module:
        """The classifier of the private data alone."""
        steps = classifier_steps(self.settings, self.space)
        return self._fit(self.fresh(), self._needed_train(), steps=steps, seed=self.seed, step=step)

    def condense(self, step: Step) -> SamplePacket | None:
        """Synthetic samples for others, answers to follow; None when no class has enough real ones."""
        private = self._needed_private()
        make = SOURCES[self.settings.source]
        how, steps = condensing(self.settings, self.space, self.guard), self.settings.generator_steps
        settings = SourceSettings(how, self._flow, steps or usual_steps(self.space), self._device)
        samples = make(private, settings, seed=self.seed, step=step, checkpoint=self._checkpoint)
        if not len(samples):
            return None
        return SamplePacket(
            self.space.id,
            self.settings.source,
            samples.images,
            samples.labels,
            None,
            published_counts(private.counts(), samples.labels),
        )

    def answer(self, classifier: nn.Module, about: Iterable[Entry]) -> LogitPacket:
        """Own logits about sample packets and views of them."""
        known = [(entry.name, entry.packet) for entry in about if isinstance(entry.packet, SamplePacket)]
        return answer(classifier, known, self.space)

    def weigh(self, foreign: Sequence[Entry], standing: Mapping[str, float]) -> dict[str, Verdict]:
        """Judge every author of foreign packets; ``standing`` scales what was found today by the past."""
        packets = {e.name: (e.author, e.packet) for e in foreign if isinstance(e.packet, SamplePacket)}
        answers = [(e.author, e.packet) for e in foreign if isinstance(e.packet, LogitPacket)]
        # of a skill counts what others do not show as well, which changes with theirs
        shown = tuple((e.name, len(e.packet) if isinstance(e.packet, SamplePacket) else 0) for e in foreign)
        if shown != self._weighed[0]:
            # a generator learns from what was distilled just before
            self._weighed = shown, weigh(self._train, packets, answers, self.space, seed=self.seed)
        return {
            author: replace(verdict, weight=verdict.weight * standing.get(author, 1.0))
            for author, verdict in self._weighed[1].items()
        }

    def judge(self, foreign: Sequence[Entry], standing: Mapping[str, float]) -> dict[str, Verdict]:
        """As `weigh`, but others may come to feel it: it decides what skills are cut from."""
        return self.weigh(foreign, standing)

    def distil(
        self,
        classifier: nn.Module,
        own: Entry | None,
        foreign: Sequence[Entry],
        standing: Mapping[str, float],
        *,
        turn: int,
        step: Step,
        about: frozenset[int] | None = None,
        refines: bool = False,
        beside: nn.Module | None = None,
    ) -> Taught:
        """Learn from packets, and keep the outcome only if it is no worse at home, at the second try at the latest.

        Args:
            own: the node's own sample packet.
            turn: how many distillations there were; makes each differ.
            about: the classes to learn about, None: all.
            refines: others hear no answers that come of it.
            beside: whom the device asks at home together with a refinement (`Skills.expert_of_next`); None: nobody, and
                what others hear is no worse by itself.
        """
        verdicts = self.weigh(foreign, standing)
        lessons = self._lessons(own, foreign, verdicts, self._own_answers(classifier, own, foreign)).about(about)
        if not len(lessons):
            return Taught(classifier, False, "nobody's knowledge is trusted", verdicts)
        skill = about is not None
        settings = self._distil_settings(lessons, skill=skill, refines=None if skill else refines)
        seed = self.seed + 1000 * (turn + 1)
        taught = self._taught_at_home(classifier, classifier, lessons, settings, seed, step, beside=beside)
        return replace(taught, verdicts=verdicts)

    def _taught_at_home(
        self,
        known: nn.Module,
        start: nn.Module,
        lessons: Lessons,
        settings: DistilSettings,
        seed: int,
        step: Step,
        *,
        beside: nn.Module | None = None,
    ) -> Taught:
        """A student of lessons and private data that begins as ``start``, if it is no worse at home than ``known``.

        Each of the two is asked together with ``beside``.
        """
        student = self._distil(start, self._train, lessons, settings=settings, seed=seed, step=step)
        if self.held_out is None or not len(self.held_out):
            return Taught(student, True, "no private hold-out to judge by")
        prior = self._needed_private().prior()
        if not (decision := keep_better(known, student, self.held_out, prior, beside=beside)).kept:
            # a hold-out is small and all of a turn is at stake: once more, with more of the private data beside
            settings = replace(settings, private_batch=max(MORE_PRIVATE, 2 * settings.private_batch))
            student = self._distil(start, self._train, lessons, settings=settings, seed=seed + 1, step=step)
            decision = keep_better(known, student, self.held_out, prior, beside=beside)
        student = student if decision.kept else known
        return Taught(student, decision.kept, decision.reason, at_home=(decision.before, decision.after))

    def make_skill(
        self, skills: Skills, packets: Sequence[SamplePacket], labels: Sequence[int], most_bytes: int
    ) -> SamplePacket | None:
        """A packet about these classes for one who asks (`SkillMaker`): cut out of what was published."""
        return cut(skills.classifier, packets, labels, self.space, most_bytes=most_bytes)

    def fine_tune(
        self,
        skills: Skills,
        more: Dataset,
        own: Entry | None,
        foreign: Sequence[Entry],
        standing: Mapping[str, float],
        steps: int,
        step: Step,
    ) -> Tuned:
        """Go on learning with ``more`` among the private data, beside all that is trusted."""
        classifier = skills.classifier
        private = more if self._train is None else concatenate([self._train, more])
        lessons = self._lessons(own, foreign, self.weigh(foreign, standing))
        settings = self._distil_settings()
        settings = replace(settings, private_batch=64, steps=steps or settings.steps)
        alone = skills.classifier_before
        untaught = self._fit(alone, private, steps=settings.steps, seed=self.seed, step=half(step, 0))
        if len(lessons):
            student = self._distil(classifier, private, lessons, settings=settings, seed=self.seed, step=half(step, 1))
        elif classifier is alone:
            student = untaught
        else:
            student = self._fit(classifier, private, steps=settings.steps, seed=self.seed, step=half(step, 1))
        before, after = (
            metrics.accuracy(logits(model, more.images, self.space), more.labels) for model in (classifier, student)
        )
        if self.held_out is None or not len(self.held_out):
            return Tuned(student, untaught, before, after, before, after, kept=True)
        decision = keep_better(classifier, student, self.held_out, concatenate([self._needed_private(), more]).prior())
        return Tuned(student, untaught, before, after, decision.before, decision.after, decision.kept)

    def fit_generator(
        self,
        foreign: Sequence[Entry],
        standing: Mapping[str, float],
        step: Step,
        start: Generator | None = None,
        about: frozenset[int] | None = None,
    ) -> Generator | None:
        """A generator of the private samples and of trusted ones; None when there is nothing to learn from.

        Args:
            start: the one to go on from, where its kind gains from that.
            about: the classes to learn about, None: all.
        """
        shown = [entry for entry in foreign if isinstance(entry.packet, SamplePacket)]
        lessons = self._lessons(None, shown, self.weigh(foreign, standing)).about(about)
        images, labels, weights = lessons.as_samples(self.space)
        if self.private is not None:
            images = np.concatenate([self.private.images, images])
            labels = np.concatenate([self.private.labels, labels])
            weights = np.concatenate([np.ones(len(self.private), np.float32), weights])
        return self._fit_generator(images, labels, weights, step, start)

    def competence(self, skills: Skills, own: Entry | None, foreign: Sequence[Entry]) -> Measured:
        """What is advertised: measured on the private hold-out, on own samples and on others'."""
        entries = [*foreign, *([own] if own is not None else [])]
        known = [(e.packet.images, e.packet.labels) for e in entries if isinstance(e.packet, SamplePacket)]
        if (evidence := self.evidence()) is not None:
            known.append((evidence.images, evidence.labels))
        return measured(skills, known, self.space, self.seed)

    def unlike_private(self, images: np.ndarray, label: int) -> np.ndarray:
        """Which images (n, channels, height, width) of a class are no near-copies of private ones: bool (n,)."""
        if self.private is None or not (self.private.labels == label).any():
            return np.ones(len(images), bool)
        kept: np.ndarray = self.guard(
            to_tensor(self.private.images, self.space),
            torch.from_numpy(self.private.labels),
            to_tensor(images, self.space),
            torch.full((len(images),), label),
            COMPARED_DIMENSIONS,
        ).numpy()
        return kept

    def personal_prior(self) -> np.ndarray | None:
        return None if self.private is None else self.private.prior()

    def _wider(self, model: nn.Module, old: Space, new: Space) -> nn.Module | None:
        return grown_classifier(model, self.model, old, new, self.seed)

    def _own_answers(
        self, classifier: nn.Module, own: Entry | None, foreign: Sequence[Entry]
    ) -> tuple[tuple[str, LogitPacket], ...]:
        """What this node would say now, where all answer about all: it is one of the teachers."""
        answered = any(isinstance(entry.packet, LogitPacket) for entry in foreign)
        if own is None or not answered or not self.answers_about_all:
            return ()
        return ((own.author, self.answer(classifier, [own, *foreign])),)

    def _lessons(
        self,
        own: Entry | None,
        foreign: Sequence[Entry],
        verdicts: Mapping[str, Verdict],
        own_answers: tuple[tuple[str, LogitPacket], ...] = (),
    ) -> Lessons:
        entries = [*foreign, *([own] if own is not None else [])]
        packets = {e.name: (e.author, e.packet) for e in entries if isinstance(e.packet, SamplePacket)}
        answers = [(e.author, e.packet) for e in entries if isinstance(e.packet, LogitPacket)]
        answers += own_answers
        trusted = dict(verdicts) | ({own.author: Verdict(1.0, "own")} if own is not None else {})
        return assemble(packets, answers, trusted, self.space, anchors={e.author for e in entries if e.by_anchor})

    def _fit_generator(
        self, images: np.ndarray, labels: np.ndarray, weights: np.ndarray, step: Step, start: Generator | None
    ) -> Generator | None:
        if not len(labels):
            return None
        return self.generators.fit(
            images,
            labels,
            weights,
            self.space,
            start,
            steps=self.settings.generator_steps,
            seed=self.seed,
            step=step,
            checkpoint=self._checkpoint,
        )

    def _distil_settings(
        self, lessons: Lessons | None = None, *, skill: bool = False, refines: bool | None = None
    ) -> DistilSettings:
        chosen = DistilSettings() if self.private is not None else DistilSettings.for_anchor()
        return distilling(chosen, self.settings, self.space, lessons, skill=skill, refines=refines)

    def _needed_private(self) -> Dataset:
        if self.private is None:
            raise ModelError("this node has no private data", "an anchor learns from packets only")
        return self.private

    def _needed_train(self) -> Dataset:
        self._needed_private()
        return self._train if self._train is not None else self._needed_private()
