"""Testimony: what each author's samples say about each class of each other author.

A *cell* is what one author shows under one label; a *witness* is an author (or the node's own private data) with
cells of its own. A witness that shows the label speaks for a cell whose samples look more like that label than like
any other of its labels, as far as they look just like its own, and else against it; that they look quite unlike its
own is a hint against their author. A witness that does not show the label speaks only against: when the cell looks
just like another label of its own. How telling that is depends on the space: where honest authors have classes as
close to each other as that (pullovers and coats), it says little. Few samples mislead: an accusation is heard as far
as others bear it out, both those whose samples the witness confirms and those that the accused does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .evidence import FEWEST, Cloud, Reach

HOME = ""
"""The name of the private data among the witnesses; no author's name is empty."""

CLEARLY = 0.2  # of the core: by so much nearer must another label be to speak against
LIKE = 0.2, 0.4  # of the core: between two means of one class, for +1 and for 0; honest ones .2 at most, lies from .6
UNLIKE = 0.6, 1.0  # of the core: the same, for no hint and for a full one; honest ones .5 at most, a blur .9
HINT = 0.2  # what such a hint is worth, shared by all cells of the author: one decides a draw, many are a dispute
LESS_LIKE = 0.05, 0.1  # of the core: by so much nearer is what another one shows under another label; honest ones .02
FAR = 1.6  # times where most lie: nothing that a class holds lies farther out
SECONDS = 0.5  # how much a witness must speak for a cell to have it as its second
AGREES = 0.25, 0.55  # shares of a cell's samples that fit, for -1 and for +1
COHERES = 0.55, 0.75  # the same among the author's own cells, for -1 and for 0: honest ones .86 and more
ENOUGH = 8  # samples of a cell: the mean of fewer hangs on each of them
INSIDE = 0.1, 0.25  # shares of a cell inside another label's core, for 0 and for -1
ALIKE = 0.08, 0.16  # of the core: between two class means, for -1 and for 0; pullovers and shirts .16, digits .8
CLOSE_PAIRS = 0.05  # share of an honest author's pairs of classes that are as close: from here it says nothing
STRANGE = 0.3  # what a look that no label has speaks against a cell
COPY = 0.12  # of the core: so near lie copies and never two authors' own samples
COPIED = 0.4  # share of a cell that is copied


Together = Callable[[NDArray[np.bool_], int], NDArray[np.float32]]
"""What several cells, bool (m,), say as those of one witness of each cell of the author at a place: float32 in -1..1.

A witness that shows a label may lack the class whose samples bear that label now, and what another one shows of that
class decides. Of labels that none of the cells shows they say nothing, 0.
"""


@dataclass(frozen=True)
class Cells:
    """All cells: whose, under which label, how many samples are looked at.

    Attributes:
        authors: names, in the order of arrival; the private data (`HOME`) first where there are any.
        owner: int64 (m,), places in ``authors``. label: int64 (m,). count: int64 (m,).
        says: float32 (m, a) in -1..1: what each author as a witness says of each cell; 0: nothing. About its own
            cells it speaks only against: samples that look like another of its own labels.
        shown: bool (m, a): whether the witness shows the cell's label itself.
        copied_from: int64 (m,): the place of an author that showed most of these samples earlier, or -1.
        renamed: bool (m,): copied, and under another label than there.
        together: what several cells say as those of one witness (`Together`).
    """

    authors: tuple[str, ...]
    owner: NDArray[np.int64]
    label: NDArray[np.int64]
    count: NDArray[np.int64]
    says: NDArray[np.float32]
    shown: NDArray[np.bool_]
    copied_from: NDArray[np.int64]
    renamed: NDArray[np.bool_]
    together: Together


