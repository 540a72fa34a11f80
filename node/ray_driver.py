"""The process that is connected to Ray, apart from the one that it works for.

Ray ends whoever has lost its head or its raylet, without asking. That ends a process of no consequence here: the work
goes on where it is asked for, and another process connects when Ray is back.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import structlog

from ..errors import MeshloreError, Unreachable
from .ray_session import LOCAL, ray_session

if TYPE_CHECKING:
    from ..knowledge.data import Images, Labels
    from .ray_workers import Arrays, Gradient, Workers

log = structlog.get_logger("meshlore.ray")

START_S = 180.0
STOP_S = 10.0
SLACK_S = 10.0
HEAD_GONE_S = 15
"""How long a head may be gone before Ray ends the process; its own default is a minute."""
FIRST_PAUSE_S = 5.0
MOST_PAUSE_S = 300.0


class Driver:
    """Workers on a Ray, by way of a process that is started again, ever more rarely, when it ends.

    A `meshlore.node.ray_executor.Crew`; used by one thread at a time.

    Args:
        address: as `ray_session` takes it.
        workers: processes of one CPU each.
        first_pause_s: before it is started again; doubled at each failure, up to `MOST_PAUSE_S`.

    Raises:
        ConfigError, Unreachable: Ray cannot be used, or its workers do not start.
    """

    def __init__(self, address: str, workers: int, *, first_pause_s: float = FIRST_PAUSE_S) -> None:
        self._address, self._workers, self._first_pause_s = address, workers, first_pause_s
        self._closing = threading.Event()
        self._problem = ""
        log.info("connecting to Ray", address=address, workers=workers)
        self._start()
        self._thread = threading.Thread(target=self._keep, name="ray", daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        where = "its own Ray" if self._address == LOCAL else f"Ray at {self._address}"
        return where if not self._problem else f"in-process until {where} is back ({self._problem})"

    @property
    def pid(self) -> int | None:
        """Of the process that is connected."""
        return self._process.pid

    def __len__(self) -> int:
        return self._workers

    def process_ids(self) -> list[int]:
        """Of the workers.

        Raises:
            Unreachable: Ray is not there now.
        """
        found: list[int] = self._ask("process_ids", timeout_s=START_S)
        return found

    def gradients(self, work: bytes, parts: Sequence[Arrays]) -> list[Gradient]:
        """As of `Workers`."""
        from .ray_workers import ANSWER_S

        gradients: list[Gradient] = self._ask("gradients", work, parts, timeout_s=ANSWER_S)
        return gradients

    def drawings(self, work: bytes, shards: Sequence[tuple[Labels, int]]) -> list[Images]:
        """As of `Workers`."""
        from .ray_workers import drawing_s

        drawn: list[Images] = self._ask("drawings", work, shards, timeout_s=drawing_s(len(shards), self._workers))
        return drawn

    def close(self) -> None:
        """Disconnect, and end a Ray of our own."""
        self._closing.set()
        self._process.terminate()
        self._thread.join(STOP_S)
        self._process.kill()

    def _ask(self, what: str, *arguments: Any, timeout_s: float) -> Any:
        if self._problem:
            raise Unreachable(self._problem)
        process, patience_s = self._process, timeout_s + SLACK_S
        # neither writing to a pipe nor reading a message from it ends by itself when the other side hangs
        watchdog = threading.Timer(patience_s + SLACK_S, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._connection.send((what, arguments))
            answer = _answer(self._connection, patience_s)
        except (OSError, MeshloreError) as error:
            self._problem = str(error) if isinstance(error, MeshloreError) else "its head or raylet is gone"
            process.kill()  # or it would answer this to the next question
            raise Unreachable(self._problem) from None
        finally:
            watchdog.cancel()
        return answer

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        ours, theirs = spawn.Pipe()
        process = spawn.Process(
            target=_drive, args=(theirs, self._address, self._workers), name="meshlore-ray", daemon=True
        )
        # Ctrl-C is the business of who started us: it stays blocked in there
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
            theirs.close()
        self._connection, self._process = ours, process  # started: `close` may end it from now on
        try:
            _answer(ours, START_S)
        except MeshloreError:
            process.kill()
            raise

    def _keep(self) -> None:
        """Until it is closed: see the process end, and start another."""
        pause_s, since = self._first_pause_s, time.monotonic()
        while True:
            self._process.join()
            if self._closing.is_set():
                return
            self._problem = self._problem or "its head or raylet is gone"
            log.warning("Ray is lost; going on in this process", address=self._address, because=self._problem)
            if time.monotonic() - since > MOST_PAUSE_S:
                pause_s = self._first_pause_s
            while self._problem:
                if self._closing.wait(pause_s):
                    return
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
                try:
                    self._start()
                except MeshloreError as error:
                    self._problem = error.message
                else:
                    self._problem, since = "", time.monotonic()
            log.info("Ray is back", address=self._address)


def _answer(connection: Connection, timeout_s: float) -> Any:
    """Raises Unreachable when there is none in time, and whatever error is the answer."""
    try:
        if not connection.poll(timeout_s):
            raise Unreachable(f"no answer within {timeout_s:.0f} s")
        answer = connection.recv()
    except (EOFError, OSError):
        raise Unreachable("its head or raylet is gone") from None
    if isinstance(answer, MeshloreError):
        raise answer
    return answer


def _drive(connection: Connection, address: str, workers: int) -> None:
    """The life of the process: connect, then answer until nobody asks any more or Ray fails."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what Ray says at its end; errors travel by the connection
        os.dup2(nowhere, stream)
    os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", str(HEAD_GONE_S))
    try:
        with ray_session(address, cpus=workers) as ray:
            from .ray_workers import Workers

            crew = Workers(ray, workers)
            connection.send(started(ray, crew))
            known: dict[str, Callable[..., Any]] = {
                "process_ids": crew.process_ids,
                "gradients": crew.gradients,
                "drawings": crew.drawings,
            }
            while True:
                what, arguments = connection.recv()
                connection.send(known[what](*arguments))
    except EOFError:
        return
    except MeshloreError as error:
        connection.send(error)


def started(ray: Any, crew: Workers) -> list[int]:
    """The process ids of workers, once they are up. Raises Unreachable when they do not come."""
    cpus = ray.cluster_resources().get("CPU", 0)
    try:
        return crew.process_ids()
    except Unreachable as error:
        if cpus < len(crew):
            raise Unreachable(
                f"{len(crew)} workers need a CPU each, and that Ray has {cpus:g}",
                "lower anchor.workers, or add machines to that Ray",
            ) from None
        raise Unreachable(
            f"{len(crew)} workers do not start on that Ray: {error.message}",
            "are as many CPUs free there, and is meshlore installed everywhere?",
        ) from None
