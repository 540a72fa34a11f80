import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import DataError
from meshlore.knowledge.builtin import digits
from meshlore.knowledge.data import Dataset, concatenate, fixed_permutation
from meshlore.knowledge.partition import partition_classes, partition_dirichlet
from meshlore.knowledge.space import Space

SPACE = Space((1, 8, 8), ("a", "b", "c"), levels=4)


def dataset(labels):
    labels = np.array(labels, dtype=np.int64)
    # the first two pixels tell the samples apart
    images = np.zeros((len(labels), 1, 8, 8), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) % 4, np.arange(len(labels)) // 4 % 4
    return Dataset(SPACE, images, labels)


def same(first, second):
    return np.array_equal(first.images, second.images) and np.array_equal(first.labels, second.labels)


def test_the_fixed_permutation_is_that_of_torch():
    import torch

    for n, seed in [(0, 1), (1, 1), (2, 7), (1797, 1234), (1297, 77)]:
        expected = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(fixed_permutation(n, seed), expected.numpy())


def test_digits_are_split_as_published():
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1297, 500)
    assert train.images.max() == 16
    np.testing.assert_array_equal(test.labels[:8], digits("test").labels[:8])
    from sklearn.datasets import load_digits

    order = fixed_permutation(1797, 1234)
    np.testing.assert_array_equal(test.labels, load_digits().target[order[:500]])
    np.testing.assert_array_equal(train.labels, load_digits().target[order[500:]])


def test_the_tuning_split_is_fixed_and_complete():
    train = digits("train")
    rest, validation = train.tuning_split()
    assert (len(rest), len(validation)) == (1047, 250)
    np.testing.assert_array_equal(validation.labels, train.labels[fixed_permutation(1297, 77)[:250]])
    np.testing.assert_array_equal(rest.counts() + validation.counts(), train.counts())


def test_loading_data_does_not_load_torch():
    code = (
        "import sys, meshlore.knowledge.sources as s, meshlore.knowledge.partition;"
        "s.load('digits'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_counts_prior_and_class_names_agree():
    data = dataset([0, 0, 0, 2])
    assert data.counts().tolist() == [3, 0, 1]
    assert data.prior().tolist() == [0.75, 0, 0.25]
    assert data.class_names() == ("a", "c")
    assert dataset([]).prior().tolist() == [1 / 3] * 3


def test_selecting_classes_keeps_their_labels():
    assert dataset([0, 1, 2, 1]).select_classes(["c", "b"]).labels.tolist() == [1, 2, 1]
    with pytest.raises(DataError, match="did you mean 'c'"):
        dataset([0]).select_classes(["C"])


@given(st.lists(st.integers(0, 2), max_size=40), st.floats(0, 1), st.integers(0, 99))
def test_a_split_is_stratified_complete_and_leaves_every_class_something(labels, fraction, seed):
    data = dataset(labels)
    rest, held_out = data.split(fraction, seed)
    np.testing.assert_array_equal(rest.counts() + held_out.counts(), data.counts())
    for before, kept, gone in zip(data.counts(), rest.counts(), held_out.counts(), strict=True):
        assert kept >= min(before, 1)
        assert gone == min(round(fraction * before), max(before - 1, 0))
    again = data.split(fraction, seed)
    assert same(rest, again[0])
    assert same(held_out, again[1])


def test_concatenating_what_was_split_loses_nothing():
    rest, held_out = dataset([0, 1, 2] * 5).split(0.3, 0)
    assert concatenate([rest, held_out]).counts().tolist() == [5, 5, 5]
    other = Dataset(Space((1, 8, 8), ("a", "b")), np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(ValueError, match="one space"):
        concatenate([rest, other])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 8, 8), np.uint8), np.array([0])),
        (np.zeros((1, 1, 8, 8), np.int64), np.array([0])),
        (np.zeros((1, 1, 8, 9), np.uint8), np.array([0])),
        (np.zeros((1, 1, 8, 8), np.uint8), np.array([3])),
        (np.zeros((1, 1, 8, 8), np.uint8), np.array([-1])),
        (np.zeros((1, 1, 8, 8), np.uint8), np.array([0], dtype=np.int32)),
        (np.full((1, 1, 8, 8), 4, np.uint8), np.array([0])),
    ],
)
def test_arrays_that_do_not_fit_are_refused(images, labels):
    with pytest.raises(ValueError, match=r"images|labels?|value"):
        Dataset(SPACE, images, labels)


class TestDirichlet:
    labels = digits("train").labels

    @pytest.mark.parametrize("nodes", [1, 5, 10, 30, 64])
    @pytest.mark.parametrize("alpha", [0.01, 0.1, 100.0])
    def test_every_sample_goes_to_exactly_one_node_and_none_goes_short(self, nodes, alpha):
        parts = partition_dirichlet(self.labels, nodes, alpha, seed=0)
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(self.labels)))
        fewest = max(20, int(min(0.02 * len(self.labels), len(self.labels) / (2 * nodes))))
        assert min(map(len, parts)) >= fewest

    def test_the_seed_decides(self):
        first, again, other = (partition_dirichlet(self.labels, 5, 0.1, seed) for seed in (0, 0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))

    def test_it_is_the_published_partition(self):
        sizes = [len(part) for part in partition_dirichlet(self.labels, 5, 0.1, seed=0)]
        assert sizes == [167, 332, 275, 431, 92]

    def test_small_alpha_gives_few_classes_and_large_alpha_all(self):
        few, all_classes = (
            [len(np.unique(self.labels[part])) for part in partition_dirichlet(self.labels, 5, alpha, 0)]
            for alpha in (0.05, 1000.0)
        )
        assert np.mean(few) < 6
        assert min(all_classes) == 10

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.integers(0, 5), min_size=20, max_size=200),
        st.integers(1, 12),
        st.floats(0.01, 10),
        st.integers(0, 9),
    )
    def test_it_ends_with_enough_for_all_or_says_how_many_nodes_are_possible(self, labels, nodes, alpha, seed):
        labels = np.array(labels)
        if len(labels) < 20 * nodes:
            with pytest.raises(DataError, match="use at most"):
                partition_dirichlet(labels, nodes, alpha, seed)
        else:
            parts = partition_dirichlet(labels, nodes, alpha, seed)
            assert min(map(len, parts)) >= 20
            assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))

    @pytest.mark.parametrize(("nodes", "alpha"), [(0, 1.0), (2, 0.0), (2, float("nan")), (2, -1.0)])
    def test_settings_without_a_meaning_are_refused(self, nodes, alpha):
        with pytest.raises(DataError, match="alpha"):
            partition_dirichlet(self.labels, nodes, alpha, 0)


@pytest.mark.parametrize(("nodes", "per_node"), [(5, 2), (10, 2), (3, 4), (1, 10)])
def test_partition_by_classes_gives_each_node_its_classes(nodes, per_node):
    labels = digits("train").labels
    parts = partition_classes(labels, nodes, per_node, seed=1)
    assert all(1 <= len(np.unique(labels[part])) <= per_node for part in parts)
    joined = np.concatenate(parts)
    assert len(joined) == len(np.unique(joined))
    if nodes * per_node >= 10:
        assert len(joined) == len(labels)
