import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled
from meshlore.knowledge.builtin import digits
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.metrics import accuracy
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import FitSettings, fit_classifier, fit_private, shift

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def train():
    return digits("train")


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_a_small_network_learns_digits(train):
    rest, validation = train.tuning_split()
    model = build_model("cnn-small", rest.space, seed=0)
    trained = fit_classifier(model, rest, steps=200, seed=0, settings=FitSettings(learning_rate=2e-3))
    assert accuracy(logits(trained, validation.images, train.space), validation.labels) > 0.93
    assert not trained.training


def test_the_model_given_stays_as_it_was(train):
    model = build_model("mlp", train.space, seed=0)
    before = weights(model).clone()
    trained = fit_classifier(model, train, steps=3, seed=0)
    assert torch.equal(weights(model), before)
    assert not torch.equal(weights(trained), before)


def test_equal_seeds_give_equal_models_whatever_happens_meanwhile(train):
    model = build_model("mlp", train.space, seed=0)
    first = fit_classifier(model, train, steps=4, seed=3)
    second = fit_classifier(model, train, steps=4, seed=3, step=lambda _: torch.rand(7))
    third = fit_classifier(model, train, steps=4, seed=4)
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(third))


def test_every_step_reports_the_fraction_done(train):
    seen = []
    fit_classifier(build_model("mlp", train.space, seed=0), train, steps=4, seed=0, step=seen.append)
    assert seen == [0.25, 0.5, 0.75, 1.0]


def test_training_ends_at_once_when_cancelled(train):
    seen = []

    def cancel(fraction):
        seen.append(fraction)
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        fit_classifier(build_model("mlp", train.space, seed=0), train, steps=100, seed=0, step=cancel)
    assert len(seen) == 1


def test_urgent_work_may_use_the_model_that_is_being_replaced(train):
    model = build_model("cnn-small", train.space, seed=0)
    answers = []
    fit_classifier(
        model,
        train,
        steps=3,
        seed=0,
        step=lambda _: answers.append(logits(model, train.images[:5], train.space)),
    )
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


def test_one_sample_and_one_class_are_enough_not_to_crash():
    space = Space((3, 12, 9), ("a", "b"))
    data = Dataset(space, np.zeros((1, 3, 12, 9), np.uint8), np.zeros(1, np.int64))
    fit_classifier(build_model("resnet-tiny", space, seed=0), data, steps=2, seed=0)


def test_of_one_class_alone_nothing_is_learned_that_lessons_would_have_to_undo(train):
    model = build_model("cnn-medium", train.space, seed=0)
    one, two = (fit_private(model, train.select_classes(classes), steps=3, seed=0) for classes in ("7", "78"))
    assert torch.equal(weights(one), weights(model))
    assert one is not model
    assert not one.training
    assert not torch.equal(weights(two), weights(model))
    with pytest.raises(ValueError, match="at least one sample"):
        fit_private(model, train.subset(np.arange(0)), steps=3, seed=0)


def test_no_samples_is_the_callers_mistake(train):
    nothing = train.subset(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="at least one sample"):
        fit_classifier(build_model("mlp", train.space, seed=0), nothing, steps=2, seed=0)


def test_a_shift_moves_each_image_by_whole_pixels_over_a_dark_edge():
    images = torch.full((50, 2, 8, 6), -1.0)
    images[:, 0, 4, 3], images[:, 1, 4, 3] = 1.0, 0.5
    moved = shift(images, 1, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    places = (moved[:, 0] == 1.0).nonzero()
    assert len(places) == 50
    assert set(map(tuple, places[:, 1:].tolist())) == {(row, column) for row in (3, 4, 5) for column in (2, 3, 4)}
    torch.testing.assert_close(moved[:, 1], torch.where(moved[:, 0] == 1.0, 0.5, -1.0))
