"""Attack the mesh and print what came of it beside what is promised; exit code 1 when a target is missed.

    python -m benchmarks.security [frames] [intrusions] [sockets] [canary] [relay] [--json]
                                  [--frames 200000] [--tries 1000] [--sockets 2000] [--seed 0]

Without parts, all are run. ``canary`` reads the loopback interface, which takes the right to (root, or
``unshare -rn sh -c 'ip link set lo up; python -m benchmarks.security canary'``). ``relay`` reads the memory
of a process of its own (``/proc/PID/mem``, Linux).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from .figures import Report, show

PARTS = ("frames", "intrusions", "sockets", "canary", "relay")


def main() -> int:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.security", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all if none is given")
    parser.add_argument("--frames", type=int, default=200_000, help="mutated inputs per decoder")
    parser.add_argument("--tries", type=int, default=1000, help="tries per intrusion")
    parser.add_argument("--sockets", type=int, default=2000, help="idle sockets, from ten addresses")
    parser.add_argument("--connects", type=int, default=100, help="honest connects while they idle")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--serve-relay", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_relay:
        from .relay_memory import serve_relay

        return serve_relay(arguments.serve_relay)
    if arguments.serve:
        from .sockets import serve

        return serve(arguments.serve)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    report = Report()
    for part in arguments.parts or PARTS:
        report.figures += _run(part, arguments)
    if arguments.json:
        print(json.dumps(report.to_map()))
    else:
        show(report.figures)
    return 0 if report.met else 1


def _run(part: str, arguments: argparse.Namespace) -> list:
    print(f"{part} …", file=sys.stderr, flush=True)
    if part == "frames":
        from .frames import measure_frames

        return measure_frames(arguments.frames, arguments.seed)
    if part == "intrusions":
        from .intrusions import measure_intrusions

        return measure_intrusions(arguments.tries)
    if part == "sockets":
        from .sockets import measure_sockets

        return measure_sockets(arguments.sockets, arguments.connects)
    if part == "relay":
        from .relay_memory import measure_relay_memory

        return measure_relay_memory()
    from .canary import measure_canary

    return measure_canary(arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
