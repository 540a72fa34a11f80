"""The learning cycle: does what the plan says, one action at a time, and returns what came of it.

Nothing here changes the node: an `Outcome` names the new models, the journal's changes and what is to
be published, and the actor makes it durable, then true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import structlog

from ..errors import Cancelled, StateError
from ..knowledge.data import Dataset
from ..knowledge.packet import LogitPacket, SamplePacket
from ..knowledge.trust import Verdict
from .competence import Measured
from .lane import Lane, Step
from .learner import Learner
from .library import Entry, Library, SampleEntry
from .plan import Action, Distil, Judge, Publish, PublishLogits, Train, TrainGenerator, Wait
from .router import Competence, expected_quality
from .skills import Skills
from .store import Journal
from .taught import Taught, Tuned
from .toolbox import SKILL_OF, Toolbox, sources_of

log = structlog.get_logger("meshlore.node")

NOTHING = "nothing"
"""In the journal, for a node that has nothing to publish or to learn drawing from; the next start looks again."""
LOST_STANDING = 0.5
REGAINED_STANDING = 1.5
WORSE = 0.02
"""Of quality in the classes of a skill: so much may be chance."""


@dataclass(frozen=True)
class Outcome:
    """What an action came to.

    Attributes:
        skills: the new models, None: as before.
        changes: of the journal.
        publication: a packet to number, sign, seal and announce.
        more_private: labelled samples that join the private data.
        skill: one that joins the toolbox, and its sealed bytes.
        measured: what the new models can do, where that is known already.
    """

    skills: Skills | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)
    publication: SamplePacket | LogitPacket | None = None
    more_private: Dataset | None = None
    skill: tuple[SampleEntry, bytes] | None = None
    measured: Measured | None = None


class Cycle:
    """One node's learning, on its compute lane.

    Args:
        lessons: whether it learns about all classes that others teach, or only about its own and those of the
            skills in its toolbox.

    Attributes:
        trust: the last verdict on every author, local and never published.
    """

    def __init__(
        self,
        learner: Learner,
        lane: Lane,
        library: Library,
        toolbox: Toolbox,
        trust: Mapping[str, float],
        lessons: Literal["all", "asked"] = "all",
    ) -> None:
        self._learner = learner
        self._lane = lane
        self._library = library
        self._toolbox = toolbox
        self._lessons = lessons
        self.trust = {author: Verdict(weight, "before the restart") for author, weight in trust.items()}

    async def do(self, action: Action, journal: Journal, skills: Skills | None) -> Outcome:
        """Do one action. What others sent cannot end the node: work on it that fails is set aside, with a loss
        of standing for those who brought something new.

        Raises:
            Cancelled: the lane was closed meanwhile.
            Exception: what work on the node's own data failed with.
        """
        try:
            return await self._do(action, journal, skills)
        except Exception as error:
            if isinstance(error, Cancelled):
                raise
            if not isinstance(action, Distil | Judge | TrainGenerator) or not action.packets:
                raise
            log.exception("cannot learn from what others sent", action=type(action).__name__)
            return self._set_aside(action, journal, skills)

    def unwelcome(self, authors: Iterable[str]) -> frozenset[str]:
        """Those that may teach no more: revoked, or without weight in the last weighing."""
        return frozenset(
            a for a in authors if self._library.is_revoked(a.removeprefix(SKILL_OF)) or not self._trusts(a)
        )

    async def _do(self, action: Action, journal: Journal, skills: Skills | None) -> Outcome:
        match action:
            case Train():
                classifier = await self._lane.train("learning", self._learner.train)
                return Outcome(Skills(classifier, classifier))
            case Publish():
                packet = await self._lane.train("condensing", self._learner.condense)
                return Outcome(publication=packet, changes={} if packet else {"published": NOTHING})
            case Distil():
                return await self._distil(action, journal, skills)
            case Judge():
                return await self._judge(journal, _trained(skills))
            case PublishLogits():
                return await self._answer(_trained(skills))
            case TrainGenerator():
                return await self._generate(action, journal, _trained(skills))
            case Wait():
                return Outcome()

    async def fine_tune(
        self,
        more: Dataset,
        steps: int,
        journal: Journal,
        skills: Skills | None,
        progress: Callable[[float], None],
        wanted: Callable[[], bool],
    ) -> tuple[Tuned, Outcome]:
        """Teach the classifier labelled samples; ``wanted`` is asked between steps whether anybody still waits."""
        current, foreign, own = _trained(skills), self._foreign(), self._library.own_samples()

        def work(step: Step) -> Tuned:
            def watched(fraction: float) -> None:
                progress(fraction)
                if not wanted():
                    raise Cancelled("nobody waits for the fine-tuning any more")
                step(fraction)

            return self._learner.fine_tune(current, more, own, foreign, journal.standing, steps=steps, step=watched)

        tuned = await self._lane.train("fine-tuning", work)
        if not tuned.kept:
            return tuned, Outcome()
        return tuned, Outcome(
            replace(current, classifier=tuned.classifier, classifier_before=tuned.untaught, expert=None),
            changes={"learned_from": self._learned_from(journal.learned_from, foreign)}
            | ({"published": ""} if self._learner.retells else {}),
            more_private=more,
        )

    async def learn_skill(
        self,
        skill: SampleEntry,
        data: bytes,
        labels: frozenset[int],
        journal: Journal,
        skills: Skills | None,
        known: Competence,
        progress: Callable[[float], None],
    ) -> tuple[Taught, Outcome]:
        """Distil with a fetched skill beside all that is known; it is kept if the node becomes no worse at home and
        no worse at these classes.

        Args:
            data: the skill as it came, sealed. known: what the node can do now.
        """
        current, own = skills or self._untaught(), self._library.own_samples()
        foreign = [*self._library.of_others(), *self._toolbox.entries(skill)]
        if self._lessons == "all" and skill.name not in {entry.name for entry in foreign}:
            return Taught(current.classifier, False, "it brought nothing that is not here already"), Outcome()

        def work(step: Step) -> Taught:
            def watched(fraction: float) -> None:
                progress(fraction)
                step(fraction)

            turn, about = journal.version, self._about(labels)
            return self._learner.distil(
                current.classifier, own, foreign, journal.standing, turn=turn, step=watched, about=about
            )

        taught = await self._lane.train("distilling", work)
        self.trust = dict(taught.verdicts)
        if self.unwelcome(skill.packet.made_of):
            return replace(taught, kept=False, reason="an author of its samples is not trusted"), Outcome()
        verdict = taught.verdicts.get(skill.author)
        trusted = verdict is None or (verdict.weight > 0 and not labels <= verdict.refuted)
        if verdict is not None and not trusted:
            taught = replace(taught, kept=False, reason=f"the {skill.author_name} is not trusted: {verdict.reason}")
        changes: dict[str, Any] = {"standing": _standing(journal.standing, {skill.author}, kept=taught.kept)}
        if not trusted or (not taught.kept and taught.public is None):
            return taught, Outcome(changes=changes)
        # what others hear of must not hang on the private hold-out: it learns the skill though the rest is rolled back
        better = replace(current, classifier=taught.classifier, public=taught.public or current.public)
        changes["learned_from"] = self._learned_from(journal.learned_from, foreign)
        measured = await self.competence(better, skill)
        if _mean_quality(measured.competence, labels) < _mean_quality(known, labels) - WORSE:
            return replace(taught, kept=False, reason="it did not help"), Outcome()
        return taught, Outcome(better, changes, skill=(skill, data), measured=measured)

    async def competence(self, skills: Skills, more: SampleEntry | None = None) -> Measured:
        """What the node can do with these models, measured; ``more``: a skill that is no part of the toolbox yet."""
        entries = [*self._library.of_others(), *self._toolbox.entries(more)]
        foreign = [entry for entry in entries if self._trusts(entry.author)]
        own = self._library.own_samples()
        return await self._lane.train("measuring", lambda _step: self._learner.competence(skills, own, foreign))

    async def _distil(self, action: Distil, journal: Journal, skills: Skills | None) -> Outcome:
        # what a toolbox node has of its skills' classes may be in the packets of others
        chosen = self._foreign(action.packets if self._lessons == "all" else None)
        own = self._library.own_samples()
        current = skills or self._untaught()
        start = self._learner.unlearned(current) if action.anew else current.classifier
        taught = await self._lane.train(
            "distilling",
            lambda step: self._learner.distil(
                start,
                own,
                chosen,
                journal.standing,
                turn=journal.version,
                step=step,
                about=self._about(),
                refines=action.refines,
                beside=current.expert_of_next if action.refines else None,
            ),
        )
        self.trust = dict(taught.verdicts)
        log.info("distilled", kept=taught.kept, because=taught.reason, anew=action.anew)
        # who was given no weight did neither good nor harm
        judged = {author for author, verdict in taught.verdicts.items() if verdict.weight > 0}
        fresh = {e.author for e in chosen if e.name in action.packets - set(journal.taught_by)} & judged
        before = () if action.anew else journal.learned_from
        if action.anew:
            current = replace(current, expert=None, public=None)
        learned = chosen if taught.kept or taught.public is not None else ()
        first = not journal.taught_by
        return Outcome(
            _skills_after(current, taught, refines=action.refines and self._learner.private is not None),
            {
                "taught_by": tuple(sorted(action.packets)),
                "learned_from": self._learned_from(before, learned),
                "refined": _refined(journal, action),
                "heard": _heard(journal, action, chosen),
                "logits_due": self._learner.has_news(taught, first=first, refines=action.refines),
                "standing": _standing(journal.standing, fresh, kept=taught.kept),
                "trust": {author: float(verdict.weight) for author, verdict in taught.verdicts.items()},
            },
        )

    async def _judge(self, journal: Journal, skills: Skills) -> Outcome:
        foreign = self._foreign()
        verdicts = await self._lane.train("weighing", lambda _step: self._learner.judge(foreign, journal.standing))
        self.trust = dict(verdicts)
        changes = {"trust": {author: float(verdict.weight) for author, verdict in verdicts.items()}}
        return Outcome(changes=changes, measured=await self.competence(skills))

    async def _answer(self, skills: Skills) -> Outcome:
        """Answers about all that is trusted, or where answers cost as much as samples about one's own alone."""
        own = self._library.own_samples()
        about = [own] if own is not None else []
        if self._learner.answers_about_all:
            about = [entry for entry in self._library.samples().values() if self._trusts(entry.author)]
        changes = {"logits_due": False}
        shown = self._learner.shown_to_others(skills)
        if not about or shown is None:
            return Outcome(changes=changes)
        answers = await self._lane.train("answering", lambda _step: self._learner.answer(shown.classifier, about))
        return Outcome(publication=answers, changes=changes)

    async def _generate(self, action: TrainGenerator, journal: Journal, skills: Skills) -> Outcome:
        named = action.packets if self._lessons == "all" else None
        chosen = self._foreign(named) if action.packets else []
        start = None if action.anew else skills.generator
        generator = await self._lane.train(
            "generating",
            lambda step: self._learner.fit_generator(chosen, journal.standing, step, start, self._about()),
        )
        before = skills.generator_before or (None if action.packets else generator)
        known = () if action.anew else journal.generator_learned_from
        names = tuple(sorted(action.packets))
        if generator is None and not names:
            names = (NOTHING,)
        return Outcome(
            replace(skills, generator=generator, generator_before=before),
            {
                "generator_taught_by": names,
                "generator_learned_from": self._learned_from(known, chosen),
            },
        )

    def _set_aside(self, action: Distil | Judge | TrainGenerator, journal: Journal, skills: Skills | None) -> Outcome:
        if isinstance(action, Judge):
            return Outcome()
        names = tuple(sorted(action.packets))
        known = journal.taught_by if isinstance(action, Distil) else journal.generator_taught_by
        fresh = {e.author for e in self._foreign() if e.name in action.packets - set(known)}
        changes: dict[str, Any] = {"standing": _standing(journal.standing, fresh, kept=False)}
        if isinstance(action, Distil):
            heard = _heard(journal, action, self._foreign(action.packets))
            changes |= {"taught_by": names, "refined": _refined(journal, action), "heard": heard}
            if not action.anew or skills is None:
                return Outcome(changes=changes)
            forgotten = replace(skills, classifier=skills.classifier_before, expert=None, public=None)
            return Outcome(forgotten, changes | {"learned_from": ()})
        changes["generator_taught_by"] = names
        if not action.anew or skills is None:
            return Outcome(changes=changes)
        return Outcome(replace(skills, generator=None), changes | {"generator_learned_from": ()})

    def _foreign(self, names: frozenset[str] | None = None) -> list[Entry]:
        """Others' packets (of these names, None: all), and what the toolbox adds to them."""
        entries = [entry for entry in self._library.of_others() if names is None or entry.name in names]
        return [*entries, *self._toolbox.entries()]

    def _about(self, more: frozenset[int] = frozenset()) -> frozenset[int] | None:
        """The classes to learn about, None: all."""
        if self._lessons == "all":
            return None
        private = self._learner.private
        own = frozenset() if private is None else frozenset(np.flatnonzero(private.counts()).tolist())
        return own | self._toolbox.labels() | more

    def _learned_from(self, before: Iterable[str], entries: Iterable[Entry]) -> tuple[str, ...]:
        """The authors of whom a model bears something that bore something of those before and then learned entries."""
        learned = [sources_of(entry) for entry in entries if self._trusts(entry.author)]
        return tuple(sorted(frozenset(before).union(*learned)))

    def _trusts(self, author: str) -> bool:
        return author not in self.trust or self.trust[author].weight > 0

    def _untaught(self) -> Skills:
        fresh = self._learner.fresh()
        return Skills(fresh, fresh)


