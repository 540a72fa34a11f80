"""A folder with a text-to-image pipeline as diffusers saves it, looked through before anything of it is loaded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..errors import ModelError

MODEL_INDEX = "model_index.json"
KIND = "StableDiffusionPipeline"
PARTS = {
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
}
LIBRARIES = ("diffusers", "transformers", "stable_diffusion", None)
PICKLES = frozenset((".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"))
SMALL_BYTES = 1 << 20
REMEDY = "name a folder that StableDiffusionPipeline.save_pretrained wrote"


def check_pipeline(folder: Path) -> None:
    """Nothing is loaded and nothing of it is run.

    Raises:
        ModelError: no such folder, no pipeline or one of another kind, a part is missing, or there is code or
            a pickle in it.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}", REMEDY)
    index = _index(folder / MODEL_INDEX)
    kind = index.get("_class_name")
    if kind != KIND:
        raise ModelError(f"{folder} holds a {str(kind)[:60]}, not a {KIND}", REMEDY)
    for name, part in index.items():
        if isinstance(part, list) and (len(part) != 2 or part[0] not in LIBRARIES):
            raise ModelError(f"{folder}: its {name} is made by code of its own, {str(part)[:80]}", REMEDY)
    for name, wanted in PARTS.items():
        found = index.get(name)
        if not isinstance(found, list) or str(found[1]).removesuffix("Fast") != wanted:
            raise ModelError(f"{folder}: its {name} is {str(found)[:80]}, not a {wanted}", REMEDY)
        if not (folder / name).is_dir():
            raise ModelError(f"{folder} lacks the part {name}", REMEDY)
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICKLES:
            raise ModelError(
                f"{path} is a pickle, which may run code when it is read",
                "delete it if its weights are there as .safetensors too, or save the pipeline again with "
                "safe_serialization=True",
            )
        if path.suffix.lower() == ".py":
            raise ModelError(f"{path} is code", REMEDY)


def fingerprint(folder: Path) -> bytes:
    """32 bytes that differ where pipelines do: of every small file's content, of a large one's size and beginning."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            beginning = file.read(SMALL_BYTES)
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
        digest.update(hashlib.sha256(beginning).digest())
    return digest.digest()


def _index(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes()[:SMALL_BYTES])
    except FileNotFoundError:
        raise ModelError(f"{path.parent} is no pipeline: it has no {path.name}", REMEDY) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({str(error)[:100]})", REMEDY) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no list of parts", REMEDY)
    return value
