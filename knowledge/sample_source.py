"""The ways of making samples that may travel from private ones that may not; a node uses the one it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from . import condense as condensation
from .condense import CondenseSettings
from .data import Dataset
from .device import CPU
from .flow import FlowSettings
from .generator import fit_generator
from .models import to_tensor
from .resuming import Checkpoint
from .selection import Quota, Samples, select
from .training import Step

SPARE_DRAWINGS = 3.0  # drawing is cheap, and a flow that saw few images draws many near-copies
GUIDANCE = 1.0  # none: what is most typical of a class teaches less than all that it can look like


@dataclass(frozen=True)
class SourceSettings:
    """What any source may need.

    Attributes:
        samples: how many, how large and which; and how they are condensed.
        flow, flow_steps: the generator to draw from and its training.
        device: where it is computed.
    """

    samples: CondenseSettings
    flow: FlowSettings
    flow_steps: int
    device: torch.device = CPU


class SampleSource(Protocol):
    """Makes synthetic samples of private ones, near-copies held back, no more than the settings allow."""

    def __call__(
        self, data: Dataset, settings: SourceSettings, *, seed: int, step: Step, checkpoint: Checkpoint | None
    ) -> Samples:
        """Deterministic given the seed; empty when no class has enough private samples.

        Args:
            step: told of progress; may raise `Cancelled`.
            checkpoint: where work that was interrupted goes on, with the same result.
        """


def condensed(
    data: Dataset, settings: SourceSettings, *, seed: int, step: Step, checkpoint: Checkpoint | None
) -> Samples:
    """Optimised until they teach like the private ones: they teach most."""
    return condensation.condense(
        data, settings=settings.samples, seed=seed, step=step, checkpoint=checkpoint, device=settings.device
    )


def gaussian(
    data: Dataset, settings: SourceSettings, *, seed: int, step: Step, checkpoint: Checkpoint | None
) -> Samples:
    """Drawn from one Gaussian per class: at once."""
    samples = condensation.gaussian(data, settings=settings.samples, seed=seed)
    step(1.0)
    return samples


def generated(
    data: Dataset, settings: SourceSettings, *, seed: int, step: Step, checkpoint: Checkpoint | None
) -> Samples:
    """Drawn from a rectified flow that was fitted to the private samples: they look most like these."""

    def draw(quota: Quota) -> tuple[Tensor, Tensor]:
        told = data.subset(np.flatnonzero(np.isin(data.labels, list(quota))))
        generator = fit_generator(
            told.images,
            told.labels,
            data.space,
            settings=settings.flow,
            steps=settings.flow_steps,
            seed=seed,
            step=step,
            checkpoint=checkpoint,
            device=settings.device,
        )
        labels = np.repeat(sorted(quota), [quota[label] for label in sorted(quota)])
        drawn = generator.sample(labels, seed=seed, guidance=GUIDANCE)
        return to_tensor(drawn, data.space), torch.from_numpy(labels)

    return select(data, settings.samples, draw, spare=SPARE_DRAWINGS)


SOURCES: Mapping[str, SampleSource] = {"condensed": condensed, "gaussian": gaussian, "generated": generated}
