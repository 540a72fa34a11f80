"""The reference pages say what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from meshlore.knowledge.models import MODELS
from meshlore.node.settings import Anchor, Learning, Pipeline, Privacy, Service, Settings
from pydantic.fields import FieldInfo

DOCS = Path(__file__).resolve().parents[1] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
TABLES = ("learning", "anchor", "pipeline", "service", "privacy")
FIELDS = {
    name: field
    for model in (Settings, Learning, Anchor, Pipeline, Service, Privacy)
    for name, field in model.model_fields.items()
}


def first_cells(page: str) -> list[list[str]]:
    """The rows of all tables whose first cell is code, cell by cell."""
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("| `")
    ]


ROWS = {row[0].strip("`"): row for row in first_cells(CONFIGURATION)}


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert set(ROWS) == set(FIELDS) - set(TABLES)


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("name", *TABLES)])
def test_the_documented_default_is_the_default(name: str) -> None:
    default = FIELDS[name].default
    assert ROWS[name][1].strip("`") == json.dumps(default)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_documented_range_is_the_range(name: str) -> None:
    for bound in _bounds(FIELDS[name]):
        assert re.search(rf"(?<![\d.]){re.escape(f'{bound:g}' if bound < 1e5 else str(bound))}(?![\d])", ROWS[name][2])


def test_every_built_in_model_is_named() -> None:
    assert all(f"`{name}`" in ROWS["model"][4] for name in MODELS)


def _bounds(field: FieldInfo) -> list[float]:
    """Inclusive limits of a number, as the page writes them."""
    kinds = {"ge": 0, "le": 0, "gt": 0, "lt": -1}
    return [
        getattr(rule, kind) + offset for rule in field.metadata for kind, offset in kinds.items() if hasattr(rule, kind)
    ]


def test_every_privacy_mode_is_explained() -> None:
    page = (DOCS / "privacy.md").read_text(encoding="utf-8")
    assert [cell[0] for cell in first_cells(page)][:3] == ["`off`", "`filter` (default)", "`dp`"]


def test_every_finding_of_the_doctor_is_explained() -> None:
    page = (DOCS / "meeting.md").read_text(encoding="utf-8")
    sources = [(DOCS.parent / "node" / name).read_text(encoding="utf-8") for name in ("diagnosis.py", "doctor.py")]
    codes = {code for source in sources for code in re.findall(r'Finding\(\s*"([a-z-]+)"', source)}
    assert {row[0].strip("`") for row in first_cells(page)} == codes
