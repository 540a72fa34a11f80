"""A diffusers pipeline from a folder, adapted with LoRA: the real loading and training code on a tiny pipeline."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from meshlore.errors import Cancelled, ConfigError, ModelError
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.pipeline import AdaptedPipeline, Pipeline, PipelineSettings
from meshlore.knowledge.pipeline_folder import check_pipeline, fingerprint
from meshlore.knowledge.sources import load
from meshlore.knowledge.space import Space
from tiny_pipeline import save_tiny_pipeline

SPACE = Space((1, 8, 8), ("0", "1"), levels=17)
HOW = PipelineSettings(rank=2, learning_rate=2e-2, batch_size=8, draw_steps=2)
ONES = np.ones(40, np.float32)

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    save_tiny_pipeline(folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Pipeline:
    return Pipeline(folder, SPACE, HOW)


@pytest.fixture(scope="module")
def data() -> Dataset:
    digits = load("digits").dataset.select_classes("01")
    return Dataset(SPACE, digits.images[:40], digits.labels[:40])


def fitted(pipeline: Pipeline, data: Dataset, steps: int = 3, start: AdaptedPipeline | None = None, **more):
    how = {"steps": steps, "seed": 0, "step": lambda _: None, "checkpoint": None, **more}
    return pipeline.fit(data.images, data.labels, ONES, SPACE, start, **how)


def loss_of(pipeline: Pipeline, generator: AdaptedPipeline, data: Dataset) -> float:
    """What the training lowers, for noise of its own, at one moment in the middle."""
    from meshlore.knowledge.pipeline import LEARNING, _wear

    unet, random = pipeline._pipe.unet, torch.Generator().manual_seed(9)
    latents, prompts = pipeline._latents(data.images, SPACE), pipeline._prompts(SPACE.classes)
    times = torch.full((len(latents),), 500)
    noise = torch.randn(latents.shape, generator=random)
    scheduler = pipeline._pipe.scheduler
    _wear(unet, LEARNING, generator.lora)
    with torch.no_grad():
        noisy = scheduler.add_noise(latents, noise, times)
        said = unet(noisy, times, prompts[torch.from_numpy(data.labels)], return_dict=False)[0]
    return float((said - scheduler.get_velocity(latents, noise, times)).square().mean())


def test_adapting_learns_and_leaves_the_pipeline_itself_alone(pipeline: Pipeline, data: Dataset) -> None:
    unet = pipeline._pipe.unet
    base = {name: value.clone() for name, value in unet.state_dict().items() if "lora" not in name}
    before = pipeline.unadapted(SPACE)
    after = fitted(pipeline, data, steps=40)
    assert loss_of(pipeline, after, data) < 0.95 * loss_of(pipeline, before, data)
    assert all(torch.equal(value, unet.state_dict()[name]) for name, value in base.items())
    assert sum(value.numel() for value in after.lora.values()) < 0.1 * sum(value.numel() for value in base.values())


def test_it_draws_samples_of_the_space_and_repeats_with_the_seed(pipeline: Pipeline) -> None:
    generator, labels = pipeline.unadapted(SPACE), np.array([0, 1, 1])
    drawn = generator.sample(labels, seed=1)
    assert (drawn.shape, drawn.dtype, drawn.max() <= 16) == ((3, 1, 8, 8), np.uint8, True)
    assert np.array_equal(drawn, generator.sample(labels, seed=1))
    assert not np.array_equal(drawn, generator.sample(labels, seed=2))
    assert generator.sample(labels[:0], seed=0).shape == (0, 1, 8, 8)


def test_the_class_name_is_the_prompt(pipeline: Pipeline) -> None:
    generator = pipeline.unadapted(SPACE)
    zero, one = (generator.sample(np.array([label]), seed=1) for label in (0, 1))
    assert not np.array_equal(zero, one)
    assert pipeline.unadapted(Space((1, 8, 8), ("1", "0"), levels=17)).sample(np.array([0]), seed=1).tolist() == (
        one.tolist()
    )


def test_it_comes_back_from_its_state(pipeline: Pipeline, folder: Path, data: Dataset) -> None:
    made = fitted(pipeline, data)
    back = Pipeline(folder, SPACE, HOW).restore(made.state(), SPACE)
    labels = np.array([0, 1])
    assert back is not None
    assert np.array_equal(back.sample(labels, seed=3), made.sample(labels, seed=3))
    assert np.array_equal(made.grown(SPACE.grown(["2"])).sample(labels, seed=3), made.sample(labels, seed=3))


def test_a_state_of_another_pipeline_rank_or_kind_is_not_taken_up(
    pipeline: Pipeline, folder: Path, data: Dataset, tmp_path: Path
) -> None:
    state = pipeline.unadapted(SPACE).state()
    save_tiny_pipeline(tmp_path / "other", seed=1)
    assert Pipeline(tmp_path / "other", SPACE, HOW).restore(state, SPACE) is None
    assert Pipeline(folder, SPACE, PipelineSettings(rank=3)).restore(state, SPACE) is None
    assert pipeline.restore({"codec.mean": torch.zeros(64)}, SPACE) is None


def test_fitting_repeats_with_the_seed_and_goes_on_from_an_earlier_one(pipeline: Pipeline, data: Dataset) -> None:
    before = torch.random.get_rng_state()
    first, again = fitted(pipeline, data), fitted(pipeline, data)
    further = fitted(pipeline, data, steps=1, start=first)
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first.lora[name], again.lora[name]) for name in first.lora)
    nearer = {name: (further.lora[name] - value).norm() < value.norm() for name, value in first.lora.items()}
    assert all(moved for name, moved in nearer.items() if ".lora_A." in name)


def test_a_task_served_between_two_steps_draws_with_the_old_and_disturbs_nothing(
    pipeline: Pipeline, data: Dataset
) -> None:
    old = fitted(pipeline, data, steps=2)
    alone, labels = fitted(pipeline, data, steps=4), np.array([0, 1])
    expected, drawn = old.sample(labels, seed=5), []
    served = fitted(pipeline, data, steps=4, step=lambda _: drawn.append(old.sample(labels, seed=5)))
    assert all(np.array_equal(images, expected) for images in drawn)
    assert all(torch.equal(value, alone.lora[name]) for name, value in served.lora.items())


class Memory:
    """A checkpoint that keeps the last save."""

    def __init__(self) -> None:
        self.saved: dict[str, object] = {}

    def load(self, work: str):
        return self.saved.get(work)

    def due(self) -> bool:
        return True

    def save(self, work: str, state) -> None:
        self.saved = {work: {name: value.clone() for name, value in state.items()}}

    def clear(self) -> None:
        self.saved = {}


def test_training_that_was_interrupted_goes_on_and_ends_as_if_nothing_had_happened(
    pipeline: Pipeline, data: Dataset
) -> None:
    def stop(fraction: float) -> None:
        if fraction >= 0.75:
            raise Cancelled("stopped")

    memory, told = Memory(), []
    whole = fitted(pipeline, data, steps=4)
    with pytest.raises(Cancelled):
        fitted(pipeline, data, steps=4, step=stop, checkpoint=memory)
    resumed = fitted(pipeline, data, steps=4, step=told.append, checkpoint=memory)
    assert told == [0.75, 1.0]
    assert all(torch.equal(value, whole.lora[name]) for name, value in resumed.lora.items())
    assert memory.saved == {}


def edited(folder: Path, tmp_path: Path, **changes: object) -> Path:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | changes))
    return copy


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no folder"):
        check_pipeline(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"it has no model_index\.json"):
        check_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        check_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "FluxPipeline"}, "holds a FluxPipeline, not a StableDiffusionPipeline"),
        ({"unet": ["diffusers", "UNet2DModel"]}, "not a UNet2DConditionModel"),
        ({"vae": [None, None]}, "not a AutoencoderKL"),
        ({"scheduler": ["my_module", "MyScheduler"]}, "made by code of its own"),
    ],
)
def test_a_pipeline_of_another_kind_is_refused(folder: Path, tmp_path: Path, changes: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        check_pipeline(edited(folder, tmp_path, **changes))


@pytest.mark.parametrize(
    ("name", "message"), [("unet/diffusion_pytorch_model.bin", "is a pickle"), ("unet/model.py", "is code")]
)
def test_a_folder_with_a_pickle_or_code_is_refused_and_nothing_is_read(
    folder: Path, tmp_path: Path, name: str, message: str
) -> None:
    copy = edited(folder, tmp_path)
    (copy / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/never'\ntR.")
    with pytest.raises(ModelError, match=message):
        Pipeline(copy, SPACE, HOW)


def test_damaged_weights_and_parts_that_do_not_fit_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    copy = edited(folder, tmp_path)
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match="cannot be loaded") as error:
        Pipeline(copy, SPACE, HOW)
    assert "\n" not in str(error.value)
    weights.write_bytes(whole)
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": "sample"}))
    with pytest.raises(ModelError, match="its scheduler predicts sample"):
        Pipeline(copy, SPACE, HOW)


def test_tables_are_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match="draws images"):
        Pipeline(folder, load("wine").dataset.space, HOW)


def test_without_the_extra_one_line_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'meshlore\[pipelines\]'"):
        Pipeline(folder, SPACE, HOW)


def test_a_fingerprint_tells_pipelines_apart(folder: Path, tmp_path: Path) -> None:
    copy = edited(folder, tmp_path)
    assert fingerprint(edited(folder, tmp_path / "b")) == fingerprint(copy)
    (copy / "unet" / "config.json").write_text("{}")
    assert fingerprint(copy) != fingerprint(folder)
