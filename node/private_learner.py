"""Learning under differential privacy: two classifiers, one that stays and one that others may hear.

The personal classifier learns from private data and never leaves. The public one, the generator, the
adverts and the packets are made of the noisy statistics that the ledger has paid for, and of what others
published: nothing that leaves this device looks at a private record in any other way.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import structlog
from torch import nn

from ..errors import BudgetSpent, StateError
from ..knowledge.data import Dataset
from ..knowledge.distil import DistilSettings
from ..knowledge.generators import Generator, GeneratorKind
from ..knowledge.lessons import Lessons
from ..knowledge.packet import SamplePacket
from ..knowledge.private import MAX_BYTES, SENSITIVITY, LowPass, Statistics, measure, private_packet
from ..knowledge.resuming import Checkpoint
from ..knowledge.space import Space
from ..knowledge.training import Step, half, no_step
from ..knowledge.trust import Verdict, weigh
from ..security.files import read_private, write_atomic
from ..security.ledger import Budget, Ledger, Release, noise_multiplier
from .competence import Measured
from .learner import Learner
from .library import Entry
from .router import Competence
from .settings import Learning, Privacy
from .skills import Skills
from .store import Journal
from .taught import Taught

log = structlog.get_logger("meshlore.privacy")

STATISTICS = "privacy.statistics"
PaidStatistics = Callable[[Dataset], Statistics]


class PrivateLearner(Learner):
    """A learner whose private data leave it through paid statistics only.

    Args:
        paid: takes the statistics of the private data, once and for all; raises BudgetSpent.
        epsilon: what the packets say was spent.
        ledger: that of this home, for who wants to see it.
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
        paid: PaidStatistics,
        epsilon: float,
        ledger: Ledger | None = None,
        generators: GeneratorKind | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        super().__init__(space, role, model, private, settings, seed, generators=generators, checkpoint=checkpoint)
        self._told = private  # what fine-tuning adds later is never told
        self._paid = paid
        self._epsilon = epsilon
        self.ledger = ledger

    @property
    def retells(self) -> bool:
        """One release for all time: whether fine-tuning was kept must not show in what is published."""
        return False

    def fresh(self) -> nn.Module:
        return LowPass(super().fresh(), self.space)

    def restore(self, tensors: Mapping[str, object], space: Space) -> nn.Module:
        inner = super().restore({name.removeprefix("model."): value for name, value in tensors.items()}, space)
        return LowPass(inner, space).eval()

    def grow(self, space: Space) -> None:
        super().grow(space)
        if self._told is not None:
            self._told = Dataset(space, self._told.images, self._told.labels)

    def competence(self, skills: Skills, own: Entry | None, foreign: Sequence[Entry]) -> Measured:
        shown = self.shown_to_others(skills)
        if shown is None:
            return Measured(Competence((), (), added=self.space.added_classes))
        return super().competence(shown, own, foreign)

    def shown_to_others(self, skills: Skills) -> Skills | None:
        if self.private is None:
            return skills
        if skills.public is None:
            return None
        return Skills(skills.public, skills.public, skills.generator, None)

    def has_news(self, taught: Taught, *, first: bool, refines: bool) -> bool:
        if self.private is None:
            return super().has_news(taught, first=first, refines=refines)
        return taught.public is not None and not refines

    def judge(self, foreign: Sequence[Entry], standing: Mapping[str, float]) -> dict[str, Verdict]:
        return self._public_verdicts(foreign)

    def condense(self, step: Step) -> SamplePacket | None:
        """Samples made from the noisy statistics alone; None when they tell nothing or cannot be paid for."""
        try:
            packet = self._packet()
        except BudgetSpent as error:
            log.error("nothing is published", because=str(error))
            return None
        step(1.0)
        return packet

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
        """The public classifier from packets alone, then from it the personal one with private data beside."""
        if self.private is None:
            return super().distil(
                classifier, own, foreign, standing, turn=turn, step=step, about=about, refines=refines, beside=beside
            )
        verdicts = self._public_verdicts(foreign)
        material = self._lessons(own, foreign, verdicts).about(about)
        if not len(material):
            return Taught(classifier, False, "nobody's knowledge is trusted", verdicts)
        seed = self.seed + 1000 * (turn + 1)
        public = self.learn_publicly(material, seed, half(step, 0))
        lessons = self._lessons(own, foreign, self.weigh(foreign, standing)).about(about)
        settings = self._distil_settings()
        taught = self._taught_at_home(classifier, public, lessons, settings, seed, half(step, 1), beside=beside)
        return replace(taught, verdicts=verdicts, public=public)

    def fit_generator(
        self,
        foreign: Sequence[Entry],
        standing: Mapping[str, float],
        step: Step,
        start: Generator | None = None,
        about: frozenset[int] | None = None,
    ) -> Generator | None:
        """A generator of published samples alone, its own and others': it draws for others too."""
        if self.private is None:
            return super().fit_generator(foreign, standing, step, start, about)
        lessons = self._lessons(None, foreign, self._public_verdicts(foreign)).about(about)
        images, labels, weights = lessons.as_samples(self.space)
        own = self.condense(no_step)
        if own is not None:
            images, labels = np.concatenate([own.images, images]), np.concatenate([own.labels, labels])
            weights = np.concatenate([np.ones(len(own), np.float32), weights])
        return self._fit_generator(images, labels, weights, step, start)

    def unlike_private(self, images: np.ndarray, label: int) -> np.ndarray:
        """All: choosing by private data would tell about it, and nothing here was made from it."""
        return np.ones(len(images), bool)

    def evidence(self) -> Dataset | None:
        """None: what is advertised is measured on published samples alone."""
        return None

    def _packet(self) -> SamplePacket | None:
        if self._told is None:
            return None
        per_class = self.settings.samples_per_class
        return private_packet(
            self._paid(self._told), self.space, self._epsilon, per_class=per_class, seed=self.seed % 2**31
        )

    def _wider(self, model: nn.Module, old: Space, new: Space) -> nn.Module | None:
        wider = super()._wider(model.model if isinstance(model, LowPass) else model, old, new)
        return None if wider is None else LowPass(wider, new).eval()

    def _public_verdicts(self, foreign: Sequence[Entry]) -> dict[str, Verdict]:
        """What packets tell of each other: no private record has a say in what others hear."""
        packets = {e.name: (e.author, e.packet) for e in foreign if isinstance(e.packet, SamplePacket)}
        answers = [(e.author, e.packet) for e in foreign if not isinstance(e.packet, SamplePacket)]
        return weigh(None, packets, answers, self.space, seed=self.seed)

    def learn_publicly(self, lessons: Lessons, seed: int, step: Step = no_step) -> nn.Module:
        """A classifier from published samples alone, as an anchor learns."""
        settings = DistilSettings.for_anchor()
        if not self.space.is_small:
            settings = replace(settings, steps=2 * settings.steps, learning_rate=2e-3)
        settings = replace(settings, steps=self.settings.distil_steps or settings.steps)
        return self._distil(self.fresh(), None, lessons, settings=settings, seed=seed, step=step)


