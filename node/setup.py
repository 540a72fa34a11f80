"""Founding a mesh and joining one: what `meshlore init` and `meshlore join` do.

All that can be wrong with data, model and settings is found before the first file is written.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..errors import ConfigError, DataError, ModelError, StateError
from ..knowledge.data import Dataset
from ..knowledge.sources import Loaded, check_source, load, load_private
from ..knowledge.space import Space
from ..knowledge.tables import read_ranges
from ..mesh.addresses import save_book
from ..security.files import make_private_folder
from ..security.invites import Invite, host_of
from ..security.join import Admission
from ..security.membership import Credentials, found_mesh
from .membership import ROLES_OF
from .settings import Places, Settings, load_settings, write_settings

ADDRESS_BOOK = "addresses.bin"


def found(
    places: Places,
    flags: Mapping[str, Any],
    *,
    mesh: str,
    role: str,
    all_classes: str | None,
    size: str | None,
    colour: str | None,
    ranges: str | None = None,
) -> Credentials:
    """Make a mesh whose space is that of the data, with this device as its first member.

    Raises:
        ConfigError, DataError, ModelError, StateError: nothing was written.
    """
    _check_new(places)
    if role not in ROLES_OF:
        raise ConfigError(f"role {role!r}", f"one of {', '.join(ROLES_OF)}")
    settings = load_settings(places.config, flags=flags)
    if not settings.data:
        raise ConfigError(
            "no data source was given",
            "--data digits, --data FOLDER with one folder per class, or --data FILE.csv",
        )
    loaded = load(
        settings.data,
        size=_size(size),
        channels=_channels(colour),
        classes=[name.strip() for name in all_classes.split(",")] if all_classes else None,
        ranges=read_ranges(Path(ranges).expanduser()) if ranges else None,
    )
    space = loaded.dataset.space
    used = _check_usable(settings, role, loaded.dataset, space)
    passphrase = passphrase_from_environment()
    roles = list(ROLES_OF[role])
    credentials = found_mesh(places.home, mesh, settings.name, space.to_map(), roles, passphrase, now=time.time())
    write_settings(places.config, _absolute(flags))
    _say(loaded, used, space)
    typer.echo(f"mesh {mesh!r} ({credentials.mesh_id[:12]}…) founded; this device is {settings.name!r}")
    _say_keys(places, passphrase)
    typer.echo("next: meshlore run, and in another terminal meshlore invite")
    return credentials


def join_with(places: Places, code: str, flags: Mapping[str, Any], *, timeout_s: float) -> Credentials:
    """Become a member with an invite.

    What can be checked before is checked before. Whether data and model fit the mesh shows only when the
    host has told what the mesh is about; by then this device is a member, and the error says how to go on.

    Raises:
        InviteError, Unreachable, ConfigError, StateError: nothing was written, and unless the host answered,
            the invite can be used again.
        DataError, ModelError: likewise, or joined, with data or a model that do not fit yet.
    """
    from ..knowledge.models import find_model
    from ..mesh.join import join_mesh
    from ..security.identity import Identity

    _check_new(places)
    invite = Invite.parse(code)
    settings = load_settings(places.config, flags=flags)
    role = "anchor" if "anchor" in invite.roles else "node"
    if settings.data:
        check_source(settings.data)
    elif role == "node":
        raise ConfigError("no data source was given", "--data FOLDER with one folder per class, or --data FILE.csv")
    if settings.model:
        find_model(settings.model)
    make_private_folder(places.home)
    passphrase = passphrase_from_environment()
    identity = Identity.generate()
    admission = asyncio.run(join_mesh(invite, identity, settings.name, timeout_s=timeout_s))
    credentials = settle_in(places.home, admission, passphrase)
    write_settings(places.config, _absolute(flags) | {"bootstrap": list(invite.addresses)})
    typer.echo(f"joined mesh {credentials.charter.name!r} as {settings.name!r}")
    _say_keys(places, passphrase)
    try:
        if role == "node":
            space = Space.from_map(credentials.charter.space)
            loaded = load_private(settings.data, space, settings.classes)
            space = loaded.dataset.space
            _say(loaded, _check_usable(settings, role, loaded.dataset, space), space)
    except (DataError, ModelError) as error:
        how = "this device has joined: mend that, or start with other ones, meshlore run --data ... --model ..."
        raise type(error)(error.message, f"{error.remedy}; {how}") from None
    typer.echo("next: meshlore run")
    return credentials


def passphrase_from_environment() -> str | None:
    """What wraps the keys at rest, from ``MESHLORE_PASSPHRASE``; an empty one counts as none."""
    return os.environ.get("MESHLORE_PASSPHRASE") or None


def settle_in(home: Path, admission: Admission, passphrase: str | None) -> Credentials:
    """Save what a welcome brought: credentials, and where other members can be reached."""
    credentials = admission.credentials()
    credentials.save(home, passphrase)
    book: dict[str, tuple[str, ...]] = {}
    for address in admission.peers:
        book[host_of(address)] = (*book.get(host_of(address), ()), address)
    if book:
        save_book(home / ADDRESS_BOOK, book)
    return credentials


def _check_new(places: Places) -> None:
    if (places.home / "member.cert").exists():
        raise StateError(f"{places.home} already belongs to a mesh", "run it: meshlore run, or give another --home")
    if places.config.exists():
        load_settings(places.config)


def _check_usable(settings: Settings, role: str, dataset: Dataset, space: Space) -> Dataset:
    from ..knowledge.models import build_model, default_model

    build_model(settings.model or default_model(space, role), space, seed=0)
    return dataset.select_classes(settings.classes) if settings.classes else dataset


def _say(loaded: Loaded, used: Dataset, space: Space) -> None:
    for note in loaded.notes:
        typer.echo(note)
    typer.echo(f"space: {space}; {len(used)} samples here of {', '.join(used.class_names())}")


def _say_keys(places: Places, passphrase: str | None) -> None:
    kept = "wrapped with your passphrase" if passphrase else "readable by you only (0600), not encrypted"
    typer.echo(f"keys in {places.home}: {kept}; settings in {places.config}")


def _absolute(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags as settings to keep: a folder of data is named by its absolute path."""
    kept = {key: value for key, value in flags.items() if value is not None}
    for key in ("classes", "listen"):
        if isinstance(kept.get(key), str):
            kept[key] = [part.strip() for part in kept[key].split(",") if part.strip()]
    data = kept.get("data")
    if data and os.path.exists(os.path.expanduser(data)):
        kept["data"] = os.path.abspath(os.path.expanduser(data))
    return kept


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise ConfigError(f"size {text!r}", "give WIDTHxHEIGHT in pixels, like 28x28")
    return int(height), int(width)


def _channels(colour: str | None) -> int | None:
    if colour is None:
        return None
    if colour not in ("grey", "rgb"):
        raise ConfigError(f"colour {colour!r}", "'grey' or 'rgb'")
    return 1 if colour == "grey" else 3
