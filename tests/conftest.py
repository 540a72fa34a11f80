"""What several test files need: small folders of images as people have them, made on the spot."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from meshlore.security.identity import Identity
from meshlore.security.membership import Credentials, Keyring, MeshRoot
from PIL import Image

if TYPE_CHECKING:
    from meshes import Cluster

# what a shell starts in the background is deaf to Ctrl-C, and so would be the processes that tests interrupt
signal.signal(signal.SIGINT, signal.default_int_handler)

SHADES = {"cat": 40, "dog": 200}


def _picture(shade: int, size: tuple[int, int] = (20, 20), mode: str = "L", seed: int = 0) -> Image.Image:
    width, height = size
    noise = np.random.default_rng(seed).integers(-10, 10, (height, width))
    grey = Image.fromarray((shade + noise).clip(0, 255).astype(np.uint8))
    if mode == "RGB":
        return Image.merge("RGB", (grey, grey.point(lambda value: value // 2), grey.point(lambda value: 0)))
    return grey.convert(mode)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    """``picture(shade, size=(width, height), mode="L", seed=0)``: a flat picture with some noise."""
    return _picture


@pytest.fixture
def image_folder(tmp_path: Path) -> Callable[..., Path]:
    """Builds a folder with one sub-folder of images per class; no two images are the same."""

    def build(
        name: str = "pictures",
        *,
        per_class: int = 6,
        size: tuple[int, int] = (20, 20),
        mode: str = "L",
        suffix: str = ".png",
        classes: tuple[str, ...] = ("cat", "dog"),
    ) -> Path:
        root = tmp_path / name
        for position, label in enumerate(classes):
            (root / label).mkdir(parents=True)
            for index in range(per_class):
                shade = SHADES.get(label, 30 + 20 * position)
                _picture(shade, size, mode, seed=index).save(root / label / f"{index}{suffix}")
        return root

    return build


@pytest.fixture
def new_member() -> Callable[..., Credentials]:
    """``new_member("ann", roles=("node",))``: credentials of one more member of one mesh, made in memory."""
    root, charter = MeshRoot.create("testers", {}, time.time())
    keyring = Keyring.generate()

    def make(name: str, roles: tuple[str, ...] = ("node",)) -> Credentials:
        identity = Identity.generate()
        certificate = root.issue(identity.peer_id, name, roles, identity.hpke_public_key, time.time())
        return Credentials(identity, charter, certificate, keyring)

    return make


@pytest.fixture(params=["memory", "libp2p"])
async def cluster(request: pytest.FixtureRequest, new_member: Callable[..., Credentials]) -> AsyncIterator[Cluster]:
    """Meshes that the test starts, over each transport in turn."""
    from meshes import Cluster  # libp2p takes a second to import, and few tests need it

    cluster = Cluster(new_member, request.param)
    yield cluster
    await cluster.stop()


@pytest.fixture
async def memory_cluster(new_member: Callable[..., Credentials]) -> AsyncIterator[Cluster]:
    """As ``cluster``, in memory only."""
    from meshes import Cluster

    cluster = Cluster(new_member, "memory")
    yield cluster
    await cluster.stop()