class Vault:
    """The noisy statistics of one home, and the ledger that has paid for them."""

    def __init__(self, home: Path, privacy: Privacy) -> None:
        self._path = home / STATISTICS
        self._budget = Budget(privacy.epsilon, privacy.delta)
        self.ledger = Ledger(home, self._budget)

    def statistics(self, private: Dataset) -> Statistics:
        """The statistics that this home has taken, or takes now: paid for, on disk, the same for ever.

        They are written first and paid for then; not before both are on the disk does anybody see them.

        Raises:
            BudgetSpent: they cannot be paid for.
            StateError, PacketError: files that are damaged or cannot be written.
        """
        try:
            statistics = Statistics.from_bytes(read_private(self._path, max_bytes=MAX_BYTES), private.space)
        except FileNotFoundError:
            unpredictable = np.random.Generator(np.random.Philox(secrets.randbits(128)))
            statistics = measure(private, noise_multiplier(self._budget), unpredictable)
            write_atomic(self._path, statistics.to_bytes())
        if not self.ledger.paid(statistics.name):
            self.ledger.spend(Release(statistics.noise, statistics.name, SENSITIVITY, time.time()))
        return statistics


def open_vault(home: Path, privacy: Privacy, journal: Journal) -> Vault:
    """The vault of a home that keeps to a budget, from its first day on.

    Raises:
        StateError: it has published without differential privacy, or its ledger is damaged.
        ConfigError: `dp_accounting` is not installed.
    """
    if journal.version and not Ledger.exists(home):
        raise StateError(
            f"{home} has learned and published without differential privacy, which cannot be taken back",
            "join with a fresh --home, or set privacy.mode to what it was",
        )
    vault = Vault(home, privacy)
    if vault.ledger.void:
        raise StateError(
            f"{home} gives no privacy promise any more: {vault.ledger.void}",
            "join with a fresh --home, or leave privacy.mode as it is",
        )
    vault.ledger.promise(time.time())
    # the accountant is missed or loaded now, not in the middle of the work
    noise_multiplier(vault.ledger.budget)
    return vault


def leave_vault(home: Path, privacy: Privacy) -> list[str]:
    """Note that a home which kept to a budget does so no longer; what to tell the user."""
    if not Ledger.exists(home):
        return []
    ledger = Ledger(home, Budget(privacy.epsilon, privacy.delta))
    if ledger.void:
        return []
    ledger.break_promise(f"privacy.mode was set to {privacy.mode}", time.time())
    return [f"differential privacy is given up for good in {home}: privacy.mode is {privacy.mode!r} now"]


def privacy_status(privacy: Privacy, learner: Learner) -> dict[str, Any]:
    """Mode, budget and what is left of it, as plain values and in plain words."""
    value: dict[str, Any] = {"mode": privacy.mode, "epsilon": None, "delta": None, "spent": None, "left": None}
    if learner.role == "anchor":
        return value | {"says": "no private data here: packets of others and what was learned from them"}
    if privacy.mode == "off":
        return value | {"says": "unprotected: published samples may resemble private ones closely"}
    if privacy.mode == "filter":
        return value | {"says": "near-copies of private samples are held back: a safety net, no guarantee"}
    ledger = learner.ledger if isinstance(learner, PrivateLearner) else None
    if ledger is None:
        return value | {"says": "others hear noisy statistics only; no ledger is at hand"}
    spent, left = ledger.spent(), ledger.left()
    says = (
        f"epsilon {spent:.3g} of {privacy.epsilon:g} spent, {left:.2f} left (delta {privacy.delta:g}) for each record"
    )
    says += "; others hear noisy statistics only" if ledger.releases else "; nothing was published yet"
    known = round(spent, 4) if spent < math.inf else None
    numbers = {"epsilon": privacy.epsilon, "delta": privacy.delta, "spent": known, "left": round(left, 4)}
    return value | numbers | {"says": says}
