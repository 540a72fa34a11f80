"""What the commands of ``meshlore`` share: options, one line for an error, one JSON document, and the daemon to ask."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from ..errors import MeshloreError

P = ParamSpec("P")
R = TypeVar("R")

Home = Annotated[str | None, typer.Option(help="Folder of keys, state and config.toml. [env: MESHLORE_HOME]")]
Config = Annotated[str | None, typer.Option(help="Configuration file (TOML). [env: MESHLORE_CONFIG]")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]
Name = Annotated[str | None, typer.Option(help="Name of this node; the host name if not given.")]
Data = Annotated[
    str | None, typer.Option(help="A folder with one sub-folder per class, a CSV file, or a built-in one like digits.")
]
Classes = Annotated[str | None, typer.Option(help="Use only these classes of the data, comma-separated.")]
Model = Annotated[str | None, typer.Option(help="A built-in model or package.module:factory.")]
Listen = Annotated[str | None, typer.Option(help="Address to listen on, like /ip4/192.168.1.5/tcp/4810.")]
Timeout = Annotated[float, typer.Option(help="Deadline in seconds.")]


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """One clear line instead of a traceback for every error that we foresee."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except MeshloreError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("stopped", 130)
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(0) from None

    return run


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"meshlore: {message}", err=True)
    raise typer.Exit(code)


def places_of(home: str | None, config: str | None) -> Any:
    """Where this device keeps its keys and its configuration (`meshlore.node.settings.Places`)."""
    from .settings import find_places

    return find_places(home, config)


def with_client(home: str | None, ask: Callable[[Any], Any]) -> Any:
    """What the daemon of this home answers; ``ask`` gets a connected `meshlore.node.client.MeshClient`."""
    import asyncio

    from .client import connect

    async def talk() -> Any:
        async with connect(home) as mesh:
            return await ask(mesh)

    return asyncio.run(talk())


def print_json(value: Any) -> None:
    """One JSON document on one line."""
    typer.echo(json.dumps(value, default=str))
