"""What the terminal shows: status, peers, progress, and the cluster's table."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .diagnosis import Finding, Severity

if TYPE_CHECKING:
    from .doctor import Examination
    from .report import Report

KEYS_AT_REST = {
    "passphrase": "wrapped with your passphrase (Argon2id)",
    "file-mode": "readable by you only (0600), not encrypted",
}
STAGES = {0: "learning", 1: "published", 2: "taught"}


def show_status(status: dict[str, Any]) -> None:
    console = Console()
    grid = Table.grid(padding=(0, 2))
    expires = datetime.fromtimestamp(status["certificate_expires"]).strftime("%Y-%m-%d %H:%M")
    known = {name: share for name, share in status["competence"]["classify"].items() if share > 0}
    trust = {author: verdict for author, verdict in status["trust"].items() if verdict["weight"] < 1}
    security = status["security"]
    generator = "yes" if status["generator"] else "none: no samples to learn from" if status["settled"] else "not yet"
    rows = {
        "node": f"{status['name']} ({status['role']}), {status['peer_id']}",
        "mesh": f"{status['mesh']['name']} ({status['mesh']['id'][:12]}…), {status['live_peers']} live peers",
        "data": f"{status['samples']} samples of {', '.join(status['classes']) or 'nothing'}; they stay here",
        "model": f"{status['model']}, version {status['version']}, generator {generator}",
        "doing": f"{status['activity']} {status['fraction']:.0%}" if status["fraction"] else status["activity"],
        "taught by": ", ".join(status["taught_by"]) or "nobody yet",
        "can classify": "  ".join(f"{name} {share:.0%}" for name, share in known.items()) or "nothing yet",
        "distrusts": ", ".join(f"{a} ({v['reason']})" for a, v in trust.items()) or "nobody",
        "traffic": f"sent {status['bytes_sent'] / 1e3:.1f} kB, of that knowledge "
        f"{status['knowledge_bytes_sent'] / 1e3:.1f} kB; received {status['bytes_received'] / 1e3:.1f} kB",
        "leaves this device": "synthetic samples and logits of published packets; images of tasks sent elsewhere",
        "privacy": f"{status['privacy']['mode']}: {status['privacy']['says']}",
        "certificate": "revoked" if security["revoked"] else f"valid until {expires}",
        "keys": KEYS_AT_REST[security["keys_at_rest"]],
        "refused": _refused(security),
        "addresses": ", ".join(status["addresses"]),
        "home": status["home"],
    }
    for name, value in rows.items():
        grid.add_row(f"[bold]{name}", escape(value))
    console.print(grid)
    _show_findings(console, [Finding.from_map(value) for value in status["findings"]])


def show_examination(examination: Examination) -> None:
    console = Console()
    source = "the running daemon says" if examination.running else "no daemon runs here; from outside of it"
    console.print(f"{source}: {'see below' if examination.findings else 'nothing is wrong'}")
    _show_findings(console, examination.findings)


def _show_findings(console: Console, findings: Iterable[Finding]) -> None:
    for finding in findings:
        colour = "red" if finding.severity is Severity.ERROR else "yellow"
        console.print(
            f"[bold {colour}]{finding.severity}[/] {escape(finding.cause)} \\[{finding.code}]", soft_wrap=True
        )
        console.print(f"  → {escape(finding.remedy)}", soft_wrap=True)


def show_peers(peers: list[dict[str, Any]]) -> None:
    if not peers:
        print("no other member is known yet; invite one: meshlore invite")
        return
    table = Table(box=None)
    for column in ("name", "state", "roles", "round trip", "last seen", "stage", "model", "peer id"):
        table.add_column(column)
    for peer in peers:
        table.add_row(
            escape(peer["name"] or "?"),
            peer["state"],
            ", ".join(peer["roles"]),
            "" if peer["rtt_ms"] is None else f"{peer['rtt_ms']:.1f} ms",
            "" if peer["last_seen_s"] is None else f"{peer['last_seen_s']:.0f} s ago",
            STAGES.get(peer["stage"], ""),
            escape(peer["model"]),
            "…" + peer["peer_id"][-8:],
        )
    Console().print(table)


@contextmanager
def task_progress(kind: str) -> Iterator[Callable[[float, str], None]]:
    """A progress bar on standard error for tasks that take longer than a moment."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    started, bar = time.monotonic(), progress.add_task(kind, total=1.0)

    def show(fraction: float, label: str) -> None:
        if time.monotonic() - started > 0.5 and not progress.live.is_started:
            progress.start()
        progress.update(bar, completed=fraction, description=label)

    try:
        yield show
    finally:
        if progress.live.is_started:
            progress.stop()


