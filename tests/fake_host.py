"""A node for tests of tasks: fixed skills, and peers that are functions. A second implementation of `Host`."""

import asyncio
from dataclasses import dataclass, field

import numpy as np
import torch
from meshlore.errors import Refused
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.space import Space
from meshlore.node.lane import Lane
from meshlore.node.router import LEAVE_FOR, Candidate, Competence
from meshlore.node.skills import Skills

SPACE = Space((1, 8, 8), ("a", "b"), levels=17)
DARK, BRIGHT = np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 16, np.uint8)
IMAGES = np.stack([DARK, BRIGHT, BRIGHT])


class Brightness(torch.nn.Module):
    """Takes a bright image for "b"; ``turned`` takes it for "a"."""

    def __init__(self, turned: int = 1) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(4.0 * turned))

    def forward(self, images):
        light = self.scale * (images.mean(dim=(1, 2, 3)) > 0.3).float() * 2 - self.scale
        return torch.stack([-light, light], dim=1)


class Painter:
    """A generator that paints its label: level 0 for "a", 16 for "b"."""

    def sample(self, labels, *, seed):
        self.seeds = [*getattr(self, "seeds", []), seed]
        return np.where(labels[:, None, None, None] == 1, BRIGHT, DARK).astype(np.uint8)


@dataclass
class FakeHost:
    """A node with one fixed set of skills and peers that are functions: a second implementation of `Host`."""

    lane: Lane
    skills: Skills | None = None
    quality: float = 0.5
    peers: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)
    space: Space = SPACE
    prior: np.ndarray | None = None
    held_out: Dataset | None = None
    confusion: np.ndarray | None = None
    leave_for: float = LEAVE_FOR
    fetches_skills: bool = False

    @property
    def shown_skills(self):
        return self.skills

    def unlike_private(self, images, label):
        return np.ones(len(images), bool)

    def candidates(self):
        known = ((self.quality,) * 2, (self.quality,) * 2)
        here = [Candidate("home-id", "home", "here", Competence(*known))]
        return here + [
            Candidate(f"{name}-id", name, "anchor" if name == "anchor" else "peer", Competence((q, q), (q, q)))
            for name, (q, _) in self.peers.items()
        ]

    async def ask(self, peer_id, kind, body, timeout_s):
        assert kind in ("task", "skill")
        name = peer_id.removesuffix("-id")
        self.asked.append((name, body))
        return await asyncio.wait_for(self.peers[name][1](body, timeout_s), 20)

    def make_skill(self, labels):
        return None

    async def learn_skill(self, task, data, holder, progress):
        raise Refused("not here")

    async def fine_tune(self, task, progress):
        raise Refused("not here")
