"""The privacy ledger: what a device's private records have cost so far, on disk before anything leaves.

    <home>/privacy.ledger    one JSON line per event, each naming the SHA-256 of the line before it
    <home>/privacy.mark      how many lines there were and the SHA-256 of the last: a witness of the history

A release is appended and fsynced before its result may be used. The total (epsilon, delta) is that of all
Gaussian releases together, at record level (one record more or less), by the privacy loss distributions of
`dp_accounting` (Doroshenko et al., PoPETs 2022, arXiv 2207.04380). A line that was cut by a crash counts as spent.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

from ..errors import BudgetSpent, ConfigError, StateError
from .files import read_private, sync_folder, write_atomic

LEDGER = "privacy.ledger"
MARK = "privacy.mark"
MAX_BYTES = 4 * 1024 * 1024
CUT = "cut off by a crash"
KINDS = ("promise", "release", "void")
NO_PRIVACY = 0.05
"""Less noise than this is as good as none: epsilon would be 280 and more."""

_BEGINNING = re.compile(rb'\{"noise_multiplier": ([0-9.e+-]{1,32}), "what": "([ -~]{1,200}?)", ')
_FIELDS = {"noise_multiplier", "what", "sensitivity", "when", "kind", "previous"}


@dataclass(frozen=True)
class Budget:
    """What may be spent on any one record over the life of a home: epsilon > 0, 0 < delta < 1."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf or not 0 < self.delta < 1:
            raise ConfigError(f"privacy budget ({self.epsilon}, {self.delta})", "epsilon above 0, delta within 0 to 1")


@dataclass(frozen=True)
class Release:
    """One use of the Gaussian mechanism.

    Attributes:
        noise_multiplier: standard deviation of the noise over the sensitivity, > 0.
        what: names what is released, by its SHA-256 say; printable ASCII, at most 200 characters.
        sensitivity: how far one record moves what is released, in L2 norm (told, not used).
        when: seconds since 1970.
    """

    noise_multiplier: float
    what: str
    sensitivity: float = 1.0
    when: float = 0.0


class Ledger:
    """The ledger of one home, opened by the one process that runs there.

    Args:
        home: a private folder that exists.
        budget: what may be spent; a budget that is raised lets more be spent, and past releases count.

    Raises:
        StateError: damaged, open to others, or shorter than it was: a smaller history is never taken for the truth.
    """

    def __init__(self, home: Path, budget: Budget) -> None:
        self.budget = budget
        self._path, self._mark = home / LEDGER, home / MARK
        lines = self._read()
        self.releases: tuple[Release, ...] = tuple(release for kind, release in lines if kind == "release")
        self.void: str = next((release.what for kind, release in lines if kind == "void"), "")
        self._promised = bool(lines)

    @staticmethod
    def exists(home: Path) -> bool:
        """Whether this home ever promised differential privacy."""
        return (home / LEDGER).exists() or (home / MARK).exists()

    def promise(self, when: float) -> None:
        """Note, once, that this home keeps to a budget from now on."""
        if not self._promised:
            what = f"at most epsilon {self.budget.epsilon:g} with delta {self.budget.delta:g}"
            self._append("promise", Release(1.0, what, 0.0, when))
            self._promised = True

    def spent(self) -> float:
        """Epsilon of everything released so far, at the budget's delta."""
        return epsilon_of([release.noise_multiplier for release in self.releases], self.budget.delta)

    def left(self) -> float:
        """What `spent` may still grow by. Composition is not additive: two halves cost less than a whole."""
        return max(0.0, self.budget.epsilon - self.spent())

    def paid(self, what: str) -> bool:
        """Whether this very thing was paid for; releasing it again tells nothing new."""
        return any(release.what == what for release in self.releases)

    def spend(self, release: Release) -> None:
        """Pay for a release; when this returns it is on the disk, and only then may the release be used.

        Raises:
            BudgetSpent: it would cost more than is left; nothing was written.
            StateError: the ledger cannot be written, or promises nothing any more.
        """
        _check(release)
        if self.void:
            raise BudgetSpent(
                f"this home gives no privacy promise any more: {self.void}", "start anew with a fresh home and data"
            )
        total = epsilon_of([past.noise_multiplier for past in (*self.releases, release)], self.budget.delta)
        if total > self.budget.epsilon:
            raise BudgetSpent(
                f"the privacy budget is spent: {self.spent():.3g} of epsilon {self.budget.epsilon:g}, "
                f"this release would make it {total:.3g}",
                "what was published stays valid; raise privacy.epsilon only if the people in the data agree",
            )
        self._append("release", release)
        self.releases = (*self.releases, release)

    def break_promise(self, why: str, when: float) -> None:
        """Note for good that this home published without differential privacy; nothing can be spent after."""
        if not self.void:
            self._append("void", Release(1.0, why, 0.0, when))
            self.void = why

    def _append(self, kind: str, release: Release) -> None:
        before = _content(self._path)
        line = _line(kind, release, _digest(before))
        new = not self._path.exists()
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_size != len(before):
                    raise StateError(f"{self._path} is written by somebody else", "run one daemon per home")
                if file.write(line) != len(line):
                    raise OSError("the disk is full")
                os.fsync(descriptor)
            if new:
                sync_folder(self._path.parent)
        except OSError as error:
            # what reached the disk is read as cut off at the next start, and counts
            raise StateError(f"cannot write {self._path} ({error})", "free some space; nothing was released") from error
        self._witness(before + line)

    def _witness(self, content: bytes) -> None:
        write_atomic(self._mark, json.dumps({"bytes": len(content), "digest": _digest(content)}).encode())

    def _read(self) -> list[tuple[str, Release]]:
        content = _content(self._path)
        self._check_witness(content)
        whole, newline, cut = content.rpartition(b"\n")
        lines, before = [], b""
        for line in (whole + newline).splitlines(keepends=True):
            lines.append(_parse(line, _digest(before), self._path))
            before += line
        if cut:
            # replaced as a whole: the events before it are kept, the cut one counts as spent
            release = _guess(cut)
            write_atomic(self._path, before + _line("release", release, _digest(before)))
            lines.append(("release", release))
            content = _content(self._path)
        if content:
            self._witness(content)
        return lines

    def _check_witness(self, content: bytes) -> None:
        lost = StateError(
            f"{self._path} has lost part of its history, so nobody knows what was spent",
            "restore it and its .mark from the same backup, or start anew with a fresh home",
        )
        try:
            mark = json.loads(read_private(self._mark, max_bytes=4096))
            size, digest = mark["bytes"], mark["digest"]
        except FileNotFoundError:
            if b"\n" in content.partition(b"\n")[2]:
                raise lost from None  # only the first line may lack its witness: a crash came between
            return
        except (ValueError, KeyError, TypeError):
            raise lost from None
        if type(size) is not int or _digest(content[:size]) != digest or len(content) < size:
            raise lost