def live_table(rows: list[dict[str, Any]], elapsed_s: float) -> Table:
    """The cluster while it runs: one line per process."""
    table = Table(title=f"{elapsed_s:5.1f} s", title_justify="left", box=None)
    for column in ("node", "model", "classes", "doing", "peers", "packets", "global", "personal", "sent kB"):
        table.add_column(column, no_wrap=True)
    for row in rows:
        doing = row["activity"] + (f" {row['fraction']:.0%}" if row.get("fraction") else "")
        style = "red" if row["activity"] == "lost" else "dim" if row["activity"] == "settled" else ""
        table.add_row(
            row["id"],
            row["model"],
            row["classes"],
            doing,
            str(row["peers"]),
            str(row["packets"]),
            _share(row["global"]),
            _share(row["personal"]),
            f"{row['bytes_sent'] / 1e3:.1f}",
            style=style,
        )
    return table


def study_table(doing: Mapping[str, int], packets: float, elapsed_s: float, cpu_s: float, memory_bytes: float) -> Table:
    """Many nodes in one process while they run: how many do what, and what they cost so far, one line each."""
    title = f"{elapsed_s:5.1f} s, {cpu_s:.1f} CPU s, {memory_bytes / 1e6:.0f} MB, {packets:.0f} packets at each node"
    table = Table("doing", "nodes", title=title, title_justify="left", box=None)
    for activity, nodes in sorted(doing.items(), key=lambda item: -item[1]):
        table.add_row(activity, str(nodes), style="dim" if activity == "settled" else "")
    return table


def show_report(report: Report) -> None:
    """The table at the end of a cluster run."""
    console = Console()
    title = f"{report.data}, seed {report.seed}: what the nodes could before, and after they taught each other"
    # 80 columns: only the classes are folded
    table = Table(title=title, box=None, pad_edge=False, collapse_padding=True)
    for column in ("node", "model"):
        table.add_column(column, no_wrap=True)
    table.add_column("classes", overflow="fold", min_width=5)
    for column in ("samples", "global", "personal", "kB\nsent", "of it\ntaught", "kB\ncame"):
        table.add_column(column, justify="right", no_wrap=True)
    for node in report.nodes:
        table.add_row(
            node.id + ("" if node.state == "live" else f" ({node.state})"),
            node.model,
            " ".join(node.classes),
            str(node.samples),
            f"{_share(node.global_before)} → {_share(node.global_after)}",
            f"{_share(node.personal_before)} → {_share(node.personal_after)}",
            f"{node.bytes_sent / 1e3:.0f}",
            f"{node.knowledge_bytes_sent / 1e3:.0f}",
            f"{node.bytes_received / 1e3:.0f}",
        )
    console.print(table)
    if report.anchor is not None:
        console.print(f"anchor ({report.anchor.model}), taught by packets alone: {_share(report.anchor.accuracy)}")
    console.print(f"the same model on all the real data pooled: {_share(report.pooled.accuracy)}")
    if (cost := report.cost_per_node) is not None:
        cpu = f"{cost.cpu_s:.1f} CPU s, {cost.learning_cpu_s:.1f} of them learning"
        console.print(f"per node: {cost.memory_bytes / 1e6:.1f} MB, {cpu}")
    for line in report.remarks:
        console.print(line)
    for path in report.pictures:
        console.print(f"picture: {path}")
    console.print(f"{report.wall_s:.1f} s")


def _refused(security: dict[str, Any]) -> str:
    """What came in that was not valid or allowed, and who is slowed or shut out for it."""
    counts = [
        f"{count} {place}{'s' if count > 1 else ''} ({reason})"
        for place, reasons in security["refused"].items()
        for reason, count in reasons.items()
    ]
    members = [f"{name} is {standing}" for name, standing in security["misbehaving"].items()]
    return ", ".join(counts + members) or "nothing yet"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}".removeprefix("0")