def testify(authors: Mapping[str, Cloud], home: Cloud | None, reach: Reach) -> Cells:
    """Every witness about every cell. ``authors`` is in the order of arrival."""
    everybody = ({HOME: home} if home is not None else {}) | dict(authors)
    names = tuple(everybody)
    points = torch.cat([cloud.points for cloud in everybody.values()])
    cell_of, owner, label = _cells(list(everybody.values()))
    count = torch.bincount(cell_of, minlength=len(owner))
    means = torch.zeros(len(owner), points.shape[1]).index_add(0, cell_of, points) / count[:, None]
    # the mean of few points lies off the truth by about spread / count
    away = torch.cdist(points, means).square() - (reach.core / count)[None]
    apart = torch.cdist(means, means).square() - reach.core / count[:, None] - reach.core / count[None]
    believed = count >= FEWEST
    for place, cloud in enumerate(everybody.values()):
        believed &= (owner != place) | ~_among(label, cloud.drowned)
    rival = _rival(apart, owner, label, believed)
    blurred = torch.tensor([cloud.blurred for cloud in everybody.values()])
    sure = (count >= ENOUGH) & ~blurred[owner]
    hint = HINT * sure / torch.bincount(owner)[owner]
    says = torch.zeros(len(owner), len(names))
    shows = torch.zeros(len(owner), len(names), dtype=torch.bool)
    nearest = torch.full((len(owner), len(names)), -1)
    for witness in range(len(names)):
        columns = torch.where((owner == witness) & believed)[0]
        if len(columns):
            same = label[columns][None] == label[:, None]
            own = torch.where(same, apart[:, columns], torch.inf).min(dim=1).values
            # who knows few classes finds that anything looks more like one of them than like the rest
            like = 1 - torch.maximum(_ramp(own / reach.core, LIKE), _ramp((own - rival) / reach.core, LESS_LIKE))
            unlike = _ramp(own / reach.core, UNLIKE) * torch.isin(label, label[columns[sure[columns]]])
            says[:, witness] = torch.minimum(_about_shown(columns, away, cell_of, label, reach), like - hint * unlike)
            shows[:, witness] = same.any(dim=1)
            nearest[:, witness] = columns[apart[:, columns].argmin(dim=1)]
    seconds = _seconds((says > SECONDS) & shows, owner, label, count)
    alike = _alike(away, apart, cell_of, _closeness(apart, owner, count), reach)
    accused = torch.minimum(alike, seconds @ alike @ seconds.T)
    against = torch.where(nearest >= 0, -accused.gather(1, nearest.clamp(min=0)), 0.0)
    says = torch.where(shows, says, against)
    for witness, cloud in enumerate(everybody.values()):
        says[_among(label, cloud.drowned), witness] = 0.0
    for cell, place in enumerate(owner.tolist()):
        says[cell, place] = 0.0
    for place in range(0 if home is None else 1, len(names)):
        columns = torch.where(owner == place)[0]
        if len(columns) > 1:
            says[columns, place] = _coherence(columns, away, cell_of, label, count, reach)[columns]
    says *= (count / FEWEST).clamp(max=1.0)[:, None]
    copied_from, renamed = _copies(points, cell_of, owner, label, 0 if home is None else 1, reach)
    return Cells(
        names,
        owner.numpy(),
        label.numpy(),
        count.numpy(),
        says.numpy(),
        shows.numpy(),
        copied_from,
        renamed,
        partial(_together, away, cell_of, owner, label, count, believed, reach),
    )


def _together(
    away: Tensor,
    cell_of: Tensor,
    owner: Tensor,
    label: Tensor,
    count: Tensor,
    believed: Tensor,
    reach: Reach,
    witnesses: NDArray[np.bool_],
    place: int,
) -> NDArray[np.float32]:
    mine = torch.where(owner == place)[0]
    columns = torch.where(torch.from_numpy(witnesses) & believed & (owner != place))[0]
    if not len(columns):
        return np.zeros(len(mine), np.float32)
    samples = torch.where(owner[cell_of] == place)[0]
    says = _about_shown(columns, away[samples], cell_of[samples], label, reach)[mine]
    says = says * (count[mine] / FEWEST).clamp(max=1.0)
    heard: NDArray[np.float32] = torch.where(torch.isin(label[mine], label[columns]), says, 0.0).numpy()
    return heard


def _cells(everybody: list[Cloud]) -> tuple[Tensor, Tensor, Tensor]:
    """The cell of each point int64 (n,), and each cell's owner and label, int64 (m,)."""
    cell_of: list[Tensor] = []
    owner: list[Tensor] = []
    label: list[Tensor] = []
    for place, cloud in enumerate(everybody):
        shown, rank = torch.unique(cloud.labels, return_inverse=True)
        cell_of.append(rank + sum(len(part) for part in label))
        owner.append(torch.full((len(shown),), place))
        label.append(shown)
    return torch.cat(cell_of), torch.cat(owner), torch.cat(label)


def _alike(away: Tensor, apart: Tensor, cell_of: Tensor, close: Tensor, reach: Reach) -> Tensor:
    """How telling it is that each cell looks just like each other one, float32 (m, m) in 0..1."""
    cells = len(apart)
    total = torch.bincount(cell_of, minlength=cells)
    inside = torch.zeros(cells, cells).index_add(0, cell_of, (away < reach.core).float()) / total[:, None]
    usual = torch.searchsorted(close.sort().values, apart, right=True) / max(1, len(close))
    telling = (1 - usual / CLOSE_PAIRS).clamp(min=0) * (1 - _ramp(apart / reach.core, ALIKE))
    return _ramp(inside, INSIDE) * telling


def _rival(apart: Tensor, owner: Tensor, label: Tensor, believed: Tensor) -> Tensor:
    """From each cell to the nearest one of another author and label, >= 0, float32 (m,); without one as far as any."""
    others = (owner[None] != owner[:, None]) & (label[None] != label[:, None]) & believed[None]
    return torch.where(others, apart, apart.max()).min(dim=1).values.clamp(min=0)


