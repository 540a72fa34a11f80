"""Real devices for tests: a home folder, the command line, and a daemon process on loopback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

QUICK = {
    "MESHLORE_LEARNING__CLASSIFIER_STEPS": "80",
    "MESHLORE_LEARNING__CONDENSE_STEPS": "15",
    "MESHLORE_LEARNING__DISTIL_STEPS": "80",
    "MESHLORE_LEARNING__GENERATOR_STEPS": "30",
    "MESHLORE_LEARNING__PATIENCE_S": "8",
    "MESHLORE_HEARTBEAT_S": "1",
}
START_S = 60.0
SETTLE_S = 90.0
POLL_S = 1.0  # asking takes most of a second of CPU, which the daemons would lack


class Device:
    """One device. Stop it with `stop` (politely) or `kill` (as a power cut would)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "meshlore", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, f"{arguments}: {done.stderr}\n{self._tail()}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json").stdout)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "meshlore", "run"], env=self._environment(), stdout=log, stderr=log
            )
        self.wait_until(lambda: self.cli("status", check=False).returncode == 0, "answers", START_S)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(10)

    def wait_until(self, condition: Callable[[], bool], what: str, within_s: float = SETTLE_S) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            running = self._process is not None and self._process.poll() is None
            assert running, f"the daemon of {self.home.name} ended before it {what}\n{self._tail()}"
            assert time.monotonic() < deadline, f"{self.home.name} not within {within_s} s: {what}\n{self._tail()}"
            time.sleep(POLL_S)

    def wait_taught(self, *by: str) -> None:
        def taught() -> bool:
            status = self.json("status")
            return bool(status["settled"]) and set(by) <= set(status["taught_by"])

        self.wait_until(taught, f"was taught by {', '.join(by)}")

    def _tail(self) -> str:
        return self.log.read_text()[-3000:] if self.log.exists() else "(no log)"

    def _environment(self) -> dict[str, str]:
        return os.environ | QUICK | {"MESHLORE_HOME": str(self.home)}
