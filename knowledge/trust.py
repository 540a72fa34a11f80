"""Trust: how much weight each author's knowledge gets. Local, never published.

Nobody's claim about itself counts. Every author's samples, and the node's private data, testify about what the
others show (testimony.py). The private data are never wrong; among the rest those are believed who are at peace
with them and with each other, so that the fewest liars explain every dispute (disputes.py), and an author of
classes that this node never saw is judged by third parties. Then each class of each author is looked at: what
those who are believed refute is not learned, from anybody, be it one of them or all that they confirm of each other
together. A class that nobody else shows cannot be judged: a specialist keeps its weight there, one who was caught
lying elsewhere does not. Copies of another author's samples count for nothing. Without private data (the anchor) the
others' agreement alone decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .data import Dataset
from .disputes import GRAVITY, KINSHIP, fewest_liars
from .evidence import FEWEST, Packets, clouds, reach
from .marks import marked
from .packet import LogitPacket, views_answered
from .space import Space, is_rows
from .testimony import HOME, Cells, testify

__all__ = ["FEWEST", "Answers", "Packets", "Verdict", "weigh"]

Answers = Iterable[tuple[str, LogitPacket]]
"""(author, packet), oldest first: later logits of an author replace its earlier ones."""

ANSWERS_FIT = 0.35, 0.6  # shares of answers that are the label, for weight 0 and for 1: an honest beginner errs
BENEFIT_OF_DOUBT = 4.0  # answers that count as right beforehand: a few wrong ones are a beginner's
STANDS = 0.25, 0.45  # shares of an author's samples that stand, for weight 0 and for 1
ROUGHEST = 0.8  # 1 where neighbouring pixels have nothing in common; digits .5, photographs below
DECIDED = 0.5  # witnesses' worth of testimony that settles a class
CERTAIN = 0.9  # what one witness must say for a class of a caught liar to be learned
MOST_SAID = 3.0  # of one author about another: many classes are not many witnesses


@dataclass(frozen=True)
class Verdict:
    """``weight`` 0 (not used) to 1 (fully), and why, in words for a log line.

    ``refuted``: labels whose samples are not used, because they do not look like what believed others show, are
    copies, or come from a liar and cannot be checked.
    """

    weight: float
    reason: str
    refuted: frozenset[int] = frozenset()


def weigh(
    private: Dataset | None, packets: Packets, answers: Answers, space: Space, *, seed: int
) -> dict[str, Verdict]:
    """Judge every author of a packet or an answer. The caller's own packets are not among them.

    Args:
        private: the node's own data; None for an anchor.
        packets: in the order of their arrival, which decides who copied whom.
        seed: of the random features; a seed of the node's own keeps liars from preparing for it.
    """
    answers = list(answers)
    noise = _noise(packets)
    plausible = {name: entry for name, entry in packets.items() if entry[0] not in noise}
    authors, home = clouds(private, plausible, space, seed)
    verdicts = dict(noise)
    if authors:
        known = [*authors.values(), *([home] if home is not None else [])]
        verdicts |= _judge(testify(authors, home, reach(known)), marked(private, plausible, space))
    for author, (right, total) in _answered(packets, answers, verdicts, space).items():
        factor = _ramp((right + BENEFIT_OF_DOUBT) / (total + BENEFIT_OF_DOUBT), *ANSWERS_FIT)
        known_verdict = verdicts.get(author, Verdict(1.0, "answers only"))
        if factor < 1 and factor < known_verdict.weight:
            verdicts[author] = Verdict(
                factor * known_verdict.weight,
                f"its answers fit the labels for only {right / total:.0%} of the samples",
                known_verdict.refuted,
            )
        else:
            verdicts[author] = known_verdict
    return verdicts


def _noise(packets: Packets) -> dict[str, Verdict]:
    """Authors whose images are noise: neighbouring pixels of a median image hardly correlate."""
    rough: dict[str, list[np.ndarray]] = {}
    for author, packet in packets.values():
        if is_rows(packet.images.shape):  # the columns of a table have no neighbours
            continue
        images = packet.images.astype(np.float32)
        across = np.square(np.diff(images, axis=3)).mean(axis=(1, 2, 3))
        down = np.square(np.diff(images, axis=2)).mean(axis=(1, 2, 3))
        uncorrelated = 4 * images.var(axis=(1, 2, 3)) + 1e-6
        rough.setdefault(author, []).append((across + down) / uncorrelated)
    medians = {author: float(np.median(np.concatenate(values))) for author, values in rough.items()}
    return {
        author: Verdict(0.0, f"its images look like noise (roughness {median:.2f} of 1)")
        for author, median in medians.items()
        if median > ROUGHEST
    }


def _judge(cells: Cells, marks: Mapping[str, frozenset[int]]) -> dict[str, Verdict]:
    """A verdict on every author, from what all witnesses say."""
    count = len(cells.authors)
    said_for, said_against = np.zeros((count, count)), np.zeros((count, count))
    # re-signed samples of others prove nothing about who re-signed them
    own_work = np.where(cells.copied_from >= 0, 0.0, 1.0)[:, None]
    np.add.at(said_for, cells.owner, np.maximum(cells.says, 0) * own_work)
    np.add.at(said_against, cells.owner, np.maximum(-cells.says, 0))
    incoherent = said_against.diagonal().copy()
    np.fill_diagonal(said_against, 0.0)
    support = np.minimum(said_for + said_for.T, MOST_SAID)
    conflict = np.minimum(said_against + said_against.T, MOST_SAID)
    first = 1 if cells.authors[0] == HOME else 0
    prior = 1.0 - incoherent[first:] / 2
    if first:
        prior += KINSHIP * support[1:, 0] - GRAVITY * conflict[1:, 0]
    thieves = np.unique(cells.owner[cells.renamed]) - first
    prior[thieves] -= GRAVITY * MOST_SAID
    prior[[place - first for place, author in enumerate(cells.authors) if author in marks]] -= GRAVITY * MOST_SAID
    believed, doubtful = fewest_liars(conflict[first:, first:], support[first:, first:], prior)
    trusted = np.concatenate([np.ones(first, bool), believed])
    confirmed = _confirmed(cells, trusted)
    return {
        author: _verdict(
            cells, place, trusted, confirmed, bool(doubtful[place - first]), marks.get(author, frozenset())
        )
        for place, author in enumerate(cells.authors)
        if place >= first
    }


def _confirmed(cells: Cells, trusted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells of believed authors that another one of them confirms, and the private data's: bool (m,)."""
    others = trusted[None] & (np.arange(len(trusted))[None] != cells.owner[:, None])
    heard = np.where(others, cells.says, 0.0).max(axis=1, initial=0.0)
    at_home = (cells.owner == 0) & (cells.authors[0] == HOME)
    confirmed: NDArray[np.bool_] = trusted[cells.owner] & ((heard >= DECIDED) | at_home)
    return confirmed


