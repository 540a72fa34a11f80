"""The attacks of `benchmarks.security`, a few of each, so that they are tried whenever the tests are."""

from __future__ import annotations

import random

import pytest

from benchmarks.security.canary import plant, shapes_of
from benchmarks.security.decoders import all_decoders
from benchmarks.security.figures import Figure
from benchmarks.security.frames import measure_frames, mutations
from benchmarks.security.intrusions import measure_intrusions


def test_mutated_inputs_crash_no_decoder() -> None:
    missed = [figure for figure in measure_frames(100, seed=1) if not figure.met and figure.unit != "ms CPU"]
    assert missed == []


def test_every_decoder_accepts_what_its_inputs_are_made_from(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for decoder in all_decoders(tmp_path):
        for sample in decoder.samples:
            decoder.decode(sample)  # raises if it does not
        dice = [list(mutations(decoder, random.Random(3), 5)) for _ in range(2)]
        assert dice[0] == dice[1]


def test_no_intrusion_succeeds() -> None:
    figures = measure_intrusions(2)
    assert [figure.name for figure in figures if not figure.met] == []
    assert len(figures) == 17


@pytest.mark.parametrize(("value", "met"), [(0, True), (1, False)])
def test_a_figure_tells_whether_its_target_is_met(value: float, met: bool) -> None:
    assert Figure("part", "name", value, most=0).met is met
    assert Figure("part", "name", 1 - value, least=1).met is met


def test_planted_images_are_each_one_marker_and_no_two_are_the_same(tmp_path) -> None:  # type: ignore[no-untyped-def]
    markers = plant(tmp_path, seed=0)
    assert len(set(markers)) == len(markers) == len(list(tmp_path.glob("*/*.png")))
    assert {len(shape) for shape in shapes_of(markers[0])} == {16, 32, 64}
