"""One measured figure beside its target, and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Figure:
    """``most``: what the value may be at most, or, with ``least``, what it must reach."""

    part: str
    name: str
    value: float
    most: float | None = None
    least: float | None = None
    unit: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    @property
    def target(self) -> str:
        if self.most is not None:
            return f"<= {self.most:g}" if self.most else "0"
        return f">= {self.least:g}"

    def to_map(self) -> dict[str, object]:
        return {
            "part": self.part,
            "name": self.name,
            "value": self.value,
            "target": self.target,
            "unit": self.unit,
            "met": self.met,
            "note": self.note,
        }


@dataclass
class Report:
    """All figures of one run."""

    figures: list[Figure] = field(default_factory=list)

    @property
    def met(self) -> bool:
        return all(figure.met for figure in self.figures)

    def to_map(self) -> dict[str, object]:
        return {"met": self.met, "figures": [figure.to_map() for figure in self.figures]}


def show(figures: Sequence[Figure]) -> None:
    """A table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "attack", "measured", "target", "", "", box=None)
    for figure in figures:
        measured = f"{figure.value:,.4g} {figure.unit}".strip()
        verdict = "[green]met[/]" if figure.met else "[red]MISSED[/]"
        table.add_row(figure.part, figure.name, measured, figure.target, verdict, figure.note)
    Console().print(table)