def _verdict(
    cells: Cells,
    place: int,
    trusted: NDArray[np.bool_],
    confirmed: NDArray[np.bool_],
    doubtful: bool,
    marks: frozenset[int],
) -> Verdict:
    """One author, given who is believed, and which cells others confirm."""
    mine = np.flatnonzero(cells.owner == place)
    witnesses = trusted & (np.arange(len(trusted)) != place)
    heard = cells.says[mine][:, witnesses]
    # who shows the label knows better than who only finds that it looks like something else
    known = heard.max(axis=1, initial=0.0) >= DECIDED
    net = np.where(known[:, None] & ~cells.shown[mine][:, witnesses], 0.0, heard).sum(axis=1)
    if doubtful:
        net = np.zeros(len(mine))
    joint = cells.together(confirmed, place)
    net = np.where(joint < 0, np.minimum(net, joint), net)
    if cells.authors[0] == HOME:
        at_home = cells.says[mine, 0]
        decides = (np.abs(at_home) >= DECIDED) & (cells.shown[mine, 0] | ~known)
        net = np.where(decides, at_home, net)
    bad = (cells.says[mine, place] <= -DECIDED) | np.isin(cells.label[mine], sorted(marks))
    net = np.where(bad, -1.0, net)
    copied = cells.copied_from[mine] >= 0
    if trusted[place] or doubtful:
        stands = (net > -DECIDED) & ~copied
        why = "nobody else shows its classes" if not cells.says[mine].any() else ""
    else:
        # many who half agree prove nothing: of a mixture of classes some samples fit whatever it is called
        stands = (net >= DECIDED) & (heard.max(axis=1, initial=0.0) >= CERTAIN) & ~copied
        why = ""
    size = cells.count[mine].astype(np.float64)
    share = float((size * stands).sum() / size.sum())
    if copied.any() and not stands.any():
        source = cells.authors[int(np.bincount(cells.copied_from[mine][copied]).argmax())]
        why = f"its samples are copies of {source[:16]}'s"
    elif marks:
        why = f"its samples bear a mark that others' do not; {share:.0%} of them stand"
    elif not why:
        why = f"{share:.0%} of its samples stand" + (", in dispute with others" if doubtful else "")
    refuted = frozenset(cells.label[mine][~stands].tolist())
    return Verdict(_ramp(share, *STANDS), why, refuted)


def _answered(
    packets: Packets, answers: list[tuple[str, LogitPacket]], verdicts: Mapping[str, Verdict], space: Space
) -> dict[str, tuple[float, int]]:
    """For each author with logits: of how many samples its answer is the label, and how many it answered.

    Answers are held against its own packets and those of believed authors.
    """
    right: dict[str, float] = {}
    total: dict[str, int] = {}
    own = [(author, name, packet.logits) for name, (author, packet) in packets.items() if packet.logits is not None]
    later = [
        (author, name, said)
        for author, answer in answers
        for name, said in zip(answer.about, answer.logits, strict=True)
    ]
    newest = {(author, name): said for author, name, said in [*own, *later]}
    for (author, name), said in newest.items():
        if name not in packets or not views_answered(said, len(packets[name][1].labels), space.num_classes):
            continue
        owner, packet = packets[name]
        said = said[: len(packet.labels)]
        if owner != author and (owner not in verdicts or verdicts[owner].weight <= 0.5):
            continue
        right[author] = right.get(author, 0.0) + float((said.argmax(axis=1) == packet.labels).sum())
        total[author] = total.get(author, 0) + len(packet.labels)
    return {author: (right[author], total[author]) for author in total if total[author]}


def _ramp(share: float, nothing: float, everything: float) -> float:
    return float(np.clip((share - nothing) / (everything - nothing), 0.0, 1.0))
