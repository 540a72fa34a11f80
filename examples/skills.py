"""A toolbox miss: a device is asked what it never learned, lets another answer, fetches the skill, and answers itself.

    python examples/skills.py

Ann knows the digits 2 and 3. Bob knows 0 and 1, and of what others teach he learns only what he asks for.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

import meshlore
import numpy as np
from meshlore.knowledge.data import Dataset
from own_data_own_model import do, running, until

TOOLBOX = (
    '\n[learning]\nlessons = "asked"\n\n[service]\nskills = "asked"  # "auto": fetched by itself when it is missed\n'
)


async def meet(folder: Path) -> bool:
    """Found a mesh of two, and hand Bob pictures of twos and threes; True when in the end he names them himself."""
    ann, bob = folder / "ann", folder / "bob"
    all_digits = ",".join(map(str, range(10)))
    about_ann = ["--name", "ann", "--home", ann, "--data", "digits", "--classes", "2,3"]
    await do("init", *about_ann, "--all-classes", all_digits)
    async with running("run", "--home", ann) as ann_daemon:
        await until(ann, ann_daemon, lambda status: status["version"] > 0)
        async with meshlore.connect(ann) as mesh:
            code = await mesh.invite()
        await do("join", code, "--name", "bob", "--home", bob, "--data", "digits", "--classes", "0,1")
        with (bob / "config.toml").open("a", encoding="utf-8") as file:
            file.write(TOOLBOX)
        async with running("run", "--home", bob) as bob_daemon:
            await until(ann, ann_daemon, lambda status: status["stage"] == "taught" and status["settled"])
            await until(bob, bob_daemon, lambda status: status["packets"] >= 2 and status["settled"])
            return await learn(bob)


async def learn(bob: Path) -> bool:
    async with meshlore.connect(bob) as mesh:
        foreign = meshlore.load("digits:test").dataset.select_classes(("2", "3"))
        await show(mesh, "alone", foreign, "here")
        await show(mesh, "with the mesh", foreign, "best")

        learned = await mesh.submit(meshlore.Skill(("2", "3")), timeout_s=120)
        print(
            f"a skill of {learned.samples} samples by {learned.answer.node}: {'kept' if learned.kept else 'not kept'}"
        )
        for name in learned.classes:
            print(f"  {name}: {learned.before[name]:.0%} -> {learned.after[name]:.0%}")
        print(f"  at home: {learned.home_before:.0%} -> {learned.home_after:.0%}")

        nodes = await show(mesh, "after the skill", foreign, "best")

        # what nobody has is one clear line, and nothing is lost
        try:
            await mesh.submit(meshlore.Skill(("seven",)))
        except meshlore.InvalidTask as error:
            print(f"refused, as it should be: {error.message}")
        return nodes == {"bob"}


async def show(mesh: meshlore.MeshClient, when: str, foreign: Dataset, where: str) -> set[str]:
    """Have pictures named; who did it."""
    result = await mesh.submit(meshlore.Classify(foreign, where=where))
    truth = [foreign.space.classes[label] for label in foreign.labels]
    right = np.mean([said == true for said, true in zip(result.labels, truth, strict=True)])
    took_ms = 1000 * result.answer.took_s
    print(f"{when}: {right:.1%} of {len(truth)} right, by {result.answer.node} in {took_ms:.0f} ms")
    return set(result.by)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the daemons are stopped then, too
    try:
        with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
            return 0 if asyncio.run(meet(Path(folder))) else 1
    except meshlore.MeshloreError as error:
        print(f"failed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
