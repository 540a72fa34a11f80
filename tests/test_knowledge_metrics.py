import numpy as np
import pytest
from meshlore.knowledge.metrics import (
    accuracy,
    global_accuracy,
    per_class_accuracy,
    personal_accuracy,
    with_prior,
)

LABELS = np.array([0, 0, 0, 1, 2, 2])
ANSWERS = np.array([0, 0, 0, 1, 0, 2])
LOGITS = np.eye(4, dtype=np.float32)[ANSWERS] * 5


def test_accuracy_is_the_share_of_right_answers():
    assert accuracy(LOGITS, LABELS) == pytest.approx(5 / 6)


def test_per_class_accuracy_is_nan_where_nothing_was_tested():
    np.testing.assert_array_equal(per_class_accuracy(LOGITS, LABELS), [1.0, 1.0, 0.5, np.nan])


def test_global_accuracy_counts_each_class_alike():
    assert global_accuracy(LOGITS, LABELS) == pytest.approx((1 + 1 + 0.5) / 3)


def test_personal_accuracy_counts_what_the_node_meets():
    prior = np.array([0.0, 0.5, 0.5, 0.0])
    # the fifth sample was called class 0, which this node never meets: ties go to the lowest class it knows
    assert personal_accuracy(LOGITS, LABELS, prior) == pytest.approx(0.75)
    assert personal_accuracy(LOGITS + np.array([0, 0, 0.1, 0]), LABELS, prior) == pytest.approx(1.0)


def test_untested_classes_do_not_count_at_home():
    assert personal_accuracy(LOGITS, LABELS, np.array([0.5, 0.0, 0.0, 0.5])) == 1.0


def test_a_node_with_untested_classes_only_has_no_personal_accuracy():
    assert np.isnan(personal_accuracy(LOGITS, LABELS, np.array([0.0, 0.0, 0.0, 1.0])))


def test_without_samples_there_is_no_accuracy():
    nothing = np.zeros((0, 4)), np.zeros(0, dtype=np.int64)
    assert np.isnan(accuracy(*nothing))
    assert np.isnan(global_accuracy(*nothing))


def test_a_prior_moves_answers_towards_what_is_common():
    unsure = np.array([[0.2, 0.0]])
    assert with_prior(unsure, np.array([0.1, 0.9])).argmax() == 1
