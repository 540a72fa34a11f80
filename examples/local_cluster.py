"""A small mesh on this machine, run from Python: every node is a process of its own.

    python examples/local_cluster.py [--nodes 3] [--samples 400] [--seed 0] [--anchor]

Each node has a skewed slice of the digits and a classifier of its own kind. They find each other,
exchange synthetic samples, and teach each other; the pictures of it go to runs/local_cluster.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import meshlore
from meshlore.node.cluster import run_cluster
from meshlore.node.cluster_options import ClusterOptions
from meshlore.node.report import Report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--samples", type=int, default=400, help="training samples to share out; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anchor", action="store_true", help="with a bigger model that learns from packets alone")
    parser.add_argument("--output", type=Path, default=Path("runs/local_cluster"))
    wanted = parser.parse_args()

    options = ClusterOptions(
        nodes=wanted.nodes,
        data="digits",  # or "fashion-mnist", or a folder with one sub-folder of images per class
        alpha=0.1,  # how skewed the nodes' shares are: small means few classes each
        seed=wanted.seed,
        anchor=wanted.anchor,
        samples=wanted.samples,
        output=wanted.output,
        timeout_s=300,
    )
    try:
        # returns when nobody has anything left to learn; whatever happens, all processes have ended then
        report = run_cluster(options, live=sys.stderr.isatty())
    except meshlore.MeshloreError as error:
        print(f"the cluster failed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    tell(report)
    return 0 if everybody_learned(report) else 1


def tell(report: Report) -> None:
    """`report.to_json()` has the same as plain values."""
    for node in report.nodes:
        print(f"{node.id} ({node.model}) has {node.samples} samples of {', '.join(node.classes)}")
        print(f"  all classes:    {share(node.global_before)} before, {share(node.global_after)} after")
        print(f"  its own mix:    {share(node.personal_before)} before, {share(node.personal_after)} after")
        print(f"  knowledge sent: {node.knowledge_bytes_sent / 1000:.1f} kB")
    if report.anchor is not None:
        print(f"anchor ({report.anchor.model}), no real data at all: {share(report.anchor.accuracy)}")
    print(f"one model on all the real data in one place: {share(report.pooled.accuracy)}")
    for remark in report.remarks:
        print(remark)
    for path in report.pictures:
        print(f"picture: {path}")


def everybody_learned(report: Report) -> bool:
    """Every node lived to the end and knows more than it did alone."""
    return all(
        node.state == "live"
        and node.global_before is not None
        and node.global_after is not None
        and node.global_after > node.global_before
        for node in report.nodes
    )


def share(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:6.1%}"


if __name__ == "__main__":
    sys.exit(main())