def epsilon_of(noise_multipliers: Sequence[float], delta: float) -> float:
    """Epsilon of Gaussian releases together, adding or removing one record; 0 for none, infinite below `NO_PRIVACY`.

    Raises:
        ConfigError: `dp_accounting` is not installed.
    """
    return _composed(tuple(noise_multipliers), delta) if noise_multipliers else 0.0


@lru_cache(maxsize=256)
def _composed(noise_multipliers: tuple[float, ...], delta: float) -> float:
    distributions = _accountant()
    if min(noise_multipliers) < NO_PRIVACY:
        return math.inf
    # steps of the discretised privacy loss, the same for all: finer where there is more noise
    interval = min(1e-2, max(1e-4, 3e-3 / max(noise_multipliers)))
    losses = (
        distributions.from_gaussian_mechanism(sigma, value_discretization_interval=interval)
        for sigma in noise_multipliers
    )
    return float(reduce(lambda one, other: one.compose(other), losses).get_epsilon_for_delta(delta))


def noise_multiplier(budget: Budget) -> float:
    """The least noise, over the sensitivity, with which one Gaussian release fits the budget.

    Found by the closed form of Balle & Wang (ICML 2018, arXiv 1805.06530), then raised until the accountant agrees.

    Raises:
        ConfigError: `dp_accounting` is not installed.
    """
    low, high = 1e-3, 1e4
    while high - low > 1e-5 * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if delta_of(middle, budget.epsilon) <= budget.delta else (middle, high)
    while epsilon_of([high], budget.delta) > budget.epsilon:
        high *= 1.0001
    return high


def delta_of(noise_multiplier: float, epsilon: float) -> float:
    """The delta at which one Gaussian release is (epsilon, delta) private, exactly."""
    half, shift = 1 / (2 * noise_multiplier), epsilon * noise_multiplier
    tail = math.erfc((half + shift) / math.sqrt(2)) / 2
    return math.erfc((shift - half) / math.sqrt(2)) / 2 - (math.exp(epsilon) * tail if tail else 0.0)


def _accountant() -> Any:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError:
        raise ConfigError(
            "differential privacy needs the package dp-accounting", "pip install 'meshlore[privacy]'"
        ) from None
    return privacy_loss_distribution


def _check(release: Release) -> None:
    if not 0 < release.noise_multiplier < math.inf or not 0 <= release.sensitivity < math.inf:
        raise StateError(f"a release with noise {release.noise_multiplier} and sensitivity {release.sensitivity}")
    if not re.fullmatch(r"[ !#-\[\]-~]{1,200}", release.what):
        raise StateError(f"a release named {release.what[:40]!r}", "printable ASCII without quotes")


def _line(kind: str, release: Release, previous: str) -> bytes:
    # what a cut line must tell comes first
    fields = {
        "noise_multiplier": release.noise_multiplier,
        "what": release.what,
        "sensitivity": release.sensitivity,
        "when": release.when,
        "kind": kind,
        "previous": previous,
    }
    return json.dumps(fields).encode() + b"\n"


def _parse(line: bytes, previous: str, path: Path) -> tuple[str, Release]:
    damaged = StateError(f"{path} is damaged", "restore it from a backup, or start anew with a fresh home")
    try:
        fields = json.loads(line)
        if set(fields) != _FIELDS or fields["previous"] != previous or fields["kind"] not in KINDS:
            raise damaged
        release = Release(
            float(fields["noise_multiplier"]), str(fields["what"]), float(fields["sensitivity"]), float(fields["when"])
        )
    except (ValueError, TypeError):
        raise damaged from None
    _check(release)
    return fields["kind"], release


def _guess(cut: bytes) -> Release:
    """The most that a cut line can have cost: what it says, or everything."""
    said = _BEGINNING.match(cut)
    try:
        sigma = float(said[1]) if said else 0.0
    except ValueError:
        sigma = 0.0
    if said and 0 < sigma < math.inf:
        return Release(sigma, said[2].decode())
    return Release(NO_PRIVACY / 2, CUT)


def _content(path: Path) -> bytes:
    try:
        return read_private(path, max_bytes=MAX_BYTES)
    except FileNotFoundError:
        return b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
