"""A connection to Ray: one of our own on this machine, or a cluster that somebody runs. Safe settings, one-line errors.

Our own listens on loopback only, asks for a token that nobody else can read, shows no dashboard and reports nothing.
A foreign one must ask for a token too (`docs/ray.md`): whoever reaches a Ray without one runs code there.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import ConfigError, Unreachable

LOCAL = "local"
"""In place of an address: a Ray of our own on this machine."""
OLDEST = (2, 52)
"""The first Ray that can ask for a token."""
STORE_BYTES = 80 << 20
REACH_S = 5.0
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what befalls workers: Ray prints it on standard output, our JSON's place
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def ray_session(address: str, *, cpus: int = 2, store_bytes: int = STORE_BYTES) -> Iterator[Any]:
    """The ``ray`` module, connected; disconnected at the end, and a Ray of our own stopped.

    Args:
        address: HOST:PORT of a Ray cluster, or `LOCAL`.
        cpus, store_bytes: of a Ray of our own.

    Raises:
        ConfigError: Ray is not installed, too old or another version than the cluster's, or asks for no token.
        Unreachable: nobody answers there, or the token is another one.
    """
    if address != LOCAL:
        _check_address(address)
    with ExitStack() as cleanup:
        folder, own = "", dict[str, str]()
        if address == LOCAL:
            # not in TMPDIR, which may be long: Ray's sockets have 107 characters for their path
            temporary = tempfile.TemporaryDirectory(prefix="meshlore-ray-", dir="/tmp", ignore_cleanup_errors=True)
            folder = cleanup.enter_context(temporary)
            own = _own_token(Path(folder))
        with _environment(QUIET | own):
            ray = _imported()
            if ray.is_initialized():
                raise ConfigError("this process is connected to Ray already", "end that first: ray.shutdown()")
            try:
                with _mute():
                    if address == LOCAL:
                        _start(ray, cpus, store_bytes, folder)
                    else:
                        _connect(ray, address)
                yield ray
            finally:
                with suppress(SystemExit):  # Ray ends the process when it cannot end itself
                    ray.shutdown()


def ray_address(text: str) -> str:
    """Raises ConfigError when it is neither HOST:PORT nor `LOCAL`."""
    if text != LOCAL and not re.fullmatch(r"[A-Za-z0-9_.-]+:\d{1,5}", text):
        raise ConfigError(f"Ray address {text!r}", f"give HOST:PORT of the head, like 192.168.1.5:6379, or {LOCAL!r}")
    return text


def _check_address(address: str) -> None:
    host, _, port = ray_address(address).rpartition(":")
    if os.environ.get("RAY_AUTH_MODE") != "token":
        raise ConfigError(
            f"Ray at {address} may be joined with a token only",
            "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH here and on every machine of it, see docs/ray.md",
        )
    try:
        socket.create_connection((host, int(port)), REACH_S).close()
    except OSError as error:
        raise Unreachable(
            f"no Ray answers at {address} ({error})", "is the head running there? see docs/ray.md"
        ) from None


def _imported() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigError("Ray is not installed", "pip install 'meshlore[cluster]'") from None
    version = tuple(int(part) for part in re.findall(r"\d+", ray.__version__)[:2])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        raise ConfigError(f"Ray {ray.__version__} cannot ask for a token", f"pip install 'ray>={oldest}'")
    return ray


def _start(ray: Any, cpus: int, store_bytes: int, folder: str) -> None:
    try:
        ray.init(
            num_cpus=cpus,
            object_store_memory=store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="CRITICAL",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
    except (RuntimeError, OSError, SystemExit) as error:
        raise ConfigError(f"Ray does not start here ({_line(error)})", "see docs/ray.md") from None


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level="CRITICAL")
    except (RuntimeError, ConnectionError, OSError, SystemExit) as error:
        if "mismatch" in str(error):
            versions = " ".join(re.findall(r"(?:Ray|Python): [\w.]+", str(error)))
            raise ConfigError(
                f"the Ray cluster at {address} runs other versions than this machine ({versions})",
                "install the same Ray and the same Python everywhere",
            ) from None
        if type(error).__name__ == "AuthenticationError":
            raise ConfigError(f"no Ray token here ({_line(error)})", "see docs/ray.md") from None
        raise Unreachable(
            f"the Ray cluster at {address} does not take us", "is the token the same there, and the port its head's?"
        ) from None


def _own_token(folder: Path) -> dict[str, str]:
    path = folder / "token"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32))
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """These variables are set meanwhile; Ray reads its settings from there and hands them to its processes."""
    before = {name: os.environ.get(name) for name in (*values, "RAY_AUTH_TOKEN")}
    os.environ.update(values)
    if "RAY_AUTH_TOKEN_PATH" in values:
        os.environ.pop("RAY_AUTH_TOKEN", None)  # it would win over the path
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _mute() -> Iterator[None]:
    """Nothing on standard error: while it connects, Ray's C++ writes there what its exceptions then say."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
