"""What a node can be told: a TOML file, overridden by MESHLORE_* variables, overridden by flags.

Each value remembers where it came from, so that a wrong one is refused with its file and line, its
variable or its flag, and the remedy.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ..errors import ConfigError

ENVIRONMENT_PREFIX = "MESHLORE_"
RESERVED_VARIABLES = {"MESHLORE_HOME", "MESHLORE_CONFIG", "MESHLORE_PASSPHRASE"}


class Learning(BaseModel):
    """How much work the node puts into learning; 0 steps means: as many as its space calls for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["condensed", "gaussian", "generated"] = "condensed"
    generator: Literal["mlp", "unet"] = "mlp"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    samples_per_class: int = Field(0, ge=0, le=1000)
    classifier_steps: int = Field(0, ge=0, le=100_000)
    condense_steps: int = Field(0, ge=0, le=100_000)
    distil_steps: int = Field(0, ge=0, le=100_000)
    generator_steps: int = Field(0, ge=0, le=100_000)
    refinements: int = Field(1, ge=0, le=10)
    patience_s: float = Field(20.0, gt=0, le=86_400)
    lessons: Literal["all", "asked"] = "all"


class Service(BaseModel):
    """How tasks are served; docs/service.md explains."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.8, ge=0.05, le=1.0)
    leave_for: float = Field(0.05, ge=0, le=1.0)
    skills: Literal["auto", "asked"] = "auto"


class Privacy(BaseModel):
    """What protects the people in the data; docs/privacy.md says in plain words what each mode leaks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: Literal["off", "filter", "dp"] = "filter"
    epsilon: float = Field(4.0, gt=0, le=100)
    delta: float = Field(1e-5, gt=0, le=0.01)


class Anchor(BaseModel):
    """How an anchor learns (docs/anchor.md), and where it computes (docs/ray.md)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    experts: int = Field(0, ge=0, le=64)
    ray: str = ""
    workers: int = Field(2, ge=1, le=256)

    @field_validator("ray")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not re.fullmatch(r"|local|[A-Za-z0-9_.-]+:\d{1,5}", value):
            raise ValueError("give HOST:PORT of a Ray cluster's head, like 192.168.1.5:6379, or 'local'")
        return value


class Pipeline(BaseModel):
    """A text-to-image pipeline to draw with in place of the compact generator; docs/anchor.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folder: str = ""
    prompt: str = Field("{}", max_length=200)
    rank: int = Field(4, ge=1, le=256)
    learning_rate: float = Field(1e-4, gt=0, le=1)
    batch_size: int = Field(4, ge=1, le=256)
    draw_steps: int = Field(20, ge=1, le=1000)

    @field_validator("prompt")
    @classmethod
    def _names_the_class(cls, value: str) -> str:
        if "{}" not in value:
            raise ValueError("put {} where the class name goes")
        return value


