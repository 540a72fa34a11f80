"""The audits: they find what leaks, and nothing where there is nothing to find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from meshlore.errors import DataError, SecurityError
from meshlore.knowledge.audit import (
    area_under_curve,
    guess,
    least_epsilon,
    mislabelled,
    one_run_statistics,
    true_positive_rate,
)
from meshlore.knowledge.builtin import digits
from meshlore.knowledge.private import measure
from meshlore.node import audit as node_audit
from meshlore.node.audit import COPIES, FORGOTTEN, AuditOptions, audit, in_words
from meshlore.node.settings import Learning, Privacy

torch.set_num_threads(1)

pytest.importorskip("dp_accounting", reason="pip install 'meshlore[privacy]'")

BRIEF = Learning(classifier_steps=30, condense_steps=2, distil_steps=30, samples_per_class=8)


def options(mode: str, records: int = 100) -> AuditOptions:
    return AuditOptions("digits", Privacy(mode=mode), records=records, publications=4, learning=BRIEF)


def test_membership_finds_published_copies_and_hardly_anything_in_dp_mode():
    found = audit("membership", options("dp"))
    assert found["able"]
    assert found["results"][COPIES]["auc"] > 0.95
    assert found["results"][COPIES]["tpr"][0.01] > 0.5
    assert found["results"]["dp"]["samples"] > 0
    assert 0.4 < found["results"]["dp"]["auc"] < 0.6
    assert "AUC" in in_words(found)[0]


def test_one_run_finds_copies_and_a_forgotten_noise_and_stays_under_the_promise():
    found = audit("one-run", options("dp", records=200))
    assert found["able"]
    assert found["results"][COPIES]["epsilon"] > 2
    assert found["results"][FORGOTTEN]["epsilon"] > 1
    assert found["results"]["dp"]["epsilon"] <= found["results"]["statistics"]["epsilon"] + 1 <= 4.0 + 1
    assert found["results"]["statistics"]["epsilon"] < 4.0
    assert "not refuted" in " ".join(in_words(found))


def test_a_promise_that_is_not_kept_is_refuted(monkeypatch):
    monkeypatch.setattr(node_audit, "_noise", lambda privacy: 1e-3)
    strict = AuditOptions("digits", Privacy(mode="dp", epsilon=0.5), records=200, learning=BRIEF)
    with pytest.raises(SecurityError, match="refutes the promise"):
        audit("one-run", strict)


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_of_the_statistics_grows_as_their_noise_falls(seed):
    data = digits("train")
    canaries, base = mislabelled(data.subset(np.arange(300)), seed), data.subset(np.arange(300, 600))

    def bound(noise: float) -> float:
        random = np.random.default_rng(seed)
        return one_run_statistics(base, canaries, lambda d: measure(d, noise, random), delta=1e-5, seed=seed).epsilon

    assert bound(3.73) < 1.0  # epsilon 1
    assert bound(1e-3) > 1.5


def test_coin_tosses_that_nothing_is_known_of_give_no_bound():
    random = np.random.default_rng(0)
    bounds = [guess(random.random(300), random.random(300) < 0.5, 1e-5, tries=1).epsilon for _ in range(40)]
    assert sum(bound > 0 for bound in bounds) <= 5


def test_the_bound_is_that_of_the_paper_for_pure_epsilon():
    # 100 of 100 right: the chance of it is (e^eps / (1 + e^eps))^100, and that is the risk at the bound
    epsilon = least_epsilon(100, 100, 100, 0.0, 0.05)
    assert (1 / (1 + np.exp(-epsilon))) ** 100 == pytest.approx(0.05, rel=1e-3)
    assert least_epsilon(100, 100, 55, 0.0, 0.05) == 0.0
    assert least_epsilon(1000, 500, 480, 1e-5, 0.05) < least_epsilon(1000, 500, 480, 0.0, 0.05)


def test_area_and_rates_are_those_of_known_scores():
    truth = np.array([True, True, False, False])
    assert area_under_curve(np.array([3.0, 2.0, 1.0, 0.0]), truth) == 1.0
    assert area_under_curve(np.array([1.0, 1.0, 1.0, 1.0]), truth) == 0.5
    assert area_under_curve(np.array([0.0, 3.0, 1.0, 2.0]), truth) == 0.5
    scores = np.concatenate([np.arange(100.0), np.arange(100.0) + 50])
    assert true_positive_rate(scores, np.arange(200) >= 100, 0.01) == pytest.approx(0.51)


def test_canaries_have_wrong_labels_of_the_same_classes():
    data = digits("train").select_classes(["1", "4", "7"])
    canaries = mislabelled(data, 0)
    assert not (canaries.labels == data.labels).any()
    assert set(canaries.labels.tolist()) == {1, 4, 7}


def test_too_few_records_are_refused_with_a_number_that_fits():
    with pytest.raises(DataError, match="--records 648"):
        audit("one-run", options("filter", records=5000))
