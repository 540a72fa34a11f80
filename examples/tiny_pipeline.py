"""A text-to-image pipeline as small as can be, of the same parts as Stable Diffusion: to try out, not for beauty."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.models import to_tensor
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE_PX = 8
TOKENS = 8
BATCH = 32
LEARNING_RATE = 2e-3


def save_tiny_pipeline(folder: Path, seed: int = 0) -> None:
    """An untrained one, with safetensors: what it draws is noise."""
    untrained(seed).save_pretrained(folder, safe_serialization=True)


def untrained(seed: int = 0) -> StableDiffusionPipeline:
    letters = string.ascii_lowercase + string.digits + " -_"
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StableDiffusionPipeline(
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokens),
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=TOKENS,
                    bos_token_id=len(tokens) - 2,
                    eos_token_id=len(tokens) - 1,
                    pad_token_id=len(tokens) - 1,
                )
            ),
            tokenizer=CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TOKENS),
            vae=AutoencoderKL(
                block_out_channels=(16,),
                down_block_types=("DownEncoderBlock2D",),
                up_block_types=("UpDecoderBlock2D",),
                mid_block_add_attention=False,
                norm_num_groups=8,
                sample_size=SIDE_PX,
            ),
            unet=UNet2DConditionModel(
                sample_size=SIDE_PX,
                block_out_channels=(16, 32),
                layers_per_block=1,
                down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32,
                attention_head_dim=2,
                norm_num_groups=8,
            ),
            scheduler=DDIMScheduler(
                beta_schedule="squaredcos_cap_v2",
                prediction_type="v_prediction",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def pretrain(pipe: StableDiffusionPipeline, data: Dataset, steps: int, seed: int = 0) -> None:
    """Teach it pictures of 8x8 with their class names, all parts of it: first to code them, then to draw them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shown = to_tensor(data.images, data.space).expand(-1, 3, -1, -1)
        _learn_to_code(pipe.vae, shown, steps)
        with torch.no_grad():
            latents = pipe.vae.encode(shown).latent_dist.mode()
            scale = float(1 / latents.std())
        pipe.vae.register_to_config(scaling_factor=scale)
        _learn_to_draw(pipe, latents * scale, torch.from_numpy(data.labels), data.space.classes, steps)


def _learn_to_code(vae: Any, shown: Tensor, steps: int) -> None:
    adam = torch.optim.AdamW(vae.parameters(), LEARNING_RATE)
    for _ in range(steps):
        batch = shown[torch.randint(len(shown), (BATCH,))]
        coded = vae.encode(batch).latent_dist
        loss = F.mse_loss(vae.decode(coded.sample()).sample, batch) + 1e-5 * coded.kl().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()


def _learn_to_draw(pipe: Any, latents: Tensor, labels: Tensor, names: tuple[str, ...], steps: int) -> None:
    prompts = pipe.tokenizer([*names, ""], padding="max_length", max_length=TOKENS, return_tensors="pt").input_ids
    noising = DDPMScheduler.from_config(pipe.scheduler.config)
    adam = torch.optim.AdamW([*pipe.unet.parameters(), *pipe.text_encoder.parameters()], LEARNING_RATE)
    for turn in range(steps):
        adam.param_groups[0]["lr"] = LEARNING_RATE * (1.02 - turn / steps)
        chosen = torch.randint(len(latents), (BATCH,))
        asked = labels[chosen].masked_fill(torch.rand(BATCH) < 0.1, len(names))
        noise, times = torch.randn(BATCH, *latents.shape[1:]), torch.randint(1000, (BATCH,))
        noisy = noising.add_noise(latents[chosen], noise, times)
        said = pipe.unet(noisy, times, pipe.text_encoder(prompts)[0][asked], return_dict=False)[0]
        loss = F.mse_loss(said, noising.get_velocity(latents[chosen], noise, times))
        adam.zero_grad()
        loss.backward()
        adam.step()
