"""A node's models as checkpoint files."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..knowledge.generator import FlowGenerator
from .learner import Learner, Skills
from .store import Journal, StateStore


def save_skills(state: StateStore, old: Skills | None, new: Skills) -> dict[str, Any]:
    """Write the models that changed; the journal's changes that name the files (and count the version)."""
    changes: dict[str, Any] = {}
    if old is None or new.classifier is not old.classifier:
        changes["classifier"] = state.save_checkpoint("classifier", new.classifier.state_dict())
        changes["version"] = state.journal.version + 1
    if old is None:
        before = new.classifier_before
        same = before is new.classifier
        changes["classifier_before"] = (
            changes["classifier"] if same else state.save_checkpoint("classifier", before.state_dict())
        )
    if new.generator is not None and (old is None or new.generator is not old.generator):
        changes["generator"] = state.save_checkpoint("generator", new.generator.state())
        if new.generator_before is new.generator:
            changes["generator_before"] = changes["generator"]
    return changes


def load_skills(state: StateStore, learner: Learner) -> Skills | None:
    """The models that the journal names; None when nothing was learned yet.

    Raises:
        StateError, ModelError: a file is missing, damaged, or of another model.
    """
    journal: Journal = state.journal
    if not journal.classifier:
        return None

    def classifier(name: str) -> nn.Module:
        return learner.restore(state.load_checkpoint(name))

    def generator(name: str) -> FlowGenerator | None:
        return FlowGenerator.from_state(state.load_checkpoint(name), learner.space) if name else None

    return Skills(
        classifier(journal.classifier),
        classifier(journal.classifier_before),
        generator(journal.generator),
        generator(journal.generator_before),
    )
