"""``meshlore demo`` and ``meshlore cluster``: many nodes on one machine, and the report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .cli_command import Json, Timeout, guarded, print_json

MOST_PROCESSES = 64
MOST_IN_PROCESS = 1000


@guarded
def demo(
    seed: Annotated[int, typer.Option(help="Splits, models and training.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the picture.")] = Path("runs/demo"),
    json_: Json = False,
) -> None:
    """Five nodes and an anchor on this machine teach each other the digits; about a minute."""
    from .cluster import run_cluster
    from .cluster_options import ClusterOptions

    _finish_cluster(run_cluster(ClusterOptions(seed=seed, output=output), live=not json_), json_)


@guarded
def cluster(
    nodes: Annotated[int, typer.Option(help="How many nodes.", min=1, max=MOST_IN_PROCESS)] = 5,
    data: Annotated[
        str, typer.Option(help="digits, fashion-mnist, breast-cancer, wine, a folder of class folders, a CSV file.")
    ] = "digits",
    alpha: Annotated[float, typer.Option(help="Skew of the split (Dirichlet): small is skewed.", min=0.001)] = 0.1,
    seed: Annotated[int, typer.Option(help="Splits, models and training.")] = 0,
    anchor: Annotated[bool, typer.Option("--anchor/--no-anchor", help="With an anchor beside the nodes.")] = True,
    samples: Annotated[int, typer.Option(help="Use only so many training samples; 0: all.")] = 0,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the picture.")] = Path("runs/cluster"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the nodes' homes in the output folder.")] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="All nodes in this one process, over memory: for studies of many.")
    ] = False,
    ray: Annotated[
        bool, typer.Option("--ray", help="Each node an actor of Ray, on this machine or the Ray cluster at ADDRESS.")
    ] = False,
    address: Annotated[str | None, typer.Argument(metavar="[ADDRESS]", help="With --ray: HOST:PORT.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of every node, like learning.distil_steps=60.")
    ] = None,
    timeout: Timeout = 3600,
    json_: Json = False,
) -> None:
    """Many nodes teach each other: each a process on this machine, all in one process, or actors of Ray."""
    from .cluster_options import ClusterOptions, parse_settings

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
        settings=parse_settings(settings or []),
    )
    if in_process and ray:
        raise ConfigError("--in-process and --ray", "choose one")
    if address is not None and not ray:
        raise ConfigError(f"{address!r} is an address of Ray", f"put --ray before it: --ray {address}")
    if in_process:
        from .in_process_cluster import run_in_process_cluster

        report = run_in_process_cluster(options, live=not json_)
    elif ray:
        from .ray_cluster import run_ray_cluster
        from .ray_session import LOCAL

        report = run_ray_cluster(options, address=address or LOCAL, live=not json_)
    elif nodes > MOST_PROCESSES:
        raise ConfigError(f"{nodes} processes are too many for one machine", "add --in-process, or --ray ADDRESS")
    else:
        from .cluster import run_cluster

        report = run_cluster(options, live=not json_)
    _finish_cluster(report, json_)


def _finish_cluster(report: Any, as_json: bool) -> None:
    if as_json:
        print_json(report.to_json())
        return
    from .display import show_report

    show_report(report)
