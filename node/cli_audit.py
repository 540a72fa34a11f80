"""``meshlore audit``: the audits of `meshlore.node.audit` as commands."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .cli_command import Config, Data, Home, Json, guarded, places_of, print_json

audit_app = typer.Typer(help="Attack what this device would publish, to see what it tells.", no_args_is_help=True)

Mode = Annotated[str | None, typer.Option(help="off, filter or dp; as in the configuration if not given.")]
Records = Annotated[int, typer.Option(help="Records to attack.", min=20)]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer records, less work: a minute or two for digits.")]


@audit_app.command("membership")
@guarded
def audit_membership(
    data: Data = None,
    home: Home = None,
    config: Config = None,
    mode: Mode = None,
    records: Records = 400,
    publications: Annotated[int, typer.Option(help="How many publications are made and compared.", min=4)] = 16,
    seed: Annotated[int, typer.Option(help="Choice of records and publications.")] = 0,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """Can an attacker tell from what is published who is in the data? (LiRA, with a power check)"""
    _audit("membership", places_of(home, config), data, mode, (records, publications, seed), quick=quick, as_json=json_)


@audit_app.command("one-run")
@guarded
def audit_one_run(
    data: Data = None,
    home: Home = None,
    config: Config = None,
    mode: Mode = None,
    records: Records = 400,
    seed: Annotated[int, typer.Option(help="Choice of canaries and coin tosses.")] = 0,
    quick: Quick = False,
    json_: Json = False,
) -> None:
    """How large must epsilon be at least, going by one publication with canaries? (with a power check)"""
    _audit("one-run", places_of(home, config), data, mode, (records, 0, seed), quick=quick, as_json=json_)


def _audit(
    kind: Any,
    places: Any,
    data: str | None,
    mode: str | None,
    size: tuple[int, int, int],
    *,
    quick: bool,
    as_json: bool,
) -> None:
    from .display import task_progress
    from .settings import load_settings

    settings = load_settings(places.config, flags={"data": data, "privacy.mode": mode})
    if not settings.data:
        raise ConfigError("no data source was given", "--data digits, or --data FOLDER")
    from .audit import AuditOptions, audit, in_words

    records, publications, seed = size
    options = AuditOptions(settings.data, settings.privacy, settings.model, records, publications, seed)
    with task_progress(f"audit {kind}") as show:
        value = audit(kind, options.quick() if quick else options, show)
    if as_json:
        print_json(value)
        return
    for line in in_words(value):
        typer.echo(line)
