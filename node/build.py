"""From a home folder and settings to a node that has not begun."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError
from ..knowledge.data import Dataset
from ..knowledge.executor import IN_PROCESS, Executor
from ..knowledge.sources import fitted, load_npz, load_private
from ..knowledge.space import Space
from ..security.identity import Identity
from ..security.membership import Credentials
from .actor import EdgeNode
from .anchor_learner import AnchorLearner
from .checkpoints import FileCheckpoint
from .generator_choice import chosen_generators
from .lane import Lane
from .learner import GUARDS, Learner
from .library import Library
from .plan import Role
from .private_learner import PrivateLearner, leave_vault, open_vault
from .settings import Settings
from .store import PacketStore, StateStore, private_additions
from .toolbox import Toolbox


def build_node(
    home: Path,
    settings: Settings,
    credentials: Credentials,
    *,
    lane: Lane | None = None,
    wrap_learner: Callable[[Learner], Learner] = lambda learner: learner,
    executor: Executor = IN_PROCESS,
) -> tuple[EdgeNode, list[str]]:
    """A node from its home, and notes for the user on how its data were read.

    Args:
        lane: where it computes, a thread of its own if not given.
        wrap_learner: what learns in place of the node's own learner; for studies.
        executor: who computes for it (`executor_of`).

    Raises:
        DataError, ModelError, StateError, ConfigError: it cannot start; nothing was changed.
    """
    packets, state = PacketStore(home, settings.quota_mb << 20), StateStore(home)
    space = Space.from_map(credentials.charter.space).grown(state.journal.added)
    role: Role = "anchor" if "anchor" in credentials.certificate.roles else "node"
    private, notes = _private_data(settings, space) if role == "node" else (None, [])
    space = private.space if private is not None else space
    seed = _secret_seed(credentials.identity) if settings.seed is None else settings.seed
    checkpoint, generators = FileCheckpoint(state.in_progress), chosen_generators(settings, space)
    learner: Learner
    if settings.privacy.mode == "dp":
        vault = open_vault(home, settings.privacy, state.journal)
        learner = PrivateLearner(
            space,
            role,
            settings.model,
            private,
            settings.learning,
            seed,
            paid=vault.statistics,
            epsilon=settings.privacy.epsilon,
            ledger=vault.ledger,
            generators=generators,
            checkpoint=checkpoint,
        )
    elif role == "anchor" and settings.anchor.experts:
        learner = AnchorLearner(
            space,
            settings.model,
            settings.learning,
            seed,
            experts=settings.anchor.experts,
            generators=generators,
            checkpoint=checkpoint,
            executor=executor,
        )
    else:
        notes += leave_vault(home, settings.privacy)
        guard = GUARDS[settings.privacy.mode]
        learner = Learner(
            space,
            role,
            settings.model,
            private,
            settings.learning,
            seed,
            guard=guard,
            generators=generators,
            checkpoint=checkpoint,
            executor=executor,
        )
    learner.fresh()
    for path in private_additions(home) if role == "node" else ():
        learner.add_private(fitted(load_npz(path), space).dataset)
    library = Library(space, credentials, packets)
    toolbox = Toolbox(home, library, credentials)
    notes += library.load(time.time()) + toolbox.load(time.time())
    return EdgeNode(settings, credentials, wrap_learner(learner), library, toolbox, packets, state, lane), notes


def _secret_seed(identity: Identity) -> int:
    """A seed that only this device knows: noise in what it publishes, and the probes by which it weighs others,
    must not be guessed."""
    return int.from_bytes(hashlib.sha256(identity.sign("learning-seed", b"")).digest()[:6], "big")


def _private_data(settings: Settings, space: Space) -> tuple[Dataset, list[str]]:
    if not settings.data:
        raise ConfigError("no data source is set", 'set data = "FOLDER" in the configuration, or give --data FOLDER')
    loaded = load_private(settings.data, space, settings.classes)
    if not len(loaded.dataset):
        raise ConfigError(f"{settings.data} has no samples of the classes {', '.join(settings.classes)}", "name others")
    return loaded.dataset, list(loaded.notes)
