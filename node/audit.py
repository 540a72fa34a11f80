"""``meshlore audit``: attack what this device would publish, beside a publisher that is known to leak.

The power check is part of every audit: an attack that does not find the copies it is shown says nothing
about the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from ..errors import DataError, SecurityError
from ..knowledge.audit import RATES, Publish, membership, mislabelled, one_run, one_run_statistics
from ..knowledge.data import Dataset
from ..knowledge.lessons import assemble
from ..knowledge.models import logits
from ..knowledge.packet import MAX_SAMPLES, SamplePacket, coarse
from ..knowledge.private import Statistics, measure
from ..knowledge.sources import load
from ..knowledge.training import no_step
from ..knowledge.trust import Verdict
from ..security.ledger import Budget, noise_multiplier
from .learner import GUARDS, Learner
from .library import Entry
from .private_learner import PrivateLearner
from .settings import Learning, Privacy

COPIES = "copies"
"""The publisher of the power check: sends its private records as they are."""
FORGOTTEN = "noise forgotten"
MOST_BESIDE = 3000  # records in every publication, beside those that are attacked
FOUND_AREA, FOUND_EPSILON = 0.8, 1.0
Audit = Literal["membership", "one-run"]
Says = Callable[[float, str], None]


@dataclass(frozen=True)
class AuditOptions:
    """How much is attacked.

    Attributes:
        data: a source as in the configuration.
        records: attacked, each being in a publication by chance; the rest of the data is in all of them.
        publications: of the membership audit.
    """

    data: str
    privacy: Privacy
    model: str = ""
    records: int = 400
    publications: int = 16
    seed: int = 0
    learning: Learning = field(default_factory=Learning)

    def quick(self) -> AuditOptions:
        """Fewer records and publications, condensed briefly: a minute or two for digits."""
        learning = self.learning.model_copy(update={"condense_steps": 10, "classifier_steps": 100})
        return replace(self, records=min(self.records, 200), publications=8, learning=learning)


def audit(kind: Audit, options: AuditOptions, says: Says = lambda _fraction, _what: None) -> dict[str, Any]:
    """Run an audit and its power check; plain values, documented in docs/privacy.md.

    Raises:
        DataError: too few records.
        SecurityError: the promise of differential privacy is refuted.
    """
    data = load(options.data).dataset
    if len(data) < 2 * options.records:
        raise DataError(
            f"{options.data} holds {len(data)} samples, the audit wants {2 * options.records}",
            f"give --records {len(data) // 2} or fewer",
        )
    order = np.random.default_rng(options.seed).permutation(len(data))
    chosen, rest = data.subset(order[: options.records]), data.subset(order[options.records :][:MOST_BESIDE])
    modes = [options.privacy.mode, COPIES]
    if kind == "membership":
        results = {mode: _membership(mode, chosen, rest, options, says) for mode in modes}
        found = results[COPIES]["auc"] > FOUND_AREA
    else:
        canaries = mislabelled(chosen, options.seed)
        results = {mode: _one_run(mode, rest, canaries, options, says) for mode in modes}
        found = results[COPIES]["epsilon"] > FOUND_EPSILON
        if options.privacy.mode == "dp":
            results |= _statistics(rest, canaries, options)
            found = found and results[FORGOTTEN]["epsilon"] > FOUND_EPSILON
            _check_promise(results, options.privacy)
    return {
        "audit": kind,
        "data": options.data,
        "mode": options.privacy.mode,
        "epsilon": options.privacy.epsilon if options.privacy.mode == "dp" else None,
        "able": bool(found),
        "results": results,
    }


def in_words(value: dict[str, Any]) -> list[str]:
    """The outcome of an audit as lines for people."""
    lines = []
    for name, result in value["results"].items():
        if name == value["mode"] and not result["samples"]:
            lines.append(f"{name:>16}: published nothing, the records are too few for this epsilon")
            continue
        if value["audit"] == "membership":
            rates = ", ".join(f"{share:.1%} at {rate:.1%}" for rate, share in result["tpr"].items())
            lines.append(
                f"{name:>16}: AUC {result['auc']:.3f} (0.5: no leak); members found at false positives: {rates}"
            )
        else:
            lines.append(
                f"{name:>16}: epsilon at least {result['epsilon']:.2f} (95% sure); "
                f"{result['right']} of {result['guesses']} guesses right"
            )
    if value["epsilon"] is not None and value["audit"] == "one-run":
        lines.append(f"the ledger promises epsilon {value['epsilon']:g} at most: not refuted")
    if not value["able"]:
        lines.append("this audit is blind: it missed the leak of its power check; give it more --records")
    return lines


def publisher(mode: str, options: AuditOptions) -> Publish:
    """What publishes in a mode: the learner's own code, with its answers about its samples."""
    if mode == COPIES:
        return lambda data, seed: _answered(Learner, data, options, seed, _copies)
    if mode == "dp":
        noise = _noise(options.privacy)
        return lambda data, seed: _published_privately(data, options, seed, noise)

    def guarded(*arguments: Any) -> Learner:
        return Learner(*arguments, guard=GUARDS[mode])

    return lambda data, seed: _answered(guarded, data, options, seed, lambda learner: learner.condense(no_step))


