"""A node's models as checkpoint files, and the one of work in progress."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import structlog
from torch import nn

from ..errors import StateError
from ..knowledge.generators import Generator
from ..knowledge.resuming import State
from ..security.files import write_atomic
from .learner import Learner
from .skills import Skills
from .store import Journal, StateStore

log = structlog.get_logger("meshlore.node")

KINDS = ("classifier", "classifier_before", "generator", "generator_before", "expert", "public")


def save_skills(state: StateStore, old: Skills | None, new: Skills) -> dict[str, Any]:
    """Write the models that changed; the journal's changes that name the files (and count the version)."""
    changes: dict[str, Any] = {}
    files: dict[int, str] = {}
    if old is not None:
        files = {id(getattr(old, kind)): getattr(state.journal, kind) for kind in KINDS}
    for kind in KINDS:
        model = getattr(new, kind)
        if model is (None if old is None else getattr(old, kind)):
            continue
        if model is None:
            changes[kind] = ""
            continue
        if id(model) not in files:
            tensors = model.state_dict() if isinstance(model, nn.Module) else model.state()
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

    def generator(name: str) -> Generator | None:
        made = learner.generators.restore(state.load_checkpoint(name), space) if name else None
        if name and made is None:
            log.warning("the saved generator is of another kind than the settings say: it is trained anew")
        return made

    skills = Skills(
        classifier(journal.classifier),
        classifier(journal.classifier_before),
        generator(journal.generator),
        generator(journal.generator_before),
        classifier(journal.public) if journal.public else None,
        classifier(journal.expert) if journal.expert else None,
    )
    return skills if space == learner.space else learner.grown(skills, space, learner.space)


class FileCheckpoint:
    """A `meshlore.knowledge.resuming.Checkpoint` in one file, which is there while work is in progress.

    It may be lost: a file that cannot be written or read is said, and the work goes on without.
    """

    def __init__(self, path: Path, every_s: float = 5.0) -> None:
        self._path = path
        self._every_s = every_s
        self._last = time.monotonic()

    def load(self, work: str) -> State | None:
        from safetensors import SafetensorError, safe_open

        self._last = time.monotonic()
        try:
            with safe_open(self._path, "pt") as file:
                if file.metadata() != {"work": work}:
                    return None
                log.info("going on where it was interrupted")
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            log.warning("work in progress cannot be read and begins anew", because=str(error))
            return None

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._every_s

    def save(self, work: str, state: State) -> None:
        from safetensors.torch import save

        try:
            write_atomic(self._path, save(dict(state), {"work": work}))
        except StateError as error:
            log.warning("work in progress cannot be saved", because=str(error))
        self._last = time.monotonic()

    def clear(self) -> None:
        self._path.unlink(missing_ok=True)
