"""A node's models as checkpoint files."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..knowledge.generator import FlowGenerator
from .learner import Learner, Skills
from .store import Journal, StateStore

KINDS = ("classifier", "classifier_before", "generator", "generator_before", "public")


def save_skills(state: StateStore, old: Skills | None, new: Skills) -> dict[str, Any]:
    """Write the models that changed; the journal's changes that name the files (and count the version)."""
    changes: dict[str, Any] = {}
    files: dict[int, str] = {}
    if old is not None:
        files = {id(getattr(old, kind)): getattr(state.journal, kind) for kind in KINDS}
    for kind in KINDS:
        model = getattr(new, kind)
        if model is None or (old is not None and model is getattr(old, kind)):
            continue
        if id(model) not in files:
            tensors = model.state() if isinstance(model, FlowGenerator) else model.state_dict()
            files[id(model)] = state.save_checkpoint(kind.removesuffix("_before"), tensors)
        changes[kind] = files[id(model)]
    if "classifier" in changes:
        changes["version"] = state.journal.version + 1
    return changes


def load_skills(state: StateStore, learner: Learner) -> Skills | None:
    """The models that the journal names; None when nothing was learned yet, or must be learned anew because the
    node's data have classes that its own model cannot take up.

    Raises:
        StateError, ModelError: a file is missing, damaged, or of another model.
    """
    journal: Journal = state.journal
    if not journal.classifier:
        return None
    space = learner.space.founding.grown(journal.added)

    def classifier(name: str) -> nn.Module:
        return learner.restore(state.load_checkpoint(name), space)

    def generator(name: str) -> FlowGenerator | None:
        return FlowGenerator.from_state(state.load_checkpoint(name), space) if name else None

    skills = Skills(
        classifier(journal.classifier),
        classifier(journal.classifier_before),
        generator(journal.generator),
        generator(journal.generator_before),
        classifier(journal.public) if journal.public else None,
    )
    return skills if space == learner.space else learner.grown(skills, space, learner.space)
