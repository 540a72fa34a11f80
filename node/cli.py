"""The command line: ``meshlore --help``. Only what a command needs is imported, when it is needed.

Here is the life of a device, from founding or joining a mesh to its peers; the other commands come from their files.
"""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_audit import audit_app
from .cli_cluster import cluster, demo
from .cli_command import (
    Classes,
    Config,
    Data,
    Home,
    Json,
    Listen,
    Model,
    Name,
    Timeout,
    guarded,
    places_of,
    print_json,
    with_client,
)
from .cli_governing import delegate, revoke, rotate_root, use_signer
from .cli_tasks import task_app

app = typer.Typer(
    name="meshlore",
    help="Devices that may not pool their data teach each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point: runs a command; a `MeshloreError` becomes one line and its exit code."""
    app()


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("meshlore"))
        raise typer.Exit


@app.command()
@guarded
def init(
    data: Data = None,
    home: Home = None,
    config: Config = None,
    mesh: Annotated[str, typer.Option(help="Name of the new mesh.")] = "home",
    name: Name = None,
    classes: Classes = None,
    all_classes: Annotated[
        str | None,
        typer.Option(help="All classes of the mesh, comma-separated; those of the data if not given."),
    ] = None,
    size: Annotated[str | None, typer.Option(help="Sample size, like 28x28; from the data if not given.")] = None,
    colour: Annotated[str | None, typer.Option(help="'grey' or 'rgb'; from the data if not given.")] = None,
    ranges: Annotated[
        str | None, typer.Option(help="TOML file with lines like 'age = [0, 120]'; all members learn these bounds.")
    ] = None,
    model: Model = None,
    listen: Listen = None,
    role: Annotated[str, typer.Option(help="'node', or 'anchor' for a bigger model without own data.")] = "node",
) -> None:
    """Found a mesh: make its root key, this device's identity and its configuration."""
    from .setup import found

    found(
        places_of(home, config),
        {"name": name, "data": data, "classes": classes, "model": model, "listen": listen},
        mesh=mesh,
        role=role,
        all_classes=all_classes,
        size=size,
        colour=colour,
        ranges=ranges,
    )


@app.command()
@guarded
def invite(
    home: Home = None,
    role: Annotated[str, typer.Option(help="What the new member will be: 'node' or 'anchor'.")] = "node",
    minutes: Annotated[float, typer.Option(help="How long the invite can be used.")] = 15,
    json_: Json = False,
) -> None:
    """Print a one-use invite; the daemon must be running and hold the root key."""
    code = with_client(home, lambda mesh: mesh.invite(role=role, lifetime_s=60 * minutes))
    if json_:
        print_json({"code": code, "role": role, "minutes": minutes})
    else:
        typer.echo(code)


@app.command()
@guarded
def join(
    code: Annotated[str, typer.Argument(help="The invite that `meshlore invite` printed.")],
    data: Data = None,
    home: Home = None,
    config: Config = None,
    name: Name = None,
    classes: Classes = None,
    model: Model = None,
    listen: Listen = None,
    timeout: Timeout = 20,
) -> None:
    """Join a mesh with an invite; the inviting daemon must be running."""
    from .setup import join_with

    join_with(
        places_of(home, config),
        code,
        {"name": name, "data": data, "classes": classes, "model": model, "listen": listen},
        timeout_s=timeout,
    )


@app.command()
@guarded
def run(
    home: Home = None,
    config: Config = None,
    data: Data = None,
    classes: Classes = None,
    model: Model = None,
    listen: Listen = None,
    bootstrap: Annotated[str | None, typer.Option(help="Addresses of members to dial first, comma-separated.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run this device's node until Ctrl-C."""
    from .settings import load_settings

    places = places_of(home, config)
    settings = load_settings(
        places.config,
        flags={
            "data": data,
            "classes": classes,
            "model": model,
            "listen": listen,
            "bootstrap": bootstrap,
            "log_level": log_level,
        },
    )
    from .daemon import run_daemon
    from .setup import passphrase_from_environment

    run_daemon(places.home, settings, passphrase=passphrase_from_environment())


@app.command()
@guarded
def status(home: Home = None, json_: Json = False) -> None:
    """Show what the node on this device is, has and does."""
    value = with_client(home, lambda mesh: mesh.status())
    if json_:
        print_json(value)
    else:
        from .display import show_status

        show_status(value)


@app.command()
@guarded
def peers(home: Home = None, json_: Json = False) -> None:
    """List the members that this node knows."""
    value = with_client(home, lambda mesh: mesh.peers())
    if json_:
        print_json(value)
    else:
        from .display import show_peers

        show_peers(value)


@app.command()
@guarded
def doctor(home: Home = None, config: Config = None, json_: Json = False) -> None:
    """Say why this device does not find its mesh, and what to do; exit code 1 if something must be mended."""
    import asyncio

    from .doctor import examine
    from .settings import load_settings

    places = places_of(home, config)
    examination = asyncio.run(examine(places, load_settings(places.config)))
    if json_:
        print_json(examination.to_map())
    else:
        from .display import show_examination

        show_examination(examination)
    if not examination.healthy:
        raise typer.Exit(1)


app.command()(demo)
app.command()(cluster)
app.command()(revoke)
app.command()(rotate_root)
app.command()(delegate)
app.command()(use_signer)
app.add_typer(task_app, name="task")
app.add_typer(audit_app, name="audit")
