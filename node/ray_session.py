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

from ..errors import ConfigError, MeshloreError, Unreachable

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
ONE_TRY = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
"""To reach a head, 40 s when it is silent; Ray by itself makes 20 of them."""

MISMATCH = r"mismatch.*?Ray: (\S+)\s+Python: (\S+).*?Ray: (\S+)\s+Python: (\S+)"
"""In what Ray says: the cluster's versions, then those here."""


@contextmanager
def ray_session(address: str, *, cpus: int = 2, store_bytes: int = STORE_BYTES) -> Iterator[Any]:
    """The ``ray`` module, connected; disconnected at the end, and a Ray of our own stopped.

    Args:
        address: HOST:PORT of a Ray cluster, or `LOCAL`.
        cpus, store_bytes: of a Ray of our own.

    Raises:
        ConfigError: Ray is not installed, too old, of another version than the cluster, or has no token or another one.
        Unreachable: nobody answers there, or nobody as a Ray does.
    """
    if address != LOCAL:
        _check_address(address)
    with ExitStack() as cleanup:
        folder, more = "", ONE_TRY
        if address == LOCAL:
            # not in TMPDIR, which may be long: Ray's sockets have 107 characters for their path
            temporary = tempfile.TemporaryDirectory(prefix="meshlore-ray-", dir="/tmp", ignore_cleanup_errors=True)
            folder = cleanup.enter_context(temporary)
            more = _own_token(Path(folder))
        with _environment(QUIET | more):
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
        raise _not_connected(address, error) from None


def _not_connected(address: str, error: BaseException) -> MeshloreError:
    """Why, from what Ray says."""
    said = f"{error} {error.__cause__}"
    if versions := re.search(MISMATCH, said, re.DOTALL):
        return ConfigError(
            "the Ray cluster at {} runs Ray {} with Python {}, this machine Ray {} with Python {}".format(
                address, *versions.groups()
            ),
            "install the same Ray and the same Python everywhere",
        )
    if type(error).__name__ == "AuthenticationError":
        return ConfigError(f"no Ray token here ({_line(error)})", "see docs/ray.md")
    if "AuthenticationError" in said:
        return ConfigError(
            f"the Ray cluster at {address} asks for another token", "copy that of its head, see docs/ray.md"
        )
    return Unreachable(
        f"whoever listens at {address} does not answer as the head of a Ray does",
        "is the port right, and does the head still work? see docs/ray.md",
    )


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
