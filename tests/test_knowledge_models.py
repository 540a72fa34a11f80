import sys

import numpy as np
import pytest
import torch
from meshlore.errors import ModelError
from meshlore.knowledge.models import (
    MODELS,
    build_model,
    logits,
    to_images,
    to_tensor,
)
from meshlore.knowledge.space import Space

torch.set_num_threads(1)
DIGITS = Space((1, 8, 8), tuple("0123456789"), levels=17)
SHAPES = [(1, 8, 8), (3, 9, 13), (1, 28, 28), (3, 64, 64), (1, 8, 64)]

FACTORIES = """
import torch
from torch import nn

class Flat(nn.Module):
    def __init__(self, features, classes, after):
        super().__init__()
        self.linear, self.after = nn.Linear(features, classes), after
    def forward(self, images):
        return self.after(self.linear(images.flatten(1)))

def flat(after, extra=0):
    return lambda space: Flat(space.channels * space.height * space.width, space.num_classes + extra, after)

good = flat(lambda logits: logits)
too_many = flat(lambda logits: logits, extra=3)
transposed = flat(lambda logits: logits.T)
squeezed = flat(torch.squeeze)
detached = flat(torch.Tensor.detach)
rounded = flat(torch.round)
double = flat(torch.Tensor.double)
pair = flat(lambda logits: (logits, logits))
infinite = flat(lambda logits: logits / 0)
def not_a_model(space): return 3
def no_space(): return nn.Identity()
def fails(space): raise KeyError("some\\nthing")
with_batch_norm = lambda space: nn.Sequential(nn.BatchNorm2d(space.channels), good(space))
untrainable = lambda space: good(space).requires_grad_(False)
constant = 5
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(FACTORIES)
    (tmp_path / "broken_models.py").write_text("import no_such_package_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("own_models", None)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_every_built_in_model_fits_every_space(name, shape):
    space = Space(shape, tuple(map(str, range(7))))
    model = build_model(name, space, seed=0)
    images = np.zeros((2, *shape), dtype=np.uint8)
    assert logits(model, images, space).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_built_in_models_see_each_sample_alone(name):
    model = build_model(name, DIGITS, seed=0).train()
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(model(images)[:1], model(images[:1]), rtol=1e-4, atol=1e-5)


def test_sizes_on_digits_are_as_measured():
    built = {name: build_model(name, DIGITS, seed=0) for name in MODELS}
    sizes = {name: sum(weights.numel() for weights in model.parameters()) for name, model in built.items()}
    assert sizes == {
        "cnn-small": 13_802,
        "cnn-medium": 44_650,
        "cnn-large": 105_546,
        "mlp": 17_226,
        "mlp-large": 167_178,
        "resnet-tiny": 43_870,
        "resnet-small": 307_690,
    }


def test_a_seed_gives_the_same_weights_and_leaves_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_model("cnn-small", DIGITS, seed=1)
    assert torch.equal(torch.rand(3), expected)
    second, other = (build_model("cnn-small", DIGITS, seed=seed) for seed in (1, 2))
    assert torch.equal(first.head.weight, second.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize("name", ["good", "with_batch_norm"])
def test_own_models_are_imported_from_the_current_folder(name):
    model = build_model(f"own_models:{name}", DIGITS, seed=0)
    assert all(parameter.grad is None for parameter in model.parameters())
    if name == "with_batch_norm":
        assert model[0].num_batches_tracked == 0


@pytest.mark.usefixtures("own_code")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own_models:too_many", "returns float32 (3, 13) where float32 (3, 10) is needed"),
        ("own_models:transposed", "returns float32 (10, 3) where float32 (3, 10) is needed"),
        ("own_models:squeezed", "returns float32 (10,) where float32 (1, 10) is needed"),
        ("own_models:double", "returns float64 (3, 10) where float32"),
        ("own_models:detached", "no gradient"),
        ("own_models:rounded", "no gradient"),
        ("own_models:untrainable", "no gradient"),
        ("own_models:pair", "returns a tuple"),
        ("own_models:infinite", "NaN or infinity"),
        ("own_models:not_a_model", "is a int"),
        ("own_models:no_space", "takes 0 positional arguments"),
        ("own_models:fails", "KeyError"),
        ("own_models:constant", "is a int"),
        ("own_models:absent", "has no 'absent'"),
        ("broken_models:model", "no_such_package_at_all"),
        ("no_such_module:model", "no_such_module"),
        ("cnn-huge", "cnn-small"),
        ("own_models:", "package.module:factory"),
        (":good", "package.module:factory"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_in_one_line(name, words):
    with pytest.raises(ModelError) as caught:
        build_model(name, DIGITS, seed=0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_levels_survive_the_way_to_a_tensor_and_back(levels):
    space = Space((1, 8, 8), ("a", "b"), levels=levels)
    images = (np.arange(256 * 64) % levels).astype(np.uint8).reshape(256, 1, 8, 8)
    tensor = to_tensor(images, space)
    assert (tensor.min(), tensor.max()) == (-1, 1)
    np.testing.assert_array_equal(to_images(tensor, space), images)
    assert to_images(tensor * 9, space).max() == levels - 1


def test_logits_do_not_depend_on_the_batch_size_and_keep_the_mode():
    model = build_model("cnn-small", DIGITS, seed=0).train()
    images = np.random.default_rng(0).integers(0, 17, (7, 1, 8, 8), dtype=np.uint8)
    whole, parts = logits(model, images, DIGITS), logits(model, images, DIGITS, batch_size=2)
    np.testing.assert_allclose(whole, parts, atol=1e-5)
    assert whole.dtype == np.float32
    assert model.training
    assert logits(model, images[:0], DIGITS).shape == (0, 10)