def _answered(
    make: Callable[..., Learner],
    data: Dataset,
    options: AuditOptions,
    seed: int,
    samples: Callable[[Learner], SamplePacket | None],
) -> SamplePacket | None:
    learner = make(data.space, "node", options.model, data, options.learning, seed)
    packet = samples(learner)
    if packet is None:
        return None
    # a node answers after a lesson, which has shown it its private data once more
    own = Entry("own", "own", "own", 1, 0.0, packet)
    taught = learner.distil(learner.train(no_step), own, [], {}, turn=0, step=no_step)
    return replace(packet, logits=coarse(logits(taught.classifier, packet.images, data.space)))


def _copies(learner: Learner) -> SamplePacket | None:
    data = learner.private
    if data is None:
        return None
    few = data.subset(np.arange(min(len(data), MAX_SAMPLES)))
    return SamplePacket(data.space.id, COPIES, few.images, few.labels, None, data.counts())


def _published_privately(data: Dataset, options: AuditOptions, seed: int, noise: float) -> SamplePacket | None:
    learner = PrivateLearner(
        data.space,
        "node",
        options.model,
        data,
        options.learning,
        seed,
        paid=lambda private: measure(private, noise, np.random.default_rng(seed)),
        epsilon=options.privacy.epsilon,
    )
    packet = learner.condense(no_step)
    if packet is None:
        return None
    lessons = assemble({"own": ("own", packet)}, [], {"own": Verdict(1.0, "own")}, data.space)
    return replace(packet, logits=coarse(logits(learner.learn_publicly(lessons, seed), packet.images, data.space)))


def _membership(mode: str, pool: Dataset, rest: Dataset, options: AuditOptions, says: Says) -> dict[str, Any]:
    leak = membership(
        pool,
        rest,
        publisher(mode, options),
        publications=options.publications,
        seed=options.seed,
        step=lambda fraction: says(fraction, mode),
    )
    return asdict(leak) | {"tpr": dict(zip(RATES, leak.tpr, strict=True))}


def _one_run(mode: str, base: Dataset, canaries: Dataset, options: AuditOptions, says: Says) -> dict[str, Any]:
    bound = one_run(
        base,
        canaries,
        publisher(mode, options),
        delta=options.privacy.delta,
        seed=options.seed,
        step=lambda fraction: says(fraction, mode),
    )
    return asdict(bound)


def _statistics(base: Dataset, canaries: Dataset, options: AuditOptions) -> dict[str, dict[str, Any]]:
    """The noisy statistics as an insider sees them, and the same with hardly any noise, as a power check."""

    def taken(noise: float) -> Callable[[Dataset], Statistics]:
        return lambda data: measure(data, noise, np.random.default_rng(options.seed + 1))

    return {
        name: asdict(one_run_statistics(base, canaries, taken(noise), delta=options.privacy.delta, seed=options.seed))
        for name, noise in (("statistics", _noise(options.privacy)), (FORGOTTEN, 1e-3))
    }


def _check_promise(results: dict[str, dict[str, Any]], privacy: Privacy) -> None:
    for name in ("dp", "statistics"):
        if results[name]["epsilon"] > privacy.epsilon:
            raise SecurityError(
                f"the audit refutes the promise: epsilon is at least {results[name]['epsilon']:.2f}, "
                f"not {privacy.epsilon:g} at most",
                "stop the node and report this",
            )


def _noise(privacy: Privacy) -> float:
    return noise_multiplier(Budget(privacy.epsilon, privacy.delta))
