"""How good the drawings are of a node that saw received knowledge only: the anchor.

It shows drawings that its own classifier does not doubt, as nodes do. Judged by an oracle trained on all real
training data: how many drawings it takes for their class, how well a classifier does that learned from drawings
alone, and the Fréchet distance (Heusel et al., 2017, arXiv 1706.08500) between drawings and real training images in
the oracle's last hidden features. A generator and a classifier of the same kinds trained on the pooled real data
stand beside it.
"""

from __future__ import annotations

import asyncio
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset, concatenate
from meshlore.knowledge.drawing import draw
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.generators import Generator, usual_steps
from meshlore.knowledge.models import build_model, logits, to_tensor
from meshlore.knowledge.training import FitSettings, Step, fit_classifier
from meshlore.node.in_process import InProcessMesh
from numpy.typing import NDArray
from torch import nn

from .baselines.problem import Problem
from .baselines.tuned import POOLED_STEPS
from .knowledge_cells import Cell, load_split, problem_of
from .knowledge_methods import SETTLE_S, members_of

ANCHOR_MODEL = "cnn-large"
ORACLE, ORACLE_STEPS = "cnn-large", {"digits": 1500, "colour-digits": 1500, "fashion-mnist": 6000}
DRAWN_PER_CLASS = 100
STUDENT_STEPS = 600
MOST_REAL = 5000


def generation(cell: Cell, step: Step) -> dict[str, Any]:
    """Figures of what the anchor draws, and of what a generator and a classifier of the pooled data draw."""
    problem = problem_of(cell)
    spent, generator, classifier = asyncio.run(_taught_anchor(problem))
    step(0.6)
    real = concatenate(problem.clients)
    steps = usual_steps(problem.space)
    pooled = fit_generator(real.images, real.labels, problem.space, steps=steps, seed=problem.seed)
    fresh, settings = build_model(ANCHOR_MODEL, problem.space, problem.seed), FitSettings(learning_rate=2e-3)
    knows = fit_classifier(fresh, real, steps=POOLED_STEPS[cell.dataset], seed=problem.seed, settings=settings)
    step(0.8)
    oracle = oracle_of(cell)
    ours, theirs = (
        judge(shown, oracle, real, problem)
        for shown in (drawn(problem, generator, classifier), drawn(problem, pooled, knows))
    )
    unchosen = drawn(problem, generator)
    return {
        **ours,
        **{f"pooled_{name}": value for name, value in theirs.items()},
        "unchosen_oracle_accuracy": float(oracle_says(oracle, unchosen).mean()),
        "generation_cpu_s": spent,
    }


def drawn(problem: Problem, generator: Generator, classifier: nn.Module | None = None) -> Dataset:
    """As many samples of each class: those that nodes would show, or without a classifier whatever is drawn."""
    labels = np.repeat(np.arange(problem.space.num_classes), DRAWN_PER_CLASS)
    if classifier is None:
        return Dataset(problem.space, generator.sample(labels, seed=problem.seed), labels)
    return Dataset(problem.space, draw(generator, classifier, labels, problem.space, seed=problem.seed).images, labels)


def oracle_says(oracle: nn.Module, shown: Dataset) -> NDArray[np.float64]:
    """The share of each class's samples that it takes for their class, float64 (k,)."""
    return metrics.per_class_accuracy(logits(oracle, shown.images, shown.space), shown.labels)


def judge(shown: Dataset, oracle: nn.Module, real: Dataset, problem: Problem) -> dict[str, float]:
    """Oracle class accuracy, accuracy of a classifier trained on drawings alone, Fréchet distance."""
    per_class = oracle_says(oracle, shown)
    fresh = build_model(problem.model, problem.space, problem.seed)
    student = fit_classifier(fresh, shown, steps=STUDENT_STEPS, seed=problem.seed)
    chosen = np.random.default_rng(0).permutation(len(real))[:MOST_REAL]
    return {
        "oracle_accuracy": float(per_class.mean()),
        "oracle_worst_class": float(per_class.min()),
        "downstream": metrics.global_accuracy(problem.answer(student), problem.test.labels),
        "frechet": frechet(features(oracle, shown.images, shown), features(oracle, real.images[chosen], real)),
    }


def frechet(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Between two sets of features (n, d) taken as Gaussians: ||m1 - m2||^2 + tr(C1 + C2 - 2 (C1 C2)^1/2)."""
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values, vectors = np.linalg.eigh(first)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    # (C1 C2)^1/2 has the trace of its symmetric twin, which singular covariances do not harm
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(min=0)).sum()
    difference = one.mean(axis=0) - other.mean(axis=0)
    return float(difference @ difference + np.trace(first) + np.trace(second) - 2 * shared)


def features(oracle: nn.Module, images: NDArray[np.uint8], like: Dataset) -> NDArray[np.float64]:
    """The oracle's last hidden layer, float64 (n, d)."""
    with torch.no_grad():
        parts = [
            oracle.features(to_tensor(part, like.space)) for part in np.array_split(images, len(images) // 500 + 1)
        ]
    answer: NDArray[np.float64] = torch.cat(parts).double().numpy()
    return answer


def oracle_of(cell: Cell) -> nn.Module:
    """Trained once per process on the whole training set, whatever part of it the cell uses."""
    return _oracle(cell.dataset.removesuffix("-5000"))


@lru_cache(maxsize=1)
def _oracle(dataset: str) -> nn.Module:
    train, _, _ = load_split(dataset, 0, "test")
    settings = FitSettings(learning_rate=2e-3, batch_size=96)
    fresh, steps = build_model(ORACLE, train.space, 0), ORACLE_STEPS[dataset]
    return fit_classifier(fresh, train, steps=steps, seed=0, settings=settings)


async def _taught_anchor(problem: Problem) -> tuple[float, Generator, nn.Module]:
    """The anchor's generator, its CPU seconds, and the anchor's classifier, after a whole mesh has settled."""
    # what a generator learns from are samples, which a second turn of distillation leaves as they are
    brief = {"learning": {"refinements": 0}}
    members = members_of(problem, brief, ANCHOR_MODEL)
    # the anchor alone trains its generator in full
    members[-1] = members_of(problem, brief, ANCHOR_MODEL, generator_steps=0)[-1]
    with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
        async with InProcessMesh(problem.space, members, Path(folder)) as mesh:
            await mesh.settle(SETTLE_S)
            resident = mesh.residents[-1]
            skills = resident.node.skills
            if skills is None or skills.generator is None:
                raise RuntimeError("the anchor has no generator")
            return resident.lane.cpu_s.get("generation", 0.0), skills.generator, skills.classifier
