"""Learning on another device than the CPU: a real GPU where there is one, one that is made believe elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from meshlore.errors import ConfigError
from meshlore.knowledge.augment import Views
from meshlore.knowledge.condense import CondenseSettings, condense
from meshlore.knowledge.device import CPU, choose_device
from meshlore.knowledge.distil import DistilSettings, distil
from meshlore.knowledge.flow import FlowSettings
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.lessons import assemble
from meshlore.knowledge.models import build_model, logits
from meshlore.knowledge.packet import SamplePacket
from meshlore.knowledge.sources import load
from meshlore.knowledge.training import fit_classifier
from meshlore.knowledge.trust import Verdict
from two_devices import GPU, TwoDevices

torch.set_num_threads(1)  # as the compute lane does; more threads are slower on images this small

DATA, ROWS = load("digits").dataset.subset(np.arange(120)), load("wine").dataset
SPACE = DATA.space
LIVELY = Views(15, 0.2, 0.1, 0.3, 0.5, 0.9)
Values = list[np.ndarray]


def weights(model: torch.nn.Module) -> Values:
    return [value.numpy() for value in model.state_dict().values()]


def fitting(device: torch.device) -> Values:
    return weights(fit_classifier(build_model("cnn-small", SPACE, 0), DATA, steps=2, seed=0, device=device))


def condensing(device: torch.device) -> Values:
    settings = CondenseSettings(per_class=3, iterations=3, views=LIVELY)
    return [condense(DATA, settings=settings, seed=0, device=device).images]


def condensing_rows(device: torch.device) -> Values:
    return [condense(ROWS, settings=CondenseSettings(per_class=3, iterations=2), seed=0, device=device).images]


def distilling(device: torch.device) -> Values:
    model = build_model("cnn-small", SPACE, 0)
    counts = np.full(SPACE.num_classes, 12)
    said = logits(model, DATA.images, SPACE).astype(np.float16)
    packet = SamplePacket(SPACE.id, "condensed", DATA.images, DATA.labels, said, counts)
    lessons = assemble({"1" * 64: ("ben", packet)}, [], {"ben": Verdict(1.0, "trusted")}, SPACE)
    settings = DistilSettings(steps=2, views=LIVELY)
    return weights(distil(model, DATA, lessons, settings=settings, seed=0, device=device))


def generating(device: torch.device, network: str = "mlp") -> Values:
    settings = replace(FlowSettings.for_space(SPACE, network), width=16, batch_size=4)
    made = fit_generator(DATA.images, DATA.labels, SPACE, settings=settings, steps=2, seed=0, device=device)
    return [*(value.numpy() for value in made.state().values()), made.sample(np.arange(4), seed=0)]


def generating_with_a_unet(device: torch.device) -> Values:
    return generating(device, "unet")


WORKS = (fitting, condensing, condensing_rows, distilling, generating, generating_with_a_unet)


@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_nothing_is_left_on_the_cpu_by_mistake_and_all_comes_back_there(work: Callable[..., Values]) -> None:
    with TwoDevices() as devices:
        found = work(GPU)
    assert devices.operations > 10
    for one, other in zip(found, work(CPU), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device on this machine")
@pytest.mark.parametrize("work", WORKS, ids=lambda work: work.__name__)
def test_a_real_gpu_comes_to_nearly_the_same(work: Callable[..., Values]) -> None:
    for one, other in zip(work(torch.device("cuda")), work(CPU), strict=True):
        assert np.abs(one.astype(np.float64) - other).mean() < 0.05 * (np.abs(other).mean() + 1)


def test_mixing_devices_is_noticed() -> None:
    with TwoDevices(), pytest.raises(RuntimeError, match="same device: add"):
        torch.ones(2).to(GPU).add(torch.ones(2))


@pytest.mark.parametrize(
    ("wanted", "there", "chosen"),
    [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu"), ("cuda", True, "cuda")],
)
def test_a_gpu_is_used_where_there_is_one_unless_forbidden(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert choose_device(wanted).type == chosen


def test_a_gpu_that_is_asked_for_and_missing_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="finds no CUDA device") as error:
        choose_device("cuda")
    assert "auto" in error.value.remedy
