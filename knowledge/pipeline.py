"""A text-to-image diffusion pipeline from a folder, adapted with LoRA to what the mesh sent.

The pipeline stays as it is on the disk. What is learned is a low-rank matrix beside each attention matrix of its
UNet (Hu et al., ICLR 2022, arXiv 2106.09685), trained to predict the noise in the VAE's latents of the samples
(Rombach et al., CVPR 2022, arXiv 2112.10752) given the class name as the prompt.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..errors import ConfigError, ModelError
from .data import Images, Labels
from .device import CPU
from .flow import from_diffusers
from .generators import Generator
from .models import to_images, to_tensor
from .pipeline_folder import check_pipeline, fingerprint
from .resuming import Checkpoint, Optimisation, turns
from .space import Space
from .training import Step, cosine

USUAL_STEPS = 400
AT_ONCE = 8
GUIDANCE = 4.0
WITHOUT_PROMPT = 0.1  # share of the batch that learns to draw anything, as guidance needs
ADAPTED = ["to_q", "to_k", "to_v", "to_out.0"]
LEARNING, DRAWING = "learning", "drawing"
TARGETS = ("epsilon", "v_prediction")
Lora = dict[str, Tensor]


@dataclass(frozen=True)
class PipelineSettings:
    """``prompt`` has {} where the class name goes; ``rank`` is that of the matrices; ``draw_steps``: of denoising."""

    prompt: str = "{}"
    rank: int = 4
    learning_rate: float = 1e-4
    batch_size: int = 4
    draw_steps: int = 20


class AdaptedPipeline:
    """A `Generator`: a shared pipeline, and the matrices that adapt it. All classes can be asked for, by name."""

    def __init__(self, space: Space, pipeline: Pipeline, lora: Lora) -> None:
        self.space = space
        self.lora = lora
        self._pipeline = pipeline
        self._last: tuple[tuple[bytes, int], Images] | None = None

    def sample(self, labels: Labels, *, seed: int) -> Images:
        wanted = labels.tobytes(), seed
        # drawing takes long, and what a node can do is measured again and again by the same drawings
        if self._last is None or self._last[0] != wanted:
            names = [self.space.classes[label] for label in labels]
            self._last = wanted, self._pipeline.draw(self.lora, names, self.space, seed)
        return self._last[1].copy()

    def state(self) -> dict[str, Tensor]:
        base = torch.frombuffer(bytearray(self._pipeline.fingerprint), dtype=torch.uint8)
        return {"base": base} | {f"lora.{name}": value.clone() for name, value in self.lora.items()}

    def grown(self, space: Space) -> AdaptedPipeline:
        return AdaptedPipeline(space, self._pipeline, self.lora)


class Pipeline:
    """A `GeneratorKind`: one loaded pipeline, which all generators made of it share. For one thread at a time.

    Args:
        folder: as `diffusers.StableDiffusionPipeline.save_pretrained` writes it, with safetensors.
        device: where it learns, and draws too.

    Raises:
        ModelError: the folder holds no such pipeline, or samples of ``space`` are no images.
        ConfigError: the extra is not installed.
    """

    def __init__(self, folder: Path, space: Space, settings: PipelineSettings, device: torch.device = CPU) -> None:
        if space.is_table:
            raise ModelError("a pipeline draws images, and this mesh has tables", "leave pipeline.folder out")
        check_pipeline(folder)
        self.fingerprint = fingerprint(folder)
        self._settings = settings
        self._device = device
        self._pipe = _load(folder).to(device, torch.float32)
        try:
            _adapt(self._pipe.unet, settings.rank)
            self._try()
        except Exception as error:
            raise ModelError(f"{folder}: its parts do not fit together ({_one_line(error)})", "save it anew") from error

    def fit(
        self,
        images: Images,
        labels: Labels,
        weights: NDArray[np.float32],
        space: Space,
        start: Generator | None,
        *,
        steps: int,
        seed: int,
        step: Step,
        checkpoint: Checkpoint | None,
    ) -> AdaptedPipeline:
        """As `GeneratorKind.fit`; it goes on from ``start``."""
        settings, steps, unet = self._settings, steps or USUAL_STEPS, self._pipe.unet
        random = torch.Generator().manual_seed(seed)
        latents = self._latents(images, space)
        prompts = self._prompts([*map(self._prompt, space.classes), ""])
        truth = torch.from_numpy(np.ascontiguousarray(labels)).long()
        trust = torch.from_numpy(np.ascontiguousarray(weights)).float()
        counts = torch.bincount(truth[trust > 0], minlength=space.num_classes)
        chance = trust * counts[truth].clamp(min=1).float() ** -0.5
        drawn = torch.multinomial(chance, settings.batch_size * steps, replacement=True, generator=random)
        chosen = drawn.view(steps, settings.batch_size)
        _wear(unet, LEARNING, start.lora if isinstance(start, AdaptedPipeline) else self._untrained(random))
        learned = [weight for weight in unet.parameters() if weight.requires_grad]
        adam = torch.optim.AdamW(learned, lr=settings.learning_rate, weight_decay=1e-2)
        noising = from_diffusers("DDPMScheduler").from_config(self._pipe.scheduler.config)
        moved = Optimisation(learned, adam, random)
        work = (latents, truth, chosen, "\n".join(space.classes), self.fingerprint.hex(), repr(settings))
        for turn in turns(steps, moved, checkpoint, *work):
            adam.param_groups[0]["lr"] = cosine(turn / steps, settings.learning_rate, floor=0.05)
            clean = latents[chosen[turn]].to(self._device)
            asked = truth[chosen[turn]].masked_fill(torch.rand(len(clean), generator=random) < WITHOUT_PROMPT, -1)
            noise = torch.randn(clean.shape, generator=random).to(self._device)
            times = torch.randint(len(noising.alphas_cumprod), (len(clean),), generator=random).to(self._device)
            noisy = noising.add_noise(clean, noise, times)
            predicted = unet(noisy, times, prompts[asked], return_dict=False)[0]
            loss = F.mse_loss(predicted, _target(noising, clean, noise, times))
            adam.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            adam.step()
            step((turn + 1) / steps)
        return AdaptedPipeline(space, self, _taken_off(unet))

    def unadapted(self, space: Space) -> AdaptedPipeline:
        """The pipeline as it is in its folder."""
        return AdaptedPipeline(space, self, self._untrained(torch.Generator().manual_seed(0)))

    def restore(self, state: Mapping[str, Tensor], space: Space) -> AdaptedPipeline | None:
        """None also when it was made with another pipeline or rank."""
        lora = {name.removeprefix("lora."): value for name, value in state.items() if name.startswith("lora.")}
        shapes = {name: value.shape for name, value in _taken_off(self._pipe.unet).items()}
        same_base = "base" in state and bytes(state["base"].tolist()) == self.fingerprint
        if not same_base or {name: value.shape for name, value in lora.items()} != shapes:
            return None
        return AdaptedPipeline(space, self, lora)

    @torch.no_grad()
    def draw(self, lora: Lora, classes: Sequence[str], space: Space, seed: int) -> Images:
        """One image uint8 (n, c, h, w) per class name."""
        random = torch.Generator().manual_seed(seed)
        parts = [np.zeros((0, *space.shape), np.uint8)]
        with _drawing(self._pipe.unet, lora):
            for at in range(0, len(classes), AT_ONCE):
                drawn = self._pipe(
                    prompt=[self._prompt(name) for name in classes[at : at + AT_ONCE]],
                    num_inference_steps=self._settings.draw_steps,
                    guidance_scale=GUIDANCE,
                    generator=random,
                    output_type="pt",
                ).images
                parts.append(_fitted(drawn.float().cpu() * 2 - 1, space))
        return np.concatenate(parts)

    def _prompt(self, name: str) -> str:
        return self._settings.prompt.replace("{}", name)

    @torch.no_grad()
    def _latents(self, images: Images, space: Space) -> Tensor:
        """The samples as the VAE codes them, float32 (n, channels, height, width), on the CPU."""
        vae, side = self._pipe.vae, self._pipe.unet.config.sample_size * self._pipe.vae_scale_factor
        parts = []
        for at in range(0, len(images), AT_ONCE):
            shown = to_tensor(images[at : at + AT_ONCE], space).expand(-1, 3, -1, -1)
            large = F.interpolate(shown, (side, side), mode="bilinear", antialias=True)
            parts.append(vae.encode(large.to(self._device)).latent_dist.mode().cpu() * vae.config.scaling_factor)
        return torch.cat(parts)

    @torch.no_grad()
    def _prompts(self, texts: Sequence[str]) -> Tensor:
        """What the text encoder makes of prompts, float32 (n, tokens, d)."""
        pipe = self._pipe
        tokens = pipe.tokenizer(
            list(texts),
            padding="max_length",
            max_length=pipe.tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        encoded: Tensor = pipe.text_encoder(tokens.to(self._device))[0]
        return encoded

    def _untrained(self, random: torch.Generator) -> Lora:
        """Matrices that change nothing yet: one factor is noise, the other 0."""
        blank = _taken_off(self._pipe.unet)
        return {
            name: torch.randn(value.shape, generator=random) / self._settings.rank
            if ".lora_A." in name
            else torch.zeros_like(value)
            for name, value in blank.items()
        }

    @torch.no_grad()
    def _try(self) -> None:
        """One forward pass through all parts, on latents of 8x8. Raises whatever they do when they do not fit."""
        pipe = self._pipe
        if pipe.scheduler.config.prediction_type not in TARGETS:
            raise ValueError(f"its scheduler predicts {pipe.scheduler.config.prediction_type}")
        if not isinstance(pipe.unet.config.sample_size, int):
            raise ValueError(f"its UNet draws {pipe.unet.config.sample_size}, no square")
        latents = torch.zeros(1, pipe.vae.config.latent_channels, 8, 8, device=self._device)
        noise = pipe.unet(latents, 1, self._prompts([""]), return_dict=False)[0]
        pipe.vae.decode(latents + noise, return_dict=False)


def _load(folder: Path) -> Any:
    try:
        import peft  # noqa: F401
        import transformers
    except ImportError as error:
        raise ConfigError(f"a pipeline needs the package {error.name}", "pip install 'meshlore[pipelines]'") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    diffusers_logging = from_diffusers("utils").logging
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    try:
        pipe = from_diffusers("DiffusionPipeline").from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:
        raise ModelError(f"the pipeline in {folder} cannot be loaded ({_one_line(error)})", "save it anew") from error
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _adapt(unet: Any, rank: int) -> None:
    """Put two sets of matrices beside the attention: while the one learns, an older one can draw."""
    from peft import LoraConfig

    unet.requires_grad_(False).eval()
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there are two is meant
        for name in (DRAWING, LEARNING):
            unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED), name)


def _wear(unet: Any, name: str, lora: Lora) -> None:
    from peft import set_peft_model_state_dict

    set_peft_model_state_dict(unet, lora, adapter_name=name)
    unet.set_adapter(name)


def _taken_off(unet: Any) -> Lora:
    """A copy of the matrices that learn, on the CPU."""
    from peft import get_peft_model_state_dict

    return {name: value.cpu().clone() for name, value in get_peft_model_state_dict(unet, adapter_name=LEARNING).items()}


@contextlib.contextmanager
def _drawing(unet: Any, lora: Lora) -> Iterator[None]:
    """Draw with these matrices; those that learn are back afterwards, as drawing may fall between two steps."""
    _wear(unet, DRAWING, lora)
    try:
        yield
    finally:
        unet.set_adapter(LEARNING)


def _target(noising: Any, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    if noising.config.prediction_type == "epsilon":
        return noise
    velocity: Tensor = noising.get_velocity(clean, noise, times)
    return velocity


def _fitted(drawn: Tensor, space: Space) -> Images:
    """Images float32 (n, 3, h, w) in [-1, 1] as samples of the space."""
    small = F.interpolate(drawn, (space.height, space.width), mode="bilinear", antialias=True)
    return to_images(small if space.channels == 3 else small.mean(dim=1, keepdim=True), space)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
