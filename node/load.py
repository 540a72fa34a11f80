"""How busy a node is, as its neighbours hear it: smoothed, and anew only when it has changed much. Pure."""

from __future__ import annotations

import math
from dataclasses import replace

from .router import Competence

LOOK_S = 1.0
SMOOTHING = 0.5
LATENCY_STEP_S = 0.02


class LoadWatch:
    """Load and latency over the last few looks, one every `LOOK_S`."""

    def __init__(self) -> None:
        self._load = 0.0
        self._latency_s = 0.0
        self._told = self._level()

    def changed(self, load: int, latency_s: float) -> bool:
        """Take a look; whether neighbours should hear of it: the load doubled or halved, or so did the latency."""
        self._load += SMOOTHING * (load - self._load)
        self._latency_s += SMOOTHING * (latency_s - self._latency_s)
        level = self._level()
        if all(abs(now - told) < 1 for now, told in zip(level, self._told, strict=True)):
            return False
        self._told = level
        return True

    def seen(self, competence: Competence) -> Competence:
        """A competence with the load and latency of now."""
        return replace(competence, load=round(self._load), latency_s=self._latency_s)

    def _level(self) -> tuple[float, float]:
        return math.log2(1 + self._load), math.log2(1 + self._latency_s / LATENCY_STEP_S)
