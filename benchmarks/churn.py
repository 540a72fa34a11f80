"""Real daemons under kill -9, SIGSTOP, restarts, a partition and packet loss: what is left of the mesh afterwards.

    python -m benchmarks.churn [--json] [--short | --long] [--nodes 8] [--seed 0]

Every device is a process with a home of its own. Where this process may make network namespaces (root), each has its
own, and the switch between them loses frames and parts the network; on plain loopback these two faults are left out,
and the table says so. Meanwhile the devices are given fine-tunings, whose acknowledged results must outlive
everything. The schedule follows from the seed. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from . import netns
from .churn_audit import all_hold_all, damage, held, lost_work
from .churn_watch import Watch, ask, is_up
from .faults import Fault
from .fleet import SPACE, Device, found_fleet, samples

START_S = 900.0
CONVERGED_S = 120.0
GIVE_UP_S = 600.0
STOP_S = 20.0
TASK_S = 60.0
GHOST_S = 20.0
LOSS = 0.2
STEP_S = 0.5


@dataclass(frozen=True)
class Plan:
    """How much is done to how many devices. ``loss``: seconds with 20% packet loss."""

    nodes: int = 8
    kills: int = 40
    freezes: int = 4
    restarts: int = 4
    partitions: int = 2
    loss_s: float = 30.0
    seed: int = 0


SHORT = Plan(nodes=3, kills=3, freezes=1, restarts=1, partitions=1, loss_s=10.0)
LONG = Plan(kills=200, freezes=20, restarts=20, partitions=6, loss_s=120.0)


@dataclass
class Outcome:
    """What was done, and what came of it. Seconds; bytes sent per device.

    Attributes:
        left_out: faults that need network namespaces, where there are none.
        converged_s: from the end of the last fault until all held all; None: not within `GIVE_UP_S`.
        acknowledged, lost: fine-tunings that succeeded, and those of them that are gone.
        problems: every damage, loss and hang in words.
    """

    plan: Plan
    network: str
    left_out: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    took_s: float = 0.0
    converged_s: float | None = None
    packets: int = 0
    numbers: int = 0
    reused_numbers: int = 0
    damaged: int = 0
    acknowledged: int = 0
    lost: int = 0
    hangs: int = 0
    ghosts_s: list[float] = field(default_factory=list)
    rejoins_s: list[float] = field(default_factory=list)
    bytes_per_node: float = 0.0
    frames_lost: float = 0.0
    problems: list[str] = field(default_factory=list)


class Churn:
    """One run over one fleet."""

    def __init__(self, plan: Plan, folder: Path, network: netns.Network | None) -> None:
        self._plan, self._network = plan, network
        self._dice = random.Random(plan.seed)
        self._devices = found_fleet(folder, plan.nodes, network, plan.seed)
        self._watch = Watch(self._devices)
        self._acknowledged: dict[str, set[str]] = {device.name: set() for device in self._devices}
        self._slow_tasks: list[str] = []
        self.outcome = Outcome(plan, "network namespaces" if network else "loopback")

    async def run(self) -> Outcome:
        started = time.monotonic()
        for device in self._devices:
            self._start(device)
        watching = asyncio.create_task(self._watch.run())
        try:
            if not await _until(lambda: all_hold_all(self._devices), START_S):
                raise SystemExit(f"the devices do not get going:\n{self._devices[0].log_tail()}")
            giving = asyncio.create_task(self._give_tasks())
            for fault in self._schedule():
                say(f"{time.monotonic() - started:5.0f} s  {fault}")
                await self._do(fault)
                self.outcome.done[fault] = self.outcome.done.get(fault, 0) + 1
            await self._end(giving)
            await self._heal()
            await self._end(watching)
        finally:
            watching.cancel()
            self._stop()
        self._judge_disks()
        self.outcome.took_s = time.monotonic() - started
        return self.outcome

    def _schedule(self) -> list[Fault]:
        plan = self._plan
        faults = [Fault.KILL] * plan.kills + [Fault.FREEZE] * plan.freezes + [Fault.RESTART] * plan.restarts
        if self._network is not None:
            faults += [Fault.PARTITION] * plan.partitions + [Fault.LOSS]
        else:
            self.outcome.left_out = [Fault.PARTITION, Fault.LOSS]
        self._dice.shuffle(faults)
        return faults

    async def _do(self, fault: Fault) -> None:
        device = self._dice.choice([device for device in self._devices if is_up(device)])
        match fault:
            case Fault.KILL:
                # at any moment of whatever it is doing; most often while others work with it
                await asyncio.sleep(self._dice.uniform(0, 2))
                await asyncio.to_thread(device.kill)
                self._watch.died(device)
                await asyncio.sleep(self._dice.uniform(0.5, 4))
                self._start(device)
            case Fault.RESTART:
                if not await asyncio.to_thread(device.stop, STOP_S):
                    self._watch.hangs.append(f"{device.name} did not stop within {STOP_S:g} s")
                self._start(device)
            case Fault.FREEZE:
                device.freeze()
                self._watch.died(device)
                await asyncio.sleep(self._dice.uniform(8, 15))
                device.thaw()
                self._watch.returned(device)
            case Fault.PARTITION if self._network is not None:
                half = self._dice.sample(range(self._plan.nodes), self._plan.nodes // 2)
                self._network.part(set(half))
                await asyncio.sleep(self._dice.uniform(15, 25))
                self._network.groups = {}
            case Fault.LOSS if self._network is not None:
                self._network.loss = LOSS
                await asyncio.sleep(self._plan.loss_s)
                self._network.loss = 0.0
            case _:
                raise ValueError(f"{fault} is not done to real daemons")

    async def _heal(self) -> None:
        """Everything works again: how long until everybody has everything?"""
        if self._network is not None:
            self._network.heal()
        for device in self._devices:
            if not device.running:
                self.outcome.problems.append(f"{device.name} ended by itself: {device.log_tail()[-300:]}")
                self._start(device)
        healed = time.monotonic()
        if await _until(lambda: all_hold_all(self._devices), GIVE_UP_S):
            self.outcome.converged_s = time.monotonic() - healed
        else:
            lacking = {device.name: len(held(device)) for device in self._devices}
            self.outcome.problems.append(f"packets per device in the end: {lacking}")
        self.outcome.packets = len(held(self._devices[0]))

    async def _give_tasks(self) -> None:
        """Fine-tunings, one after the other, to whoever is up; those that are answered with success are noted."""
        import meshlore
        from meshlore.knowledge.data import Dataset

        dice = np.random.default_rng(self._plan.seed)
        while True:
            up = [device for device in self._devices if is_up(device)]
            if not up:
                await asyncio.sleep(STEP_S)
                continue
            device, data = self._dice.choice(up), samples(dice, 3)
            labels = [SPACE.classes[label] for label in data.labels]
            task = meshlore.FineTune(data.images[:, 0], labels, steps=1)
            asked = time.monotonic()
            result = await ask(device, lambda client, t=task: client.submit(t, timeout_s=TASK_S), TASK_S + STOP_S)
            if time.monotonic() - asked >= TASK_S + STOP_S and is_up(device) and device.started < asked:
                self._slow_tasks.append(f"{device.name} answered no task for {TASK_S + STOP_S:g} s")
            if result is not None and result.kept:
                kept = Dataset(SPACE, data.images, data.labels)
                digest = hashlib.sha256(kept.images.tobytes() + kept.labels.tobytes()).hexdigest()
                self._acknowledged[device.name].add(digest[:32])
            await asyncio.sleep(self._dice.uniform(0, 2))

    def _start(self, device: Device) -> None:
        device.start()
        self._watch.returned(device)

    def _stop(self) -> None:
        for device in self._devices:
            if device.frozen:
                device.thaw()
            if device.running and not device.stop(STOP_S):
                self._watch.hangs.append(f"{device.name} did not stop within {STOP_S:g} s")

    def _judge_disks(self) -> None:
        out, watch = self.outcome, self._watch
        damaged = [line for device in self._devices for line in damage(device)]
        lost = [line for device in self._devices for line in lost_work(device, self._acknowledged[device.name])]
        hangs = [*watch.hangs, *self._slow_tasks]
        out.damaged, out.lost, out.hangs = len(damaged), len(lost), len(hangs)
        out.acknowledged = sum(len(digests) for digests in self._acknowledged.values())
        out.numbers, out.reused_numbers = len(watch.numbers), len(watch.reused)
        out.ghosts_s, out.rejoins_s, out.bytes_per_node = watch.ghosts_s, watch.rejoins_s, watch.bytes_sent()
        if self._network is not None and self._network.frames:
            out.frames_lost = self._network.lost / self._network.frames
        out.problems += [*damaged, *lost, *hangs]

    async def _end(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not await asyncio.to_thread(condition):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(STEP_S)
    return True


async def churn(plan: Plan) -> Outcome:
    network = netns.Network(plan.nodes, plan.seed) if netns.allowed() else None
    try:
        if network is not None:
            network.start()
        with tempfile.TemporaryDirectory(prefix="meshlore-") as folder:
            return await Churn(plan, Path(folder), network).run()
    finally:
        if network is not None:
            network.close()


def targets(outcome: Outcome) -> list[tuple[str, str, bool]]:
    """(target, measured, reached)"""
    converged, ghost_s = outcome.converged_s, max(outcome.ghosts_s, default=0.0)
    waited = "not at all" if converged is None else f"{converged:.1f} s"
    return [
        (
            f"every node holds every packet within {CONVERGED_S:g} s of healing",
            waited,
            converged is not None and converged <= CONVERGED_S,
        ),
        ("0 corrupt states", str(outcome.damaged), outcome.damaged == 0),
        ("0 reused sequence numbers", f"{outcome.reused_numbers} of {outcome.numbers}", outcome.reused_numbers == 0),
        (
            "0 lost acknowledged tasks",
            f"{outcome.lost} of {outcome.acknowledged}",
            outcome.lost == 0 and outcome.acknowledged > 0,
        ),
        ("0 hangs", str(outcome.hangs), outcome.hangs == 0),
        (f"ghosts gone within {GHOST_S:g} s", f"{ghost_s:.1f} s at most", ghost_s <= GHOST_S),
    ]


def show(outcome: Outcome) -> None:
    from rich.console import Console
    from rich.table import Table

    done = ", ".join(f"{count} x {fault}" for fault, count in sorted(outcome.done.items()))
    table = Table("target", "measured", "", title=f"{outcome.plan.nodes} daemons, {outcome.network}: {done}")
    for target, measured, reached in targets(outcome):
        table.add_row(target, measured, "reached" if reached else "MISSED")
    console = Console(width=120)
    console.print(table)
    ghosts, rejoins = outcome.ghosts_s or [0.0], outcome.rejoins_s or [0.0]
    console.print(
        f"ghosts gone after {statistics.median(ghosts):.1f} s (median of {len(outcome.ghosts_s)}), "
        f"back after {statistics.median(rejoins):.1f} s ({max(rejoins):.1f} at most), "
        f"{outcome.bytes_per_node / 1e3:.0f} kB sent per node, {outcome.packets} packets in the end, "
        f"{outcome.frames_lost:.1%} of the frames lost, {outcome.took_s:.0f} s in all"
    )
    if outcome.left_out:
        console.print(f"left out, as they need network namespaces: {', '.join(outcome.left_out)}")
    for problem in outcome.problems:
        console.print(problem, markup=False)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.churn", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--short", action="store_true", help="3 daemons, a few faults: minutes")
    length.add_argument("--long", action="store_true", help="at least 200 kills")
    parser.add_argument("--nodes", type=int, help="how many daemons")
    parser.add_argument("--kills", type=int, help="how many of them are killed, one after the other")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    arguments = parser.parse_args()
    plan = SHORT if arguments.short else LONG if arguments.long else Plan()
    given = {name: value for name in ("nodes", "kills", "seed") if (value := getattr(arguments, name)) is not None}
    outcome = asyncio.run(churn(replace(plan, **given)))
    reached = targets(outcome)
    if arguments.json:
        print(json.dumps(asdict(outcome) | {"targets": reached}))
    else:
        show(outcome)
    sys.exit(not all(ok for _, _, ok in reached))


if __name__ == "__main__":
    main()
