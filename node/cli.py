"""The command line: ``meshlore --help``. Only what a command needs is imported, when it is needed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec, TypeVar

import typer

from ..errors import ConfigError, MeshloreError

P = ParamSpec("P")
R = TypeVar("R")

app = typer.Typer(
    name="meshlore",
    help="Devices that may not pool their data teach each other.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
task_app = typer.Typer(help="Inject a task into the mesh through the daemon on this device.", no_args_is_help=True)
app.add_typer(task_app, name="task")

Home = Annotated[str | None, typer.Option(help="Folder of keys, state and config.toml. [env: MESHLORE_HOME]")]
Config = Annotated[str | None, typer.Option(help="Configuration file (TOML). [env: MESHLORE_CONFIG]")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]
Name = Annotated[str | None, typer.Option(help="Name of this node; the host name if not given.")]
Data = Annotated[str | None, typer.Option(help="digits, fashion-mnist, or a folder with one sub-folder per class.")]
Classes = Annotated[str | None, typer.Option(help="Use only these classes of the data, comma-separated.")]
Model = Annotated[str | None, typer.Option(help="A built-in model or package.module:factory.")]
Listen = Annotated[str | None, typer.Option(help="Address to listen on, like /ip4/192.168.1.5/tcp/4810.")]
Timeout = Annotated[float, typer.Option(help="Deadline in seconds.")]
Where = Annotated[str, typer.Option(help="'best', 'here', or the name of a node.")]


def main() -> None:
    """Entry point: runs a command; a `MeshloreError` becomes one line and its exit code."""
    app()


def _guarded(command: Callable[P, R]) -> Callable[P, R]:
    """One clear line instead of a traceback for every error that we foresee."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except MeshloreError as error:
            _fail(str(error), error.exit_code)
        except KeyboardInterrupt:
            _fail("stopped", 130)
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(0) from None

    return guarded


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"meshlore: {message}", err=True)
    raise typer.Exit(code)


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("meshlore"))
        raise typer.Exit


@app.command()
@_guarded
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
    model: Model = None,
    listen: Listen = None,
    role: Annotated[str, typer.Option(help="'node', or 'anchor' for a bigger model without own data.")] = "node",
) -> None:
    """Found a mesh: make its root key, this device's identity and its configuration."""
    from .setup import found

    found(
        _places(home, config),
        {"name": name, "data": data, "classes": classes, "model": model, "listen": listen},
        mesh=mesh,
        role=role,
        all_classes=all_classes,
        size=size,
        colour=colour,
    )


@app.command()
@_guarded
def invite(
    home: Home = None,
    role: Annotated[str, typer.Option(help="What the new member will be: 'node' or 'anchor'.")] = "node",
    minutes: Annotated[float, typer.Option(help="How long the invite can be used.")] = 15,
    json_: Json = False,
) -> None:
    """Print a one-use invite; the daemon must be running and hold the root key."""
    code = _with_client(home, lambda mesh: mesh.invite(role=role, lifetime_s=60 * minutes))
    if json_:
        _print_json({"code": code, "role": role, "minutes": minutes})
    else:
        typer.echo(code)


@app.command()
@_guarded
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
        _places(home, config),
        code,
        {"name": name, "data": data, "classes": classes, "model": model, "listen": listen},
        timeout_s=timeout,
    )


@app.command()
@_guarded
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

    places = _places(home, config)
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
@_guarded
def status(home: Home = None, json_: Json = False) -> None:
    """Show what the node on this device is, has and does."""
    value = _with_client(home, lambda mesh: mesh.status())
    if json_:
        _print_json(value)
    else:
        from .display import show_status

        show_status(value)


@app.command()
@_guarded
def peers(home: Home = None, json_: Json = False) -> None:
    """List the members that this node knows."""
    value = _with_client(home, lambda mesh: mesh.peers())
    if json_:
        _print_json(value)
    else:
        from .display import show_peers

        show_peers(value)


@task_app.command()
@_guarded
def classify(
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    home: Home = None,
    where: Where = "best",
    timeout: Timeout = 60,
    json_: Json = False,
) -> None:
    """Name the class of each image. Unless --where here, images may be sent to the member who knows best."""
    from .tasks import Classify

    result = _submit(home, Classify([str(path) for path in images], where=where), timeout)
    if json_:
        _print_json(
            {
                "images": [
                    {"path": str(path), "label": label, "confidence": confidence}
                    for path, label, confidence in zip(images, result.labels, result.confidence, strict=True)
                ],
                "answer": _answer(result),
            }
        )
        return
    for path, label, confidence in zip(images, result.labels, result.confidence, strict=True):
        typer.echo(f"{path}: {label} ({confidence:.0%})")
    _say_who(result)


@task_app.command()
@_guarded
def generate(
    label: Annotated[str, typer.Option(help="The class to draw.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG file to write.")],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    seed: Annotated[int, typer.Option(help="Same seed, same node: same images.")] = 0,
    home: Home = None,
    where: Where = "best",
    timeout: Timeout = 60,
    json_: Json = False,
) -> None:
    """Draw new images of a class and write them to one PNG."""
    from .display import write_sheet
    from .tasks import Generate

    if output.suffix.lower() != ".png":
        raise ConfigError(f"{output} does not end in .png", "name a PNG file")
    result = _submit(home, Generate(label, n, seed, where=where), timeout)
    write_sheet(result.images, output)
    if json_:
        _print_json({"path": str(output), "n": n, "confidence": result.confidence, "answer": _answer(result)})
        return
    typer.echo(f"{output}: {n} images of {label!r}; {result.confidence:.0%} of them look like it to their maker")
    _say_who(result)