class Settings(BaseModel):
    """One node's settings. Field by field documented in docs/configuration.md."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default_factory=lambda: _host_name(), pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$")
    data: str = ""
    classes: tuple[str, ...] = ()
    model: str = ""
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    lan: Literal["on", "off"] = "on"
    seed: int | None = Field(None, ge=0, lt=2**31)
    threads: int = Field(1, ge=1, le=256)
    heartbeat_s: float = Field(2.0, ge=0.1, le=60)
    neighbours: int = Field(6, ge=3, le=64)
    quota_mb: int = Field(512, ge=16, le=1_000_000)
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    learning: Learning = Learning()
    anchor: Anchor = Anchor()
    pipeline: Pipeline = Pipeline()
    service: Service = Service()
    privacy: Privacy = Privacy()

    @property
    def on_lan(self) -> bool:
        """Whether members on the local network are looked for; one that listens to itself only has none."""
        return self.lan == "on" and not all(is_loopback(address) for address in self.listen)

    @field_validator("classes", "listen", "bootstrap", mode="before")
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("listen", "bootstrap")
    @classmethod
    def _multiaddrs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            if not re.match(r"^/(ip4|ip6|dns4|dns6|dns)/[^/]+/tcp/\d{1,5}(/p2p/[A-Za-z0-9]+)?$", address):
                raise ValueError(f"{address!r} is no address like /ip4/192.168.1.5/tcp/4810")
        return value


@dataclass(frozen=True)
class Places:
    """Where a device keeps its things: ``home`` for keys and state, ``config`` for the TOML file."""

    home: Path
    config: Path


def find_places(home: str | None = None, config: str | None = None) -> Places:
    """The XDG folders, unless ``--home``/``MESHLORE_HOME`` or ``--config``/``MESHLORE_CONFIG`` name others.

    A home named by hand holds its own ``config.toml``, so several nodes can live on one machine.
    """
    home = home or os.environ.get("MESHLORE_HOME")
    config = config or os.environ.get("MESHLORE_CONFIG")
    home_path = Path(home).expanduser() if home else Path(platformdirs.user_data_dir("meshlore"))
    if config:
        config_path = Path(config).expanduser()
    elif home:
        config_path = home_path / "config.toml"
    else:
        config_path = Path(platformdirs.user_config_dir("meshlore")) / "config.toml"
    return Places(home_path.absolute(), config_path.absolute())


def load_settings(
    config: Path, *, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Settings:
    """Merge file, environment and flags (``None`` flags count as not given).

    Raises:
        ConfigError: unknown key or bad value, with its origin and remedy.
    """
    values: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    text = _read(config)
    for path, value in _leaves(_parse(config, text)):
        _put(values, path, value)
        for depth in range(1, len(path) + 1):
            origins[path[:depth]] = f"{config}, line {_line_of(text, path[:depth])}"
    for path, value, variable in _from_environment(os.environ if environment is None else environment):
        _put(values, path, value)
        origins[path] = f"variable {variable}"
    for name, value in (flags or {}).items():
        if value is not None and value != ():
            path = tuple(name.split("."))
            _put(values, path, value)
            origins[path] = f"flag --{name.split('.')[-1].replace('_', '-')}"
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origins) from None


def is_loopback(address: str) -> bool:
    """Whether a multiaddress can be dialled from this machine only."""
    return address.startswith(("/ip4/127.", "/ip6/::1/", "/dns4/localhost/"))


def write_settings(config: Path, values: Mapping[str, Any]) -> None:
    """Write top-level settings as a new TOML file (0600), leaving out what is None or empty."""
    from ..security.files import write_atomic

    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value not in (None, "", ())]
    config.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(config, ("\n".join(lines) + "\n").encode())


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:32].strip("-._")
    return name or "node"


def _read(config: Path) -> str:
    try:
        return config.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {config} ({error})", "check that it is a text file you own") from None


def _parse(config: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{config} is not valid TOML ({error})", "mend that line or delete the file") from None


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for key, value in table.items():
        if isinstance(value, dict) and value:
            found += _leaves(value, (*path, key))
        else:
            found.append(((*path, key), value))
    return found


def _from_environment(environment: Mapping[str, str]) -> list[tuple[tuple[str, ...], str, str]]:
    return [
        (tuple(name[len(ENVIRONMENT_PREFIX) :].lower().split("__")), value, name)
        for name, value in sorted(environment.items())
        if name.startswith(ENVIRONMENT_PREFIX) and name not in RESERVED_VARIABLES
    ]


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        inner = values.setdefault(key, {})
        values = inner if isinstance(inner, dict) else values
    values[path[-1]] = value


def _line_of(text: str, path: tuple[str, ...]) -> int:
    """Where a key or table is; for one inside an inline table, where that is."""
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"^\s*\[([^\]]+)\]", line):
            section = tuple(part.strip().strip('"') for part in header[1].split("."))
            if section[: len(path)] == path:
                return number
        elif key := re.match(r"^\s*([\w.\"-]+)\s*=", line):
            full = section + tuple(part.strip('"') for part in key[1].split("."))
            if full[: len(path)] == path[: len(full)]:
                return number
    return 1


def _explain(error: ValidationError, origins: Mapping[tuple[str, ...], str]) -> ConfigError:
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    tables: dict[str, type[BaseModel]] = {
        "learning": Learning,
        "anchor": Anchor,
        "pipeline": Pipeline,
        "service": Service,
        "privacy": Privacy,
    }
    table = tables.get(str(path[0]), Settings) if len(path) > 1 else Settings
    known = list(table.model_fields)
    origin = _origin(path, origins)
    dotted = ".".join(path)
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(path[-1], known, n=1)
        remedy = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
        return ConfigError(f"{origin}: unknown setting {dotted!r}", remedy)
    reason = first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{origin}: {dotted} = {first['input']!r} is refused", reason[0].lower() + reason[1:])


def _origin(path: tuple[str, ...], origins: Mapping[tuple[str, ...], str]) -> str:
    """Where this setting comes from: itself, else what it is part of, else a part of it."""
    above = sorted((key for key in origins if key == path[: len(key)]), key=len, reverse=True)
    below = (key for key in origins if key[: len(path)] == path)
    return next((origins[key] for key in (*above, *below)), "settings")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # TOML's basic strings are JSON's, except that DEL is escaped too
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return str(value)
