"""Two devices, two halves of a problem: own images in folders, and a torch model of one's own.

    python examples/own_data_own_model.py [--images 100]

Ann has pictures of circles and squares, Bob of crosses and triangles. Each learns alone; then they
meet, and in the end both know all four shapes, though no picture has left its device.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import meshlore
from shapes import make_folder

SHAPES = {"ann": ("circle", "square"), "bob": ("cross", "triangle")}
HERE = Path(__file__).resolve().parent  # commands run in this folder, where my_model.py can be imported
WAIT_S = 240

# shapes are easy: less work than images of this size get by default (docs/configuration.md)
WORK = {"CLASSIFIER_STEPS": 150, "CONDENSE_STEPS": 50, "SAMPLES_PER_CLASS": 25, "GENERATOR_STEPS": 100}
SETTINGS = {f"MESHLORE_LEARNING__{name}": str(number) for name, number in WORK.items()}


@asynccontextmanager
async def running(*words: str | Path) -> AsyncIterator[Process]:
    """``meshlore WORDS`` while the block runs; it does not outlive it, whatever happens."""
    command = [sys.executable, "-m", "meshlore", *map(str, words)]
    process = await asyncio.create_subprocess_exec(*command, cwd=HERE, env=SETTINGS | os.environ)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, TimeoutError):
            process.terminate()
            await asyncio.wait_for(process.wait(), 5)
        with suppress(ProcessLookupError):
            process.kill()


async def do(*words: str | Path) -> None:
    """``meshlore WORDS``, to its end; when it fails, it has said why, and so ends all."""
    async with running(*words) as process:
        if code := await process.wait():
            raise SystemExit(code)


async def until(home: Path, process: Process, happened: Callable[[dict[str, Any]], bool]) -> None:
    """Wait until the daemon in ``home`` says in its status that it happened."""
    deadline = time.monotonic() + WAIT_S
    while process.returncode is None and time.monotonic() < deadline:
        with suppress(meshlore.DaemonNotRunning):  # it is still starting
            async with meshlore.connect(home) as mesh:
                if happened(await mesh.status()):
                    return
        await asyncio.sleep(0.5)
    raise meshlore.MeshloreError(f"{home.name}'s daemon stopped, or got nowhere in {WAIT_S} s", "see its log above")


async def meet(folder: Path, images: int) -> bool:
    """Found a mesh, join it, let both learn; True when both learned from each other."""
    all_shapes = sorted(SHAPES["ann"] + SHAPES["bob"])
    ann, bob = folder / "ann", folder / "bob"
    ann_pictures = make_folder(folder / "ann-pictures", SHAPES["ann"], images, seed=1)
    bob_pictures = make_folder(folder / "bob-pictures", SHAPES["bob"], images, seed=2)
    test_pictures = make_folder(folder / "test-pictures", all_shapes, 50, seed=3)
    about_ann = ["--name", "ann", "--home", ann, "--data", ann_pictures, "--model", "my_model:network"]
    about_bob = ["--name", "bob", "--home", bob, "--data", bob_pictures, "--model", "mlp"]
    await do("init", *about_ann, "--all-classes", ",".join(all_shapes))
    async with running("run", "--home", ann) as ann_daemon:
        await until(ann, ann_daemon, lambda status: status["version"] > 0)
        async with meshlore.connect(ann) as mesh:
            code = await mesh.invite()
        await do("join", code, *about_bob)
        async with running("run", "--home", bob) as bob_daemon:
            for home, process in ((ann, ann_daemon), (bob, bob_daemon)):
                await until(home, process, lambda status: status["stage"] == "taught" and status["settled"])
            return all([await learned(home, test_pictures) for home in (ann, bob)])


async def learned(home: Path, test_pictures: Path) -> bool:
    """Measure a node on pictures that nobody trained on."""
    async with meshlore.connect(home) as mesh:
        space = meshlore.Space.from_map((await mesh.status())["space"])
        test = meshlore.load(str(test_pictures), space=space).dataset
        before = await mesh.submit(meshlore.Evaluate(test, test.labels, version="before"))
        now = await mesh.submit(meshlore.Evaluate(test, test.labels))
    print(f"{home.name} alone: {before.accuracy:.1%} right; taught by the other: {now.accuracy:.1%}")
    return now.accuracy > before.accuracy


def main() -> int:
    parser = argparse.ArgumentParser(description="Two devices teach each other the shapes that only one of them has.")
    parser.add_argument("--images", type=int, default=100, help="pictures of each shape")
    images = parser.parse_args().images
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons are stopped then, too
    try:
        with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
            return 0 if asyncio.run(meet(Path(folder), images)) else 1
    except meshlore.MeshloreError as error:
        print(f"failed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
