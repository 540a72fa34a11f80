"""``meshlore revoke``, ``rotate-root``, ``delegate``: what only the holder of the root key does; and ``use-signer``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import DaemonNotRunning
from .cli_command import Home, Json, guarded, places_of, print_json, with_client

DAY_S = 86_400
SIGNER_VARIABLE = "MESHLORE_SIGNER_PASSPHRASE"


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


@guarded
def delegate(
    file: Annotated[Path, typer.Argument(help="New file for the signer's key, to be carried to the other device.")],
    home: Home = None,
    days: Annotated[float, typer.Option(help="How long it may sign; 366 at most.")] = 365,
    json_: Json = False,
) -> None:
    """Make a key with which another member invites and renews, so that the founder's device need not be there.

    No daemon may run in the home. With MESHLORE_SIGNER_PASSPHRASE set, the file is encrypted.
    """
    from ..errors import ConfigError
    from ..security.governance import delegate as delegated
    from .governing import change_at_rest
    from .setup import passphrase_from_environment

    if file.exists():
        raise ConfigError(f"{file} exists", "name a new file")
    passphrase = os.environ.get(SIGNER_VARIABLE)

    def step(own: Any, now: float) -> Any:
        changed, signer = delegated(own, now, DAY_S * days)
        # first, so that no signer counts whose key was lost
        signer.save(file, passphrase)
        return changed

    changed = change_at_rest(places_of(home, None).home, passphrase_from_environment(), step)
    link = changed.authority.links[-1]
    if json_:
        return print_json({"signer": link.public_key.hex(), "until": link.until, "encrypted": passphrase is not None})
    how = "encrypted" if passphrase is not None else f"not encrypted: set {SIGNER_VARIABLE} for that"
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(link.until))
    typer.echo(f"wrote {file} ({how}); it may sign until {until}")
    return typer.echo("next: meshlore run here, and on the other device, once both have met: meshlore use-signer FILE")


@guarded
def use_signer(
    file: Annotated[Path, typer.Argument(help="What meshlore delegate wrote on the founder's device.")],
    home: Home = None,
    json_: Json = False,
) -> None:
    """Let this device invite and renew with a signer's key. No daemon may run; the file is not needed afterwards."""
    from ..security.governance import with_signer
    from ..security.root import MeshRoot
    from .governing import change_at_rest
    from .setup import passphrase_from_environment

    passphrase = os.environ.get(SIGNER_VARIABLE)
    changed = change_at_rest(
        places_of(home, None).home,
        passphrase_from_environment(),
        lambda own, _now: with_signer(own, MeshRoot.load(file, passphrase, mesh_id=own.mesh_id)),
    )
    (link,) = [link for link in changed.authority.links if changed.root and link.public_key == changed.root.public_key]
    if json_:
        return print_json({"signer": link.public_key.hex(), "until": link.until})
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(link.until))
    return typer.echo(f"this device invites and renews until {until}; delete {file}")


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
