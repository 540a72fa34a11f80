"""``meshlore revoke`` and ``meshlore rotate-root``: what only the holder of the root key does."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from ..errors import DaemonNotRunning
from .cli_command import Home, Json, guarded, places_of, print_json, with_client

DAY_S = 86_400


@guarded
def revoke(
    member: Annotated[str, typer.Argument(help="Name or peer id of the member; without a daemon, its peer id.")],
    home: Home = None,
    json_: Json = False,
) -> None:
    """Take a member's membership away, for good: all members refuse it and hang up on it within seconds."""
    try:
        done = with_client(home, lambda mesh: mesh.revoke(member))
    except DaemonNotRunning:
        done = _revoke_at_rest(home, member)
    if json_:
        print_json(done)
    else:
        typer.echo(f"revoked {done['name'] or done['peer_id']} (version {done['version']} of the list)")


@guarded
def rotate_root(
    home: Home = None,
    overlap_days: Annotated[
        float, typer.Option(help="How long certificates of the old root stay valid; 0 if it was stolen: all join anew.")
    ] = 30,
    json_: Json = False,
) -> None:
    """Put a new root key in place of the present one; members follow by themselves while the two overlap."""
    try:
        done = with_client(home, lambda mesh: mesh.rotate_root(overlap_s=DAY_S * overlap_days))
    except DaemonNotRunning:
        done = _rotate_at_rest(home, DAY_S * overlap_days)
    if json_:
        print_json(done)
    else:
        until = time.strftime("%Y-%m-%d %H:%M", time.localtime(done["until"]))
        typer.echo(f"the new root key is {done['root'][:16]}…; certificates of the old one count until {until}")


def _revoke_at_rest(home: str | None, member: str) -> dict[str, Any]:
    from ..security.governance import revoke as revoke_member
    from .governing import change_at_rest, named
    from .setup import passphrase_from_environment

    peer_id, name = named(member, ())
    changed = change_at_rest(
        places_of(home, None).home,
        passphrase_from_environment(),
        lambda own, now: revoke_member(own, peer_id, now),
    )
    return {"name": name, "peer_id": peer_id, "version": changed.authority.revocations.version}


def _rotate_at_rest(home: str | None, overlap_s: float) -> dict[str, Any]:
    from ..security.governance import rotate_root as rotate
    from .governing import change_at_rest
    from .setup import passphrase_from_environment

    changed = change_at_rest(
        places_of(home, None).home, passphrase_from_environment(), lambda own, now: rotate(own, now, overlap_s)
    )
    link = changed.authority.links[-1]
    return {"root": link.public_key.hex(), "until": link.until}
