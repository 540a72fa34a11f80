"""Whose turn it is on a compute lane: a token bucket by which tasks and training share its time. Pure."""

from __future__ import annotations

BURST_S = 0.25
SMOOTHING = 0.1


class Turns:
    """While there is something to train, tasks may take ``share`` of the time, 0 < share <= 1.

    Each second of training earns tasks ``share / (1 - share)`` seconds, at most `BURST_S` of them in advance: while
    they ask for less than their share, a task starts right after the step in flight; when they ask for more, they
    wait in turn with training. With 1, training gets what tasks leave.

    Attributes:
        step_s, task_s: how long a training step and a task take, on average over the last ones.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._credit_s = BURST_S
        self.step_s = 0.0
        self.task_s = 0.0

    @property
    def for_tasks(self) -> bool:
        """Whether a task may run before the next training step."""
        return self._share >= 1 or self._credit_s > 0

    def trained(self, seconds: float) -> None:
        """A training step has taken so long."""
        self.step_s = _smoothed(self.step_s, seconds)
        if self._share < 1:
            self._credit_s = min(BURST_S, self._credit_s + seconds * self._share / (1 - self._share))

    def served(self, seconds: float, *, beside_training: bool) -> None:
        """A task has taken so long. What training did not wait for costs nothing."""
        self.task_s = _smoothed(self.task_s, seconds)
        if beside_training:
            self._credit_s -= seconds


def _smoothed(before: float, now: float) -> float:
    return before + SMOOTHING * (now - before) if before else now
