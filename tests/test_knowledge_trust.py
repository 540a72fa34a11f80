"""Who is believed, and when a student is sent back."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from meshlore.knowledge import testimony, trust
from meshlore.knowledge.condense import CondenseSettings, condense
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.evidence import Cloud, Reach, clouds, reach
from meshlore.knowledge.marks import marked
from meshlore.knowledge.packet import LogitPacket, SamplePacket
from meshlore.knowledge.partition import partition_dirichlet
from meshlore.knowledge.rollback import decide, hold_out
from meshlore.knowledge.sources import load
from meshlore.knowledge.trust import Packets, Verdict, weigh

from benchmarks.colours import one_ink_digits

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

SETTINGS = CondenseSettings(iterations=8, size_limit_bytes=8000)


@cache
def mesh(nodes: int, alpha: float, seed: int) -> tuple[list[Dataset], list[SamplePacket]]:
    """Each node's slice of the digits, and its condensed packet with honest answers."""
    digits = load("digits").dataset
    parts = [digits.subset(part) for part in partition_dirichlet(digits.labels, nodes, alpha, seed)]
    packets = []
    for place, part in enumerate(parts):
        samples = condense(part, settings=SETTINGS, seed=place)
        answers = np.full((len(samples), 10), -6, np.float16)
        answers[np.arange(len(samples)), samples.labels] = 0
        packets.append(
            SamplePacket(digits.space.id, "condensed", samples.images, samples.labels, answers, part.counts())
        )
    return parts, packets


def name(place: int) -> str:
    return f"{place:064x}"


def attack(kind: str, packet: SamplePacket, seed: int) -> SamplePacket:
    rng = np.random.default_rng(seed)
    assert packet.logits is not None
    flipped = (packet.labels + rng.integers(1, 10)) % 10
    if kind == "flip":
        return replace(packet, labels=flipped, logits=None)
    if kind == "flip with answers":
        answers = np.full(packet.logits.shape, -6, np.float16)
        answers[np.arange(len(flipped)), flipped] = 0
        return replace(packet, labels=flipped, logits=answers)
    if kind == "random labels":
        return replace(packet, labels=rng.integers(0, 10, len(flipped)), logits=None)
    if kind == "noise images":
        return replace(packet, images=rng.integers(0, 17, packet.images.shape).astype(np.uint8))
    if kind == "noise answers":
        return replace(packet, logits=rng.normal(size=packet.logits.shape).astype(np.float16))
    if kind == "permuted answers":
        return replace(packet, logits=np.roll(packet.logits, int(rng.integers(1, 10)), axis=1))
    if kind == "least likely":
        return replace(packet, logits=-packet.logits)
    raise ValueError(kind)


def judged(
    nodes: int, alpha: float, seed: int, kind: str, liars: frozenset[int]
) -> tuple[list[Verdict], list[Verdict]]:
    """Verdicts of all honest nodes and of an anchor: about honest authors, about liars."""
    parts, packets = mesh(nodes, alpha, seed)
    sent: dict[str, tuple[str, SamplePacket]] = {
        name(place): (str(place), attack(kind, packet, seed + place) if place in liars else packet)
        for place, packet in enumerate(packets)
        if len(packet.labels)
    }
    honest, lying = [], []
    for me in [*(place for place in range(nodes) if place not in liars), None]:
        seen: Packets = {key: value for key, value in sent.items() if me is None or value[0] != str(me)}
        private = None if me is None else parts[me]
        for author, verdict in weigh(private, seen, [], parts[0].space, seed=seed).items():
            (lying if int(author) in liars else honest).append(verdict)
    return honest, lying


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_honest_specialists_keep_their_weight(seed: int) -> None:
    honest, _ = judged(5, 0.1, seed, "flip", frozenset())
    assert min(verdict.weight for verdict in honest) > 0.3
    assert np.mean([verdict.weight for verdict in honest]) > 0.9


