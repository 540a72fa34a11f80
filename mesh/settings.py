"""The figures that a mesh runs by. Deadlines, delays and intervals are in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field

from .gossip import GossipSettings
from .members import HeartbeatSettings
from .overlay import OverlaySettings


@dataclass(frozen=True)
class MeshSettings:
    heartbeat: HeartbeatSettings = field(default_factory=HeartbeatSettings)
    gossip: GossipSettings = field(default_factory=GossipSettings)
    overlay: OverlaySettings = field(default_factory=OverlaySettings)
    parallel_dials: int = 8
    tick_s: float = 0.25
    dial_timeout_s: float = 5.0
    request_timeout_s: float = 5.0
    fetch_timeout_s: float = 30.0
    first_exchange_s: float = 0.5
    peer_exchange_s: float = 30.0
    """Peers are asked whom they know: soon after something changed, then ever less often down to this."""
    relay_delay_s: float = 1.0
    """Blobs of others are announced after a random part of this: most neighbours have told us meanwhile."""
    sync_s: float = 60.0
    """Two neighbours compare all that they hold when they meet, and ever again about this long after."""
    longest_pause_s: float = 30.0
    """A peer that fails to take what is announced is tried again ever later, up to this."""
    save_addresses_s: float = 5.0
    requests_per_s: float = 100.0
    requests_burst: float = 400.0
