"""``meshlore task``: hand a task to the daemon on this device, and show what came of it and who answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .cli_command import Home, Json, Timeout, guarded, print_json, with_client

task_app = typer.Typer(help="Inject a task into the mesh through the daemon on this device.", no_args_is_help=True)

Where = Annotated[str, typer.Option(help="'best', 'here', or the name of a node.")]


@task_app.command()
@guarded
def classify(
    files: Annotated[list[Path], typer.Argument(help="Image files, or CSV files with a sample per row.")],
    home: Home = None,
    where: Where = "best",
    personal: Annotated[
        bool, typer.Option("--personal", help="For samples like this device's own; answered here.")
    ] = False,
    timeout: Timeout = 60,
    json_: Json = False,
) -> None:
    """Name the class of each sample. Unless --where here, samples may be sent to the member who knows best."""
    from ..knowledge.samples import read_files
    from .tasks import Classify

    samples = read_files(files, _space(home))
    result = _submit(home, Classify(samples, where=where, head="personal" if personal else "global"), timeout)
    if json_:
        print_json(
            {
                "images": [
                    {"path": name, "label": label, "confidence": confidence}
                    for name, label, confidence in zip(samples.names, result.labels, result.confidence, strict=True)
                ],
                "answer": _answer(result),
            }
        )
        return
    for name, label, confidence in zip(samples.names, result.labels, result.confidence, strict=True):
        typer.echo(f"{name}: {label} ({confidence:.0%})")
    _say_who(result)


@task_app.command()
@guarded
def generate(
    label: Annotated[str, typer.Option(help="The class to draw.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="PNG (tables: CSV) file to write.")],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 16,
    seed: Annotated[int, typer.Option(help="Same seed, same node: same samples.")] = 0,
    home: Home = None,
    where: Where = "best",
    timeout: Timeout = 60,
    json_: Json = False,
) -> None:
    """Draw new samples of a class and write them to one PNG, those of tables to a CSV file."""
    from ..knowledge.samples import check_writable, write_samples
    from .tasks import Generate

    space = _space(home)
    check_writable(output, space)
    result = _submit(home, Generate(label, n, seed, where=where), timeout)
    write_samples(output, result.images, label, space)
    if json_:
        print_json({"path": str(output), "n": n, "confidence": result.confidence, "answer": _answer(result)})
        return
    typer.echo(f"{output}: {n} samples of {label!r}; {result.confidence:.0%} of them look like it to their maker")
    _say_who(result)


@task_app.command()
@guarded
def evaluate(
    data: Annotated[
        str, typer.Argument(help="digits:test or another built-in one, a folder of class folders, a CSV file.")
    ],
    home: Home = None,
    where: Where = "here",
    before: Annotated[bool, typer.Option("--before", help="Measure the classifier before the mesh taught it.")] = False,
    timeout: Timeout = 300,
    json_: Json = False,
) -> None:
    """Measure a node's classifier on labelled samples; this node's by default."""
    from dataclasses import asdict

    from .tasks import Evaluate

    dataset = _load(home, data)
    result = _submit(
        home, Evaluate(dataset, dataset.labels, where=where, version="before" if before else "now"), timeout
    )
    if json_:
        print_json(asdict(result))
        return
    personal = "" if result.personal is None else f", with this node's class mix {result.personal:.1%}"
    typer.echo(f"{result.images} samples: {result.accuracy:.1%} right, classes alike {result.balanced:.1%}{personal}")
    for name, share in result.per_class.items():
        typer.echo(f"  {name:>12} {share:6.1%}")
    _say_who(result)


@task_app.command("fine-tune")
@guarded
def fine_tune(
    data: Annotated[str, typer.Argument(help="A folder of class folders, a CSV file, or a built-in data set.")],
    home: Home = None,
    steps: Annotated[int, typer.Option(help="Optimisation steps; 0: as many as the node's own training.")] = 0,
    timeout: Timeout = 600,
    json_: Json = False,
) -> None:
    """Teach this device's classifier labelled samples. They join its private data and never leave it."""
    from dataclasses import asdict

    from .tasks import FineTune

    dataset = _load(home, data)
    result = _submit(home, FineTune(dataset, dataset.labels, steps), timeout)
    if json_:
        print_json(asdict(result))
        return
    verdict = "kept" if result.kept else "rolled back: it was worse at home"
    typer.echo(f"{result.images} samples: {result.before:.1%} -> {result.after:.1%} right; {verdict}")
    typer.echo(f"private hold-out: {result.home_before:.1%} -> {result.home_after:.1%}")


@task_app.command()
@guarded
def skill(
    classes: Annotated[list[str], typer.Argument(help="Names of classes that others know and this device does not.")],
    home: Home = None,
    where: Annotated[
        str, typer.Option(help="'best': the anchor or whoever knows most, or the name of a node.")
    ] = "best",
    timeout: Timeout = 600,
    json_: Json = False,
) -> None:
    """Learn to do here what others do better: fetch what they know about a few classes, and distil it."""
    from dataclasses import asdict

    from .tasks import Skill

    result = _submit(home, Skill(tuple(classes), where=where), timeout)
    if json_:
        print_json(asdict(result))
        return
    for name in result.classes:
        typer.echo(f"  {name:>12} {result.before[name]:6.1%} -> {result.after[name]:6.1%}")
    at_home = "" if result.home_before is None else f"; at home {result.home_before:.1%} -> {result.home_after:.1%}"
    verdict = "kept" if result.kept else f"not kept: {result.reason}"
    typer.echo(f"{result.samples} samples: {verdict}{at_home}")
    _say_who(result)


def _submit(home: str | None, task: Any, timeout_s: float) -> Any:
    from .display import task_progress

    with task_progress(task.kind) as show:
        return with_client(home, lambda mesh: mesh.submit(task, timeout_s=timeout_s, on_progress=show))


def _load(home: str | None, source: str) -> Any:
    from ..knowledge.sources import load

    return load(source, space=_space(home)).dataset


def _space(home: str | None) -> Any:
    from ..knowledge.space import Space

    return Space.from_map(with_client(home, lambda mesh: mesh.status())["space"])


def _answer(result: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(result.answer)


def _say_who(result: Any) -> None:
    answer = result.answer
    tried = f", after {', '.join(answer.tried)} failed" if answer.tried else ""
    place = {"here": "this node", "peer": "a peer", "anchor": "the anchor"}[answer.hop]
    typer.echo(f"answered by {answer.node} ({place}) in {answer.took_s:.2f} s{tried}", err=True)