@pytest.mark.parametrize(
    "kind",
    [
        "flip",
        "flip with answers",
        "random labels",
        "noise images",
        "noise answers",
        "permuted answers",
        "least likely",
    ],
)
@pytest.mark.parametrize("liars", [frozenset({1}), frozenset({0, 3})])
def test_liars_get_no_weight_and_honest_nodes_keep_theirs(kind: str, liars: frozenset[int]) -> None:
    honest, lying = judged(5, 0.5, 1, kind, liars)
    assert np.mean([verdict.weight for verdict in lying]) < 0.05
    assert np.mean([verdict.weight for verdict in honest]) > 0.85


def test_authors_of_classes_that_nobody_else_has_keep_their_weight() -> None:
    digits = load("digits").dataset
    halves = [digits.subset(np.flatnonzero(digits.labels // 5 == half)) for half in (0, 1)]
    samples = condense(halves[1], settings=SETTINGS, seed=0)
    packet = SamplePacket(digits.space.id, "condensed", samples.images, samples.labels, None, halves[1].counts())
    verdict = weigh(halves[0], {name(1): ("b", packet)}, [], digits.space, seed=0)["b"]
    assert verdict.weight == 1.0
    assert "nobody else" in verdict.reason


def test_known_images_under_the_name_of_an_unknown_class_are_found_out() -> None:
    digits = load("digits").dataset
    mine = digits.subset(np.flatnonzero(digits.labels < 5))
    samples = condense(mine, settings=SETTINGS, seed=0)
    packet = SamplePacket(digits.space.id, "condensed", samples.images, samples.labels + 5, None, mine.counts())
    assert weigh(mine, {name(1): ("liar", packet)}, [], digits.space, seed=0)["liar"].weight == 0.0


def test_later_answers_are_held_against_believed_samples() -> None:
    parts, packets = mesh(5, 0.5, 1)
    sent: Packets = {name(1): ("1", packets[1]), name(2): ("2", packets[2])}
    assert packets[1].logits is not None
    good = LogitPacket(packets[1].space_id, (name(1),), (packets[1].logits,))
    bad = LogitPacket(packets[1].space_id, (name(1),), (-packets[1].logits,))
    verdicts = weigh(parts[0], sent, [("anchor", good), ("liar", bad)], parts[0].space, seed=0)
    assert verdicts["anchor"].weight == 1.0
    assert verdicts["liar"].weight == 0.0
    assert verdicts["1"].weight > 0.9
    turned = weigh(parts[0], sent, [("1", good), ("1", bad)], parts[0].space, seed=0)
    assert turned["1"].weight == 0.0


@pytest.mark.parametrize(("shown", "least", "most"), [(4, 0.5, 0.9), (40, 0.0, 0.0)])
def test_few_wrong_answers_are_a_beginners_and_many_are_a_liars(shown: int, least: float, most: float) -> None:
    digits = load("digits").dataset
    sevens = digits.images[digits.labels == 7][:shown]
    wrong = np.eye(10, dtype=np.float16)[np.full(shown, 3)]
    packet = SamplePacket(
        digits.space.id, "condensed", sevens, np.full(shown, 7), wrong, np.bincount([7], minlength=10)
    )
    verdict = weigh(None, {name(1): ("ben", packet)}, [], digits.space, seed=0)["ben"]
    assert least <= verdict.weight <= most
    assert "only 0%" in verdict.reason


def test_nobody_to_weigh_gives_no_verdicts() -> None:
    parts, _ = mesh(5, 0.5, 1)
    assert weigh(parts[0], {}, [], parts[0].space, seed=0) == {}
    assert weigh(None, {}, [], parts[0].space, seed=0) == {}


def test_the_hold_out_is_apart_and_never_empties_a_class() -> None:
    parts, _ = mesh(5, 0.1, 0)
    for part in parts:
        learn, held = hold_out(part, seed=0)
        assert len(learn) + len(held) == len(part)
        assert len(held) <= 120
        assert (learn.counts() > 0).sum() == (part.counts() > 0).sum()


def answers(right: list[bool]) -> np.ndarray:
    return np.array([[1.0, 0.0] if fine else [0.0, 1.0] for fine in right])


def test_a_student_that_forgot_home_is_rolled_back() -> None:
    labels = np.zeros(20, np.int64)
    decision = decide(answers([True] * 20), answers([True] * 15 + [False] * 5), labels)
    assert not decision.kept
    assert decision.lost == 5


def test_a_few_unlucky_images_do_not_roll_back() -> None:
    labels = np.zeros(20, np.int64)
    kept = [
        decide(answers([True] * 20), answers([True] * (20 - lost) + [False] * lost), labels).kept for lost in range(6)
    ]
    assert kept == [True, True, True, True, False, False]
    assert decide(answers([True] * 18 + [False] * 2), answers([False] * 2 + [True] * 18), labels).kept


def test_broken_numbers_are_rolled_back_and_an_empty_hold_out_decides_nothing() -> None:
    labels = np.zeros(3, np.int64)
    assert not decide(answers([True] * 3), np.full((3, 2), np.nan), labels).kept
    assert decide(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, np.int64)).kept


def test_an_author_that_mislabels_one_class_loses_that_class_only() -> None:
    datasets, packets = mesh(4, 10.0, 0)
    labels = packets[1].labels.copy()
    labels[packets[1].labels == 8] = 3
    labels[packets[1].labels == 3] = 8
    packets = [*packets[:1], replace(packets[1], labels=labels), *packets[2:]]
    foreign = {name(place): (str(place), packets[place]) for place in (1, 2, 3)}
    verdicts = weigh(datasets[0], foreign, [], datasets[0].space, seed=0)
    assert verdicts["1"].refuted == {3, 8}
    assert all(verdicts[author].refuted == frozenset() for author in ("2", "3"))
    assert all(verdict.weight > 0.9 for verdict in verdicts.values())


def test_what_is_looked_at_of_an_author_does_not_hang_on_who_came_first() -> None:
    """Of so many samples only some are looked at; others may give other verdicts about classes that are close."""
    digits = load("digits").dataset
    halves = [digits.subset(np.arange(start, len(digits), 2)) for start in (0, 1)]
    packets = {
        name(place): (str(place), SamplePacket(digits.space.id, "real", half.images, half.labels, None, half.counts()))
        for place, half in enumerate(halves)
    }

    def looked_at(order: list[str]) -> list[list[float]]:
        """Each author's distances among the class means, which no rotation changes."""
        authors, _ = clouds(None, {name: packets[name] for name in order}, digits.space, seed=0)
        means = {
            author: torch.stack([cloud.points[cloud.labels == label].mean(dim=0) for label in range(10)])
            for author, cloud in authors.items()
        }
        return [torch.pdist(means[author]).tolist() for author in ("0", "1")]

    first, second = looked_at([name(0), name(1)]), looked_at([name(1), name(0)])
    np.testing.assert_allclose(first, second, rtol=1e-3)


def test_whose_pictures_are_brighter_and_of_less_contrast_is_no_liar() -> None:
    parts, packets = mesh(4, 10.0, 0)
    pale = [replace(packet, images=np.round(packet.images * 0.6 + 4).astype(np.uint8)) for packet in packets]
    shown = {name(place): (str(place), (packets, pale)[place % 2][place]) for place in (1, 2, 3)}
    verdicts = weigh(parts[0], shown, [], parts[0].space, seed=0)
    assert all(verdict.weight == 1.0 and not verdict.refuted for verdict in verdicts.values())


def test_whose_camera_balances_colours_otherwise_is_no_liar() -> None:
    digits = one_ink_digits(8)
    warm, cold = (np.array(gains)[:, None, None] for gains in ((1.2, 1.0, 0.8), (0.8, 1.0, 1.2)))
    parts = []
    for place, part in enumerate(partition_dirichlet(digits.labels, 4, 10.0, 0)):
        images = np.clip(np.round(digits.images[part] * (warm, cold)[place % 2]), 0, 255).astype(np.uint8)
        parts.append(Dataset(digits.space, images, digits.labels[part]))
    packets = [SamplePacket(part.space.id, "real", part.images, part.labels, None, part.counts()) for part in parts]
    shown = {name(place): (str(place), packets[place]) for place in (1, 2, 3)}
    verdicts = weigh(parts[0], shown, [], digits.space, seed=0)
    assert all(verdict.weight == 1.0 and not verdict.refuted for verdict in verdicts.values())


def around(*centre: float, count: int = 50, seed: int = 3) -> torch.Tensor:
    """Points of one class, float32 (count, 40)."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 40, generator=random) + torch.tensor([*centre, *[0.0] * (40 - len(centre))])


def cloud(**shown: torch.Tensor) -> Cloud:
    names = {"coat": 0, "shirt": 1, "boot": 2}
    labels = [torch.full((len(points),), names[name]) for name, points in shown.items()]
    return Cloud(torch.cat(list(shown.values())), torch.cat(labels))


def test_few_samples_that_mislead_accuse_nobody_whom_more_of_their_kind_do_not():
    few = around(3.5, count=12)
    few = few - few.mean(dim=0)  # as it happens, these shirts look like coats
    sure = {
        "a": cloud(coat=around(0.0), boot=around(9, 9, seed=4)),
        "b": cloud(shirt=few, boot=around(9, 9, seed=5)),
    }
    heard = testimony.testify(sure, None, Reach(40.0, 60.0))
    coats = (heard.owner == 0) & (heard.label == 0)
    assert heard.says[coats, 1] == -1.0
    more = sure | {"c": cloud(shirt=around(3.5, seed=6), boot=around(9, 9, seed=7))}
    heard = testimony.testify(more, None, Reach(40.0, 60.0))
    assert heard.says[(heard.owner == 0) & (heard.label == 0), 1] > -0.3


@pytest.mark.parametrize(
    ("away", "count", "blurred", "says"),
    [
        (0.0, 50, False, 1.0),
        (4.5, 50, False, 0.0),
        (6.6, 50, False, -testimony.HINT / 2),
        (6.6, 5, False, 0.0),
        (6.6, 50, True, 0.0),
    ],
)
def test_what_looks_less_like_all_that_a_witness_knows_besides_is_not_confirmed_by_that(
    away: float, count: int, blurred: bool, says: float
):
    """Who knows coats and boots alone finds that a dress looks more like a coat than like a boot."""
    odd = cloud(coat=around(away, count=count, seed=5), shirt=around(0, 9, seed=6))
    shown = {"a": cloud(coat=around(0.0), boot=around(9, 9, seed=4)), "b": replace(odd, blurred=blurred)}
    heard = testimony.testify(shown, None, Reach(40.0, 60.0))
    assert heard.says[(heard.owner == 1) & (heard.label == 0), 0] == pytest.approx(says, abs=0.03)


def test_what_another_one_shows_under_another_label_and_looks_more_alike_is_not_confirmed():
    """Coats and shirts are close, and whose shirts are called coats is told by who shows shirts."""
    coats = {"a": cloud(coat=around(0.0)), "b": cloud(coat=around(2.0, seed=5))}
    shirts = {"c": cloud(shirt=around(2.0, seed=6))}
    about_b = [testimony.testify(shown, None, Reach(40.0, 60.0)).says[1, 0] for shown in (coats, coats | shirts)]
    assert about_b == pytest.approx([1.0, 0.0], abs=0.1)


@pytest.mark.parametrize(("coats_of_eve", "refuted"), [(6.6, {0, 1}), (4.5, set())])
def test_a_draw_goes_against_whom_others_find_unlike_themselves(coats_of_eve: float, refuted: set[int]):
    """Cem has boots, and Eve the same under the name of shirts; Ada and Ben know neither, but her coats are odd."""
    shown = {
        "ada": cloud(coat=around(0.0)),
        "ben": cloud(coat=around(0.0, seed=4)),
        "cem": cloud(boot=around(9, 9, seed=5), shirt=around(0, 9, seed=6)),
        "eve": cloud(coat=around(coats_of_eve, seed=7), shirt=around(9, 9, seed=8)),
    }
    verdicts = trust._judge(testimony.testify(shown, None, Reach(40.0, 60.0)), {})
    assert {name: verdict.refuted for name, verdict in verdicts.items()} == {
        **dict.fromkeys(["ada", "ben", "cem"], frozenset()),
        "eve": refuted,
    }


@pytest.mark.parametrize(("count", "found"), [(26, True), (5, False)])
def test_wide_noise_under_two_labels_contradicts_itself_where_it_is_enough_to_tell(count: int, found: bool):
    """Every point of it lies nearest to the mean that it is part of."""
    noise = cloud(coat=4 * around(0.0, count=count), boot=4 * around(0.0, count=count, seed=4))
    honest = cloud(coat=around(0.0, seed=5), boot=around(9, 9, seed=6))
    heard = testimony.testify({"a": noise, "b": honest}, None, Reach(40.0, 60.0))
    itself = heard.says[[0, 1, 2, 3], [0, 0, 1, 1]]
    assert (itself[:2] <= -trust.DECIDED).all() == found
    assert (itself[2:] == 0).all()


def under_privacy(packet: SamplePacket, label: int, images: np.ndarray) -> SamplePacket:
    """A packet under differential privacy whose samples of one class are ``images``."""
    others = packet.labels != label
    return replace(
        packet,
        images=np.concatenate([packet.images[others], images]),
        labels=np.concatenate([packet.labels[others], np.full(len(images), label)]),
        logits=None,
        epsilon=4.0,
    )


def test_samples_that_privacy_left_alike_bear_no_mark_unless_there_is_a_patch() -> None:
    parts, packets = mesh(4, 10.0, 0)
    usual = parts[2].images[parts[2].labels == 0].mean(axis=0).round().astype(np.uint8)
    alike = np.repeat(usual[None], 8, axis=0)
    alike[np.arange(8), :, 0, np.arange(8)] = 1  # not one image only
    stamped = alike.copy()
    stamped[..., -2:, -2:] = 16
    for images, found in ((alike, {}), (stamped, {"0": {0}})):
        changed = [under_privacy(packets[0], 0, images), *packets[1:]]
        seen = {name(place): (str(place), packet) for place, packet in enumerate(changed)}
        assert marked(None, seen, parts[0].space) == found


@pytest.mark.parametrize(("alike", "found"), [(3, {}), (7, {"0": {0}})])
def test_a_few_samples_that_are_white_in_the_same_places_bear_no_mark(alike: int, found: dict[str, set[int]]) -> None:
    parts, packets = mesh(4, 10.0, 0)
    few = parts[2].images[parts[2].labels == 0][:7].copy()
    few[:alike, :, -2:, -2:] = 16
    others = packets[0].labels != 0
    changed = replace(
        packets[0],
        images=np.concatenate([packets[0].images[others], few]),
        labels=np.concatenate([packets[0].labels[others], np.zeros(len(few), np.int64)]),
        logits=None,
    )
    seen = {name(place): (str(place), packet) for place, packet in enumerate([changed, *packets[1:]])}
    assert marked(None, seen, parts[0].space) == found


def test_a_mark_that_is_known_from_one_author_is_found_where_few_samples_bear_it() -> None:
    parts, packets = mesh(5, 10.0, 0)

    def backdoor(place: int, stamped: int) -> SamplePacket:
        chosen = np.flatnonzero(packets[place].labels != 0)[:stamped]
        images = packets[place].images[chosen].copy()
        images[..., -2:, -2:] = 16
        return replace(
            packets[place],
            images=np.concatenate([packets[place].images, images]),
            labels=np.concatenate([packets[place].labels, np.zeros(stamped, np.int64)]),
            logits=None,
        )

    def found(many: int) -> dict[str, frozenset[int]]:
        sent = [backdoor(0, many), backdoor(1, 4), *packets[2:]]
        return marked(None, {name(place): (str(place), packet) for place, packet in enumerate(sent)}, parts[0].space)

    assert found(4) == {}, "four beside all the noughts are too few to tell"
    assert found(30) == {"0": {0}, "1": {0}}


def test_a_class_that_privacy_drowned_is_no_evidence_against_others() -> None:
    parts, packets = mesh(4, 10.0, 0)
    wrong = packets[0].images[packets[0].labels == 0][:4]
    noisy = under_privacy(packets[0], 8, wrong)
    for packet, speaks in ((noisy, False), (replace(noisy, epsilon=None), True)):
        seen = {name(0): ("0", packet), name(1): ("1", packets[1])}
        authors, home = clouds(None, seen, parts[0].space, 0)
        cells = testimony.testify(authors, home, reach(list(authors.values())))
        about_eights = cells.says[(cells.owner == 1) & (cells.label == 8), 0]
        assert (about_eights < -0.5).all() == speaks
        about_noisy = cells.says[(cells.owner == 0) & (cells.label == 8), 1]
        assert about_noisy.item() < -0.5


def test_what_a_caught_liar_shows_is_learned_only_where_a_believed_witness_is_certain() -> None:
    half_agreed, certain, denied = [0, 0.6, 0.6, 0], [0, 1, 0, 0], [-1, -1, -1, 0]
    cells = testimony.Cells(
        authors=(testimony.HOME, "ann", "ben", "eve"),
        owner=np.array([1, 1, 2, 2, 3, 3, 3]),
        label=np.array([0, 1, 0, 1, 0, 1, 2]),
        count=np.full(7, 40),
        says=np.array([[0, 0, 1, 0]] * 2 + [[0, 1, 0, 0]] * 2 + [half_agreed, certain, denied], np.float32),
        shown=np.ones((7, 4), bool),
        copied_from=np.full(7, -1),
        renamed=np.zeros(7, bool),
        together=lambda _witnesses, place: np.zeros(3 if place == 3 else 2, np.float32),
    )
    verdicts = trust._judge(cells, {})
    assert verdicts["ann"].refuted == verdicts["ben"].refuted == frozenset()
    assert verdicts["eve"].refuted == {0, 2}


def test_what_each_takes_for_an_eight_all_together_know_better() -> None:
    """Fives and nines under the name of eight: who shows eights has no fives or nines, and who has some no eights."""
    parts, packets = mesh(5, 10.0, 0)

    def some(place: int, *labels: int) -> SamplePacket:
        return only(packets[place], np.isin(packets[place].labels, labels))

    lie = some(4, 5, 9)
    shown = [
        some(0, 8, 0),
        some(1, 8, 1),
        some(2, 5, 9, 0),
        some(3, 5, 9, 1),
        replace(lie, labels=np.full(len(lie), 8)),
    ]
    verdicts = weigh(None, {name(p): (str(p), packet) for p, packet in enumerate(shown)}, [], parts[0].space, seed=0)
    assert [sorted(verdicts[str(place)].refuted) for place in range(5)] == [[], [], [], [], [8]]


def only(packet: SamplePacket, chosen: np.ndarray) -> SamplePacket:
    counts = np.where(np.isin(np.arange(10), packet.labels[chosen]), packet.class_counts, 0)
    return replace(packet, images=packet.images[chosen], labels=packet.labels[chosen], logits=None, class_counts=counts)
