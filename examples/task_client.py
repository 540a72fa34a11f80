"""Ask the mesh through the daemon on this device: what it is, what it sees, what it can draw.

    python examples/task_client.py [--home FOLDER] [--data digits:test] [--output drawn.png]

Needs a running daemon (meshlore run). Tasks run on the node that is best at them, here or elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

import meshlore
from meshlore.knowledge.samples import write_samples

WAIT_S = 120


async def ask(home: str | None, data: str, label: str | None, output: Path) -> None:
    async with meshlore.connect(home) as mesh:
        status = await mesh.status()
        peers = [peer["name"] for peer in await mesh.peers() if peer["state"] == "live"]
        print(f"{status['name']} in mesh {status['mesh']['name']!r}, live peers: {', '.join(peers) or 'none'}")
        print(f"its own data: {status['samples']} samples of {', '.join(status['classes']) or 'nothing'}")
        await wait_until_learned(mesh)

        # labelled images in the form that this mesh uses; for Classify and Evaluate, lists of paths,
        # PIL images and arrays do as well
        space = meshlore.Space.from_map(status["space"])
        test = meshlore.load(data, space=space).dataset

        seen = await mesh.submit(meshlore.Classify(test.subset(range(8))))
        for truth, guess, sure in zip(test.labels, seen.labels, seen.confidence, strict=False):
            print(f"  a {space.classes[truth]} was taken for a {guess} ({sure:.0%} sure)")
        print(f"  answered by {seen.answer.node} ({seen.answer.hop}) in {seen.answer.took_s * 1000:.0f} ms")

        wanted = label or (status["classes"] or space.classes)[-1]
        drawn = await mesh.submit(meshlore.Generate(wanted, n=16), timeout_s=30, on_progress=show_progress)
        write_samples(output, drawn.images, wanted, space)
        print(f"{output}: 16 images of {wanted!r} by {drawn.answer.node}; it recognises {drawn.confidence:.0%} of them")

        for version in ("before", "now"):
            measured = await mesh.submit(meshlore.Evaluate(test, test.labels, version=version))
            print(f"{version:>6}: {measured.accuracy:.1%} of {measured.images} images right")

        # every error is a MeshloreError with a message and a remedy; nothing hangs beyond its deadline
        try:
            await mesh.submit(meshlore.Generate("no such thing"))
        except meshlore.InvalidTask as error:
            print(f"refused, as it should be: {error.message}\n  remedy: {error.remedy}")


async def wait_until_learned(mesh: meshlore.MeshClient) -> None:
    """A daemon that has just been started learns from its own data first."""
    deadline = time.monotonic() + WAIT_S
    while True:
        status = await mesh.status()
        if status["version"] and status["generator"]:
            return
        if time.monotonic() > deadline:
            raise meshlore.DeadlineExceeded(f"it still learns after {WAIT_S} s", "try again later")
        print(f"  it is {status['activity']} ...")
        await asyncio.sleep(2)


def show_progress(fraction: float, doing: str) -> None:
    print(f"  {doing}: {fraction:.0%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", help="the daemon's home folder, if it is not the usual one")
    parser.add_argument("--data", default="digits:test", help="labelled images to ask about")
    parser.add_argument("--label", help="the class to draw; one that the node has itself if not given")
    parser.add_argument("--output", type=Path, default=Path("drawn.png"))
    wanted = parser.parse_args()
    try:
        asyncio.run(ask(wanted.home, wanted.data, wanted.label, wanted.output))
    except meshlore.DaemonNotRunning as error:
        print(f"nobody to ask: {error}", file=sys.stderr)
        return error.exit_code
    except meshlore.MeshloreError as error:  # NoCapableNode, DeadlineExceeded, DataError, ...
        print(f"failed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
