"""Class lists that differ between nodes: names of others become one's own labels, models grow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from meshlore.errors import DataError, DecodeError, PacketError
from meshlore.knowledge.classes import MAX_INTRODUCED, aligned_logits, aligned_shares, check_added, grown
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.growth import BELOW_AVERAGE, grown_classifier
from meshlore.knowledge.merging import aligned, unknown
from meshlore.knowledge.models import MODELS, build_model, logits
from meshlore.knowledge.packet import LogitPacket, SamplePacket, decode, encode
from meshlore.knowledge.sources import load_private, save_npz
from meshlore.knowledge.space import Space
from meshlore.node.router import Competence
from torch import nn

FOUNDING = Space((1, 8, 8), ("cat", "dog"), levels=17)
MINE = FOUNDING.grown(["owl", "fox"])
THEIRS = FOUNDING.grown(["fox", "bee"])
NAME = "0" * 64


def sample_packet(space, labels, **changes):
    rng = np.random.default_rng(0)
    packet = SamplePacket(
        space.id,
        "condensed",
        rng.integers(0, 17, (len(labels), *space.shape)).astype(np.uint8),
        np.array(labels, dtype=np.int64),
        None,
        np.arange(1, space.num_classes + 1),
        added=space.added_classes,
    )
    return replace(packet, **changes)


class TestSpace:
    def test_classes_that_are_added_change_no_label_and_no_identity(self):
        assert MINE.classes == ("cat", "dog", "owl", "fox")
        assert MINE.id == THEIRS.id == FOUNDING.id
        assert MINE.founding == FOUNDING
        assert MINE.added_classes == ("owl", "fox")
        assert FOUNDING.grown(["dog", "DOG", "Cat"]) is FOUNDING
        assert Space.from_map(MINE.to_map()) == MINE

    def test_a_name_that_is_none_and_one_too_many_are_refused(self):
        with pytest.raises(DataError):
            FOUNDING.grown([" owl"])
        with pytest.raises(DataError):
            FOUNDING.grown(str(n) for n in range(999))
        assert grown(FOUNDING, [str(n) for n in range(2000)]).num_classes == 1000

    @pytest.mark.parametrize(
        "added",
        [["cat"], ["owl", "Owl"], [" owl"], [1], "owl", [str(n) for n in range(999)], None],
        ids=lambda added: str(added)[:20],
    )
    def test_foreign_names_are_checked(self, added):
        with pytest.raises(DecodeError):
            check_added(added, MINE)


class TestPackets:
    def test_labels_and_counts_follow_the_names(self):
        packet = decode(encode(sample_packet(THEIRS, [0, 1, 2, 2])), MINE)
        assert packet.added == ("fox", "bee")
        assert unknown(packet, MINE) == ()
        mine = aligned(packet, MINE)
        assert mine.labels.tolist() == [0, 1, 3, 3]
        assert mine.class_counts.tolist() == [1, 2, 0, 3]
        assert mine.added == MINE.added_classes

    def test_a_class_counts_as_new_only_where_samples_stand_behind_it(self):
        packet = decode(encode(sample_packet(THEIRS, [0, 3])), MINE)
        assert unknown(packet, MINE) == ("bee",)
        wider = MINE.grown(unknown(packet, MINE))
        assert aligned(packet, wider).labels.tolist() == [0, 4]

    def test_names_that_differ_in_case_are_one_class(self):
        theirs = FOUNDING.grown(["FOX"])
        assert aligned(sample_packet(theirs, [2]), MINE).labels.tolist() == [3]
        assert unknown(sample_packet(theirs, [2]), MINE) == ()

    def test_answers_say_nothing_for_classes_that_their_teacher_does_not_know(self):
        said = np.array([[1, 2, 8, 4], [5, 0, 0, 0]], np.float16)
        packet = decode(encode(LogitPacket(THEIRS.id, (NAME,), (said,), THEIRS.added_classes)), MINE)
        mine = aligned(packet, MINE).logits[0]
        assert mine.shape == (2, 4)
        assert mine[:, [0, 1, 3]].tolist() == [[1, 2, 8], [5, 0, 0]]
        probability = torch.softmax(torch.from_numpy(mine.astype(np.float32)) / 2, dim=1)
        assert probability[:, 2].max() < 1e-4

    @given(st.integers(0, 2**32 - 1))
    def test_any_finite_answers_stay_finite(self, seed):
        said = np.random.default_rng(seed).uniform(-65504, 65504, (3, 4)).astype(np.float16)
        assert np.isfinite(
            aligned(LogitPacket(THEIRS.id, (NAME,), (said,), THEIRS.added_classes), MINE).logits[0]
        ).all()

    def test_no_packet_brings_too_many_classes(self):
        names = [str(n) for n in range(MAX_INTRODUCED + 1)]
        crowd = FOUNDING.grown(names)
        with pytest.raises(PacketError, match="samples of 65 classes"):
            decode(encode(sample_packet(crowd, range(crowd.num_classes))), FOUNDING)
        assert len(decode(encode(sample_packet(crowd, range(crowd.num_classes - 1))), FOUNDING)) == 66

    def test_labels_beyond_the_names_are_refused(self):
        with pytest.raises(PacketError):
            decode(encode(sample_packet(THEIRS, [0, 3], added=("fox",))), MINE)


class TestGrowth:
    images = np.random.default_rng(1).integers(0, 17, (20, 1, 8, 8)).astype(np.uint8)

    @pytest.mark.parametrize("name", MODELS)
    def test_a_grown_classifier_answers_as_before_and_names_no_new_class(self, name):
        old = build_model(name, FOUNDING, 0)
        new = grown_classifier(old, name, FOUNDING, MINE, 0)
        before, after = logits(old, self.images, FOUNDING), logits(new, self.images, MINE)
        np.testing.assert_allclose(after[:, :2], before, atol=1e-5)
        assert (after[:, 2:] < before.max(axis=1, keepdims=True) - BELOW_AVERAGE / 2).all()
        assert (after.argmax(axis=1) == before.argmax(axis=1)).all()

    def test_ones_own_model_that_cannot_grow_is_trained_anew(self):
        old = build_model("test_knowledge_classes:entangled", FOUNDING, 0)
        assert grown_classifier(old, "test_knowledge_classes:entangled", FOUNDING, MINE, 0) is None

    def test_a_grown_generator_draws_as_before_and_no_new_class(self):
        labels = np.arange(20) % 2
        generator = fit_generator(self.images, labels, FOUNDING, steps=5, seed=0)
        wider = generator.grown(MINE)
        assert np.array_equal(generator.sample(labels, seed=3), wider.sample(labels, seed=3))
        assert wider.sample(np.array([2, 3]), seed=0).shape == (2, 1, 8, 8)
        assert not wider.seen[2:].any()
        restored = type(wider).from_state(wider.state(), MINE)
        assert np.array_equal(restored.sample(labels, seed=3), wider.sample(labels, seed=3))


class TestCompetence:
    def test_it_is_told_and_read_by_name(self):
        theirs = Competence((0.1, 0.2, 0.3, 0.4), (), added=THEIRS.added_classes)
        got = Competence.from_map(theirs.to_map(), MINE).seen_in(MINE)
        assert got.classify == (0.1, 0.2, 0.0, 0.3)
        assert got.generate == ()

    def test_an_advert_stays_small_however_many_classes_there_are(self):
        space = FOUNDING.grown(str(n) * 20 for n in range(100, 900))
        quality = tuple(0.5 for _ in space.classes)
        value = Competence(quality, quality, added=space.added_classes).to_map()
        assert sum(len(name) for name in value["added"]) < 4096
        got = Competence.from_map(value, space).seen_in(space)
        assert got.classify[:10] == quality[:10]
        assert got.classify[-1] == 0.0


def entangled(space):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 8 * space.num_classes), nn.Linear(8 * space.num_classes, space.num_classes)
    )


def test_logits_and_shares_follow_the_names():
    said = np.array([[1.0, 2.0, 3.0]], np.float32)
    assert aligned_logits(said, ("fox",), MINE)[0, [0, 1, 3]].tolist() == [1, 2, 3]
    assert aligned_shares((0.5, 0.25, 1.0), ("fox",), MINE) == (0.5, 0.25, 0.0, 1.0)


def test_own_data_add_what_the_mesh_lacks_but_a_slip_in_case_is_pointed_out(tmp_path):
    images = np.zeros((12, 1, 8, 8), np.uint8)
    own = Space((1, 8, 8), ("bee", "cat"), levels=17)
    save_npz(tmp_path / "a.npz", Dataset(own, images, np.arange(12) % 2))
    loaded = load_private(str(tmp_path / "a.npz"), MINE)
    assert loaded.dataset.space.classes == ("cat", "dog", "owl", "fox", "bee")
    assert loaded.dataset.counts().tolist() == [6, 0, 0, 0, 6]
    save_npz(tmp_path / "b.npz", Dataset(replace(own, classes=("Cat", "bee")), images, np.arange(12) % 2))
    with pytest.raises(DataError, match="did you mean 'cat'"):
        load_private(str(tmp_path / "b.npz"), MINE)
