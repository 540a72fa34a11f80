"""An anchor that draws with a text-to-image pipeline, adapted to what a small mesh has told it.

    python examples/anchor_pipeline.py [--pretrain 600] [--steps 300] [--output runs/anchor_pipeline]

It needs `pip install 'meshlore[pipelines]'`. A tiny pipeline is made on the spot, trained on the digits 0 to 4 and
saved in a folder, as one downloads a big one. Two devices know five digits each and publish synthetic samples. The
anchor, which has no data, adapts the pipeline to them with LoRA; the picture shows each digit before and after.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import meshlore
import numpy as np
import torch
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.sources import load
from meshlore.node.in_process import InProcessMesh, Member
from PIL import Image
from tiny_pipeline import pretrain, untrained

EACH = 6  # drawings of each digit
ZOOM = 6


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pretrain", type=int, default=600, help="steps of making the tiny pipeline")
    parser.add_argument("--steps", type=int, default=300, help="steps of adapting it")
    parser.add_argument("--draw-steps", type=int, default=10, help="denoising steps of a drawing")
    parser.add_argument("--output", type=Path, default=Path("runs/anchor_pipeline"))
    wanted = parser.parse_args()
    torch.set_num_threads(1)

    digits = load("digits").dataset
    folder = wanted.output / "pipeline"
    pipe = untrained()
    pretrain(pipe, digits.select_classes("01234"), wanted.pretrain)
    pipe.save_pretrained(folder, safe_serialization=True)
    print(f"a tiny pipeline that knows the digits 0 to 4: {folder}")
    try:
        before, after = asyncio.run(adapted(digits, folder, wanted.steps, wanted.draw_steps))
    except meshlore.MeshloreError as error:
        print(f"it failed: {error}", file=sys.stderr)
        return error.exit_code
    picture(before, after, digits).save(wanted.output / "drawn.png")
    print(f"each digit, before and after: {wanted.output / 'drawn.png'}")
    return 0


async def adapted(digits: Dataset, folder: Path, steps: int, draw_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """What the anchor draws with the pipeline as it was, and as the mesh has adapted it."""
    # as in an anchor's config.toml
    how = {"folder": str(folder), "rank": 8, "learning_rate": 5e-3, "batch_size": 16, "draw_steps": draw_steps}
    brief = {"classifier_steps": 80, "condense_steps": 20, "distil_steps": 40, "refinements": 0}
    settings = {"pipeline": how, "learning": {**brief, "generator_steps": steps}}
    device = {"learning": {**brief, "generator_steps": 1}}  # the devices themselves draw nothing here
    members = [
        Member("ann", digits.select_classes("02468"), {**device, "seed": 1}),
        Member("ben", digits.select_classes("13579"), {**device, "seed": 2}),
        Member("anchor", None, {**settings, "seed": 3}),
    ]
    labels = np.repeat(np.arange(digits.space.num_classes), EACH)
    with tempfile.TemporaryDirectory() as homes:
        async with InProcessMesh(digits.space, members, Path(homes)) as mesh:
            await mesh.settle(600)
            anchor = mesh.nodes[-1]
            generator = anchor.skills.generator
            before = anchor.learner.generators.unadapted(digits.space)
            return before.sample(labels, seed=0), generator.sample(labels, seed=0)


def picture(before: np.ndarray, after: np.ndarray, digits: Dataset) -> Image.Image:
    """A row for each digit: drawings of the pipeline as it was, then as it is."""
    shown = np.concatenate([part.reshape(-1, EACH, *digits.space.shape) for part in (before, after)], axis=1)
    rows, columns, _, height, width = shown.shape
    sheet = shown[:, :, 0].transpose(0, 2, 1, 3).reshape(rows * height, columns * width)
    grey = (sheet * (255 / (digits.space.levels - 1))).astype(np.uint8)
    return Image.fromarray(np.kron(grey, np.ones((ZOOM, ZOOM), np.uint8)))


if __name__ == "__main__":
    sys.exit(main())