@task_app.command()
@_guarded
def evaluate(
    data: Annotated[str, typer.Argument(help="digits:test, fashion-mnist:test, or a folder of class folders.")],
    home: Home = None,
    where: Where = "here",
    before: Annotated[bool, typer.Option("--before", help="Measure the classifier before the mesh taught it.")] = False,
    timeout: Timeout = 300,
    json_: Json = False,
) -> None:
    """Measure a node's classifier on labelled images; this node's by default."""
    from dataclasses import asdict

    from .tasks import Evaluate

    dataset = _load(home, data)
    result = _submit(
        home, Evaluate(dataset, dataset.labels, where=where, version="before" if before else "now"), timeout
    )
    if json_:
        _print_json(asdict(result))
        return
    personal = "" if result.personal is None else f", with this node's class mix {result.personal:.1%}"
    typer.echo(f"{result.images} images: {result.accuracy:.1%} right, classes alike {result.balanced:.1%}{personal}")
    for name, share in result.per_class.items():
        typer.echo(f"  {name:>12} {share:6.1%}")
    _say_who(result)


@task_app.command("fine-tune")
@_guarded
def fine_tune(
    data: Annotated[str, typer.Argument(help="A folder of class folders, or a built-in data set.")],
    home: Home = None,
    steps: Annotated[int, typer.Option(help="Optimisation steps; 0: as many as the node's own training.")] = 0,
    timeout: Timeout = 600,
    json_: Json = False,
) -> None:
    """Teach this device's classifier labelled images. They join its private data and never leave it."""
    from dataclasses import asdict

    from .tasks import FineTune

    dataset = _load(home, data)
    result = _submit(home, FineTune(dataset, dataset.labels, steps), timeout)
    if json_:
        _print_json(asdict(result))
        return
    verdict = "kept" if result.kept else "rolled back: it was worse at home"
    typer.echo(f"{result.images} images: {result.before:.1%} -> {result.after:.1%} right; {verdict}")
    typer.echo(f"private hold-out: {result.home_before:.1%} -> {result.home_after:.1%}")


@app.command()
@_guarded
def demo(
    seed: Annotated[int, typer.Option(help="Splits, models and training.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the picture.")] = Path("runs/demo"),
    json_: Json = False,
) -> None:
    """Five nodes and an anchor on this machine teach each other the digits; about a minute."""
    from .cluster import ClusterOptions, run_cluster

    _finish_cluster(run_cluster(ClusterOptions(seed=seed, output=output), live=not json_), json_)


@app.command()
@_guarded
def cluster(
    nodes: Annotated[int, typer.Option(help="How many nodes.", min=1, max=64)] = 5,
    data: Annotated[str, typer.Option(help="digits, fashion-mnist, or a folder of class folders.")] = "digits",
    alpha: Annotated[float, typer.Option(help="Skew of the split (Dirichlet): small is skewed.", min=0.001)] = 0.1,
    seed: Annotated[int, typer.Option(help="Splits, models and training.")] = 0,
    anchor: Annotated[bool, typer.Option("--anchor/--no-anchor", help="With an anchor beside the nodes.")] = True,
    samples: Annotated[int, typer.Option(help="Use only so many training samples; 0: all.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the picture.")] = Path("runs/cluster"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the nodes' homes in the output folder.")] = False,
    timeout: Timeout = 3600,
    json_: Json = False,
) -> None:
    """Many nodes on this machine teach each other, each in a process of its own."""
    from .cluster import ClusterOptions, run_cluster

    options = ClusterOptions(
        nodes=nodes,
        data=data,
        alpha=alpha,
        seed=seed,
        anchor=anchor,
        samples=samples,
        output=output,
        keep=keep,
        timeout_s=timeout,
    )
    _finish_cluster(run_cluster(options, live=not json_), json_)


def _finish_cluster(report: Any, as_json: bool) -> None:
    if as_json:
        _print_json(report.to_json())
        return
    from .display import show_report

    show_report(report)


def _places(home: str | None, config: str | None) -> Any:
    from .settings import find_places

    return find_places(home, config)


def _with_client(home: str | None, ask: Callable[[Any], Any]) -> Any:
    import asyncio

    from .client import connect

    async def talk() -> Any:
        async with connect(home) as mesh:
            return await ask(mesh)

    return asyncio.run(talk())


def _submit(home: str | None, task: Any, timeout_s: float) -> Any:
    from .display import task_progress

    with task_progress(task.kind) as show:
        return _with_client(home, lambda mesh: mesh.submit(task, timeout_s=timeout_s, on_progress=show))


def _load(home: str | None, source: str) -> Any:
    from ..knowledge.sources import load
    from ..knowledge.space import Space

    space = Space.from_map(_with_client(home, lambda mesh: mesh.status())["space"])
    return load(source, space=space).dataset


def _answer(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result.answer)


def _say_who(result: Any) -> None:
    answer = result.answer
    tried = f", after {', '.join(answer.tried)} failed" if answer.tried else ""
    place = {"here": "this node", "peer": "a peer", "anchor": "the anchor"}[answer.hop]
    typer.echo(f"answered by {answer.node} ({place}) in {answer.took_s:.2f} s{tried}", err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, default=str))
