"""Honest devices that see differently: how many of their classes are refuted, though nobody lies.

    python -m benchmarks.cameras [--quick] [--draws N] [--json]

Nodes share the data out, every second one (with white balance: each) sees them through another camera, all condense,
and each weighs what the others publish. Verdicts alone; nothing is distilled, and no test sample is seen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.process import prepare_to_learn
from meshlore.knowledge.sources import load
from meshlore.knowledge.training import no_step
from meshlore.node.learner import Learner
from meshlore.node.library import Entry
from meshlore.node.settings import Learning
from numpy.typing import NDArray
from PIL import Image

from .colours import colour_digits, one_ink_digits, painted_shapes
from .knowledge_cells import share_out

Images = NDArray[np.float64]
"""Levels, float64 (n, channels, height, width)."""
Camera = Callable[[Images, int, int, np.random.Generator], Images]
"""What a device sees in place of images; the highest level, the device's place and its random numbers."""

SIDE_PX = 16
FIRST_DRAW = 40
GROUPS = (("dirichlet-0.5", 6), ("dirichlet-0.1", 6), ("two-classes", 10))


def _every_second(camera: Callable[[Images, int], Images]) -> Camera:
    return lambda images, most, place, _rng: camera(images, most) if place % 2 else images


def _balanced(share: float) -> Camera:
    """Each device multiplies each channel by a number of its own in 1 - share to 1 + share."""
    return lambda images, _most, _place, rng: images * rng.uniform(1 - share, 1 + share, (1, images.shape[1], 1, 1))


def _turned(images: Images, most: int) -> Images:
    planes = images.reshape(-1, *images.shape[2:]).astype(np.float32)
    turned = [np.asarray(Image.fromarray(plane).rotate(20, Image.Resampling.BILINEAR)) for plane in planes]
    return np.stack(turned).reshape(images.shape)


def _thicker(images: Images, most: int) -> Images:
    """Every bright stroke reaches one pixel farther to the right."""
    return np.maximum(images, np.pad(images, ((0, 0), (0, 0), (0, 0), (1, 0)))[..., :-1])


SAME = _every_second(lambda images, most: images)
CAMERAS: Mapping[str, Camera] = {
    "the same": SAME,
    "brighter, paler": _every_second(lambda images, most: images * 0.6 + most / 4),
    "shifted by a pixel": _every_second(lambda images, most: np.roll(images, 1, axis=3)),
    "turned by 20 degrees": _every_second(_turned),
    "thicker by a pixel": _every_second(_thicker),
}
COLOURS: Mapping[str, Camera] = {
    "the same": SAME,
    "brighter, paler": CAMERAS["brighter, paler"],
    "white balance, +-20%": _balanced(0.2),
    "white balance, +-30%": _balanced(0.3),
}
SETS: Mapping[str, tuple[Callable[[], Dataset], Mapping[str, Camera]]] = {
    "digits": (lambda: load("digits").dataset.tuning_split(250)[0], CAMERAS),
    "digits in one ink": (lambda: one_ink_digits(SIDE_PX).tuning_split(250)[0], COLOURS),
    "digits in all colours": (lambda: colour_digits(SIDE_PX).tuning_split(250)[0], COLOURS),
    "shapes that differ in colour": (lambda: painted_shapes(SIDE_PX), COLOURS),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cameras", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the grey digits alone")
    parser.add_argument("--draws", type=int, default=1, help="partitions of each kind; default 1")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    prepare_to_learn(1)
    titles = [f"{partition}, N={nodes}" for partition, nodes in GROUPS]
    if not options.json:
        print(f"| classes of honest authors refuted, of all | {' | '.join(titles)} |", "|---|---|---|---|", sep="\n")
    document = []
    for name in list(SETS)[: 1 if options.quick else None]:
        make, cameras = SETS[name]
        data = make()
        for camera in cameras:
            counts = [refuted(data, cameras[camera], *group, options.draws) for group in GROUPS]
            document.append({"data": name, "camera": camera, **dict(zip(titles, counts, strict=True))})
            if not options.json:
                print(f"| {name}: {camera} | {' | '.join(f'{no} of {all_}' for no, all_ in counts)} |", flush=True)
    if options.json:
        print(json.dumps(document, indent=1))
    return 0


def refuted(data: Dataset, camera: Camera, partition: str, nodes: int, draws: int) -> tuple[int, int]:
    """(classes refuted, classes shown), summed over every judge, every other author and all draws."""
    refused = shown = 0
    for seed in range(FIRST_DRAW, FIRST_DRAW + draws):
        learners = []
        for place, part in enumerate(share_out(data.labels, partition, nodes, seed)):
            seen = _seen(data.subset(part), camera, place, seed)
            learners.append(Learner(seen.space, "node", "", seen, Learning(), 1000 * seed + place))
        entries = [
            Entry(f"{place:064x}", str(place), str(place), 1, 0.0, packet)
            for place, learner in enumerate(learners)
            if (packet := learner.condense(no_step)) is not None
        ]
        for place, learner in enumerate(learners):
            verdicts = learner.weigh([entry for entry in entries if entry.author != str(place)], {})
            for entry in entries:
                if entry.author in verdicts:
                    classes = set(np.unique(entry.packet.labels).tolist())
                    verdict = verdicts[entry.author]
                    refused += len(classes & verdict.refuted if verdict.weight else classes)
                    shown += len(classes)
    return refused, shown


def _seen(data: Dataset, camera: Camera, place: int, seed: int) -> Dataset:
    most = data.space.levels - 1
    images = camera(data.images.astype(np.float64), most, place, np.random.default_rng([seed, place]))
    return Dataset(data.space, np.clip(np.round(images), 0, most).astype(np.uint8), data.labels)


if __name__ == "__main__":
    raise SystemExit(main())
