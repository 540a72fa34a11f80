"""Learning without averaging: each node for itself, their ensembles, and all data in one place.

Local classifiers are trained by the node's own `Learner`, so they are what a mesh starts from.
"""

from __future__ import annotations

import numpy as np
from meshlore.knowledge.data import concatenate
from meshlore.knowledge.models import build_model
from meshlore.knowledge.training import FitSettings, Step, fit_classifier, no_step
from meshlore.node.learner import Learner
from meshlore.node.settings import Learning
from torch import nn

from .problem import Logits, Meter, Problem, Solution, size_bytes


class Locals:
    """The classifiers that the clients have before anything is exchanged; trained once."""

    def __init__(self, problem: Problem, step: Step = no_step) -> None:
        self.problem = problem
        self.models: list[nn.Module] = []
        meter = Meter()
        for number, private in enumerate(problem.clients):
            learner = Learner(problem.space, "node", problem.model, private, Learning(), problem.seed * 1000 + number)
            with meter("client"):
                self.models.append(learner.train(no_step))
            step((number + 1) / len(problem.clients))
        self.cpu_s = meter.seconds["client"] / len(self.models)
        self.logits = [problem.answer(model) for model in self.models]


def alone(local: Locals) -> Solution:
    """No exchange at all."""
    return Solution(local.logits, client_cpu_s=local.cpu_s)


def ensemble(local: Locals, kind: str) -> Solution:
    """Every node gets every other's classifier, once, and asks them all.

    Args:
        kind: ``"logit"``: mean logits; ``"probability"``: mean probabilities; ``"count"``: what a model says of
            a class counts by its share of the real samples of that class.
    """
    said = np.stack(local.logits)
    if kind == "logit":
        joint = said.mean(axis=0)
    elif kind == "probability":
        joint = np.log(_softmax(said).mean(axis=0) + 1e-9)
    else:
        counts = local.problem.counts().astype(np.float64)
        shares = counts / np.maximum(counts.sum(axis=0), 1)
        joint = np.log((_softmax(said) * shares[:, None, :]).sum(axis=0) + 1e-9)
    sent = size_bytes(local.models[0])
    others = len(local.models) - 1
    return Solution(
        [joint.astype(np.float32)] * len(local.models),
        bytes_up=sent,
        bytes_down=others * sent,
        client_cpu_s=local.cpu_s,
    )


def pooled(problem: Problem, model: str, steps: int, step: Step = no_step) -> Solution:
    """One classifier of all private data: what nobody is allowed to do."""
    data, meter = concatenate(problem.clients), Meter()
    settings = FitSettings(learning_rate=2e-3, shift_fraction=0.0)
    with meter("server"):
        fresh = build_model(model, problem.space, problem.seed)
        fitted = fit_classifier(fresh, data, steps=steps, seed=problem.seed, step=step, settings=settings)
    return Solution([problem.answer(fitted)] * len(problem.clients), server_cpu_s=meter.seconds["server"])


def _softmax(logits: Logits) -> Logits:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softened: Logits = powers / powers.sum(axis=-1, keepdims=True)
    return softened