def _trained(skills: Skills | None) -> Skills:
    if skills is None:
        raise StateError("this node has learned nothing yet", "wait until it has: meshlore status")
    return skills


def _skills_after(current: Skills, taught: Taught, *, refines: bool) -> Skills | None:
    """``refines``: what was known before stays as the expert."""
    if taught.classifier is current.classifier and taught.public is None:
        return None
    expert = current.expert
    if taught.kept:
        expert = current.expert_of_next if refines else None
    return replace(current, classifier=taught.classifier, expert=expert, public=taught.public or current.public)


def _mean_quality(competence: Competence, labels: frozenset[int]) -> float:
    return expected_quality(competence, "classify", dict.fromkeys(labels, 1.0))


def _refined(journal: Journal, action: Distil) -> int:
    return journal.refined + 1 if action.refines else 0


def _heard(journal: Journal, action: Distil, entries: Iterable[Entry]) -> tuple[str, ...]:
    """Authors of answers that were new in a lesson of new samples or in the refinements since."""
    known = set() if action.anew else set(journal.taught_by)
    answers = (entry for entry in entries if isinstance(entry.packet, LogitPacket))
    fresh = {entry.author for entry in answers if entry.name in action.packets - known}
    return tuple(sorted(fresh.union(journal.heard if action.refines else ())))


def _standing(standing: Mapping[str, float], fresh: set[str], *, kept: bool) -> dict[str, float]:
    """Reputation after a distillation: who brought something new loses it when that was rolled back, else
    regains it."""
    changed = dict(standing)
    for author in fresh:
        now = changed.get(author, 1.0)
        changed[author] = min(1.0, now * REGAINED_STANDING) if kept else now * LOST_STANDING
    return {author: value for author, value in changed.items() if value < 1.0}
