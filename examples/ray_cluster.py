"""A mesh whose nodes are actors of Ray: on this machine, or spread over the machines of a Ray cluster.

    python examples/ray_cluster.py [--ray HOST:PORT] [--nodes 3] [--samples 400] [--seed 0] [--anchor]

Without --ray a Ray of its own is started here, listening on loopback only, and stopped at the end; docs/ray.md
says how several machines become one cluster. It needs `pip install 'meshlore[cluster]'`. Kill one of the processes
named ray::NodeActor meanwhile: the node comes back from its state, and the rest goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import meshlore
from meshlore.node.cluster_options import ClusterOptions, parse_settings
from meshlore.node.ray_cluster import run_ray_cluster
from meshlore.node.ray_session import LOCAL


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ray", default=LOCAL, metavar="HOST:PORT", help="a Ray cluster; without it, one of its own")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--samples", type=int, default=400, help="training samples to share out; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anchor", action="store_true", help="with a bigger model that learns from packets alone")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of every node")
    parser.add_argument("--output", type=Path, default=Path("runs/ray_cluster"))
    wanted = parser.parse_args()

    try:
        options = ClusterOptions(
            nodes=wanted.nodes,
            samples=wanted.samples,
            seed=wanted.seed,
            anchor=wanted.anchor,
            output=wanted.output,
            timeout_s=600,
            settings=parse_settings(wanted.set),
        )
        # returns when nobody has anything left to learn; whatever happens, all actors have ended then
        report = run_ray_cluster(options, address=wanted.ray, live=sys.stderr.isatty())
    except meshlore.MeshloreError as error:
        print(f"the cluster failed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130

    for node in report.nodes:
        print(f"{node.id} ({node.model}), {node.samples} samples: {node.global_before:.1%} -> {node.global_after:.1%}")
    if report.anchor is not None and report.anchor.accuracy is not None:
        print(f"anchor, no real data at all: {report.anchor.accuracy:.1%}")
    for remark in report.remarks:
        print(remark)
    return 0 if all(node.state == "live" for node in report.nodes) else 1


if __name__ == "__main__":
    sys.exit(main())