def _seconds(confirms: Tensor, owner: Tensor, label: Tensor, count: Tensor) -> Tensor:
    """For each cell, itself and those of its label that its owner confirms, float32 (m, m); rows sum to 1."""
    stands_beside = confirms[:, owner].T & (label[:, None] == label[None])
    stands_beside.fill_diagonal_(True)
    weight = stands_beside * count.float()
    return weight / weight.sum(dim=1, keepdim=True)


def _about_shown(columns: Tensor, away: Tensor, cell_of: Tensor, label: Tensor, reach: Reach) -> Tensor:
    """What one witness, whose cells are ``columns``, says of cells whose labels it shows, float32 (m,)."""
    own, other = _own_and_other(columns, away, cell_of, label)
    taken_for_another = other < torch.minimum(own - CLEARLY * reach.core, torch.tensor(FAR * reach.most))
    strange = (own > FAR * reach.most) & ~taken_for_another
    agree = 1 - _share(taken_for_another | strange, cell_of, len(label))
    speaks_for = 2 * _ramp(agree, AGREES) - 1
    # an unheard-of look under a known label takes nothing from anybody: a doubt, no dispute
    odd = _share(strange, cell_of, len(label)) > _share(taken_for_another, cell_of, len(label))
    return torch.where(odd, speaks_for.clamp(min=-STRANGE), speaks_for)


def _coherence(columns: Tensor, away: Tensor, cell_of: Tensor, label: Tensor, count: Tensor, reach: Reach) -> Tensor:
    """What an author's cells say against each other, float32 (m,), 0 and below.

    Each sample is held against its cell without it: noise that is wide enough lies nearest to the mean that it is in.
    """
    own, other = _own_and_other(columns, away, cell_of, label)
    n = count[cell_of].float()
    without = (own + reach.core / n) * (n / (n - 1)).square() - reach.core / (n - 1)
    own = torch.where(n >= ENOUGH, without, own)
    fits = other > own - CLEARLY * reach.core
    return _ramp(_share(fits, cell_of, len(label)), COHERES) - 1


def _among(label: Tensor, labels: frozenset[int]) -> Tensor:
    return torch.isin(label, torch.tensor(sorted(labels), dtype=torch.int64))


def _own_and_other(columns: Tensor, away: Tensor, cell_of: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """From each sample to the cell of its label and to the nearest other one, among ``columns``: float32 (n,)."""
    there = away[:, columns]
    same = label[columns][None] == label[cell_of][:, None]
    return torch.where(same, there, torch.inf).min(dim=1).values, torch.where(same, torch.inf, there).min(dim=1).values


def _share(holds: Tensor, cell_of: Tensor, cells: int) -> Tensor:
    """The share of each cell's samples for which something holds, float32 (m,)."""
    total = torch.bincount(cell_of, minlength=cells)
    return torch.zeros(cells).index_add(0, cell_of, holds.float()) / total


def _closeness(apart: Tensor, owner: Tensor, count: Tensor) -> Tensor:
    """Squared distances between the class means of one and the same author, of all authors: float32 (p,)."""
    pairs = (owner[:, None] == owner[None]) & (count >= FEWEST)[:, None] & (count >= FEWEST)[None]
    return apart[torch.triu(pairs, diagonal=1)]


def _copies(
    points: Tensor, cell_of: Tensor, owner: Tensor, label: Tensor, first: int, reach: Reach
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Which cells are, for the most part, copies of what an earlier author shows; authors count from ``first``."""
    cells = len(owner)
    source = np.full(cells, -1, np.int64)
    renamed = np.zeros(cells, bool)
    whose = owner[cell_of]
    for place in range(first + 1, int(owner.max()) + 1 if cells else 0):
        mine = torch.where(whose == place)[0]
        earlier = torch.where((whose < place) & (whose >= first))[0]
        if not len(mine) or not len(earlier):
            continue
        distance, nearest = torch.cdist(points[mine], points[earlier]).square().min(dim=1)
        for cell in torch.unique(cell_of[mine]).tolist():
            here = cell_of[mine] == cell
            copies = distance[here] < COPY * reach.core
            if int(copies.sum()) < 2 or float(copies.float().mean()) < COPIED:
                continue
            origin = cell_of[earlier[nearest[here][copies]]]
            source[cell] = int(torch.mode(owner[origin]).values)
            renamed[cell] = bool((label[origin] != label[cell]).float().mean() > 0.5)
    return source, renamed


def _ramp(value: Tensor, between: tuple[float, float]) -> Tensor:
    nothing, everything = between
    return ((value - nothing) / (everything - nothing)).clamp(0.0, 1.0)
