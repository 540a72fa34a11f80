"""meshlore: devices that may not pool their data teach each other.

The public API: a client of the daemon on this device, the tasks, their results, and the errors.

    async with meshlore.connect() as mesh:
        result = await mesh.submit(meshlore.Generate(label="7", n=16))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    ConfigError,
    DaemonNotRunning,
    DataError,
    DeadlineExceeded,
    InvalidTask,
    MeshloreError,
    NoCapableNode,
    TaskError,
)

if TYPE_CHECKING:
    from .knowledge.sources import load
    from .knowledge.space import Space
    from .node.client import MeshClient, connect
    from .node.results import Answer, Classified, Evaluated, FineTuned, Generated, Learned
    from .node.tasks import Classify, Evaluate, FineTune, Generate, Skill

_HOMES = (
    {
        "MeshClient": ".node.client",
        "connect": ".node.client",
        "load": ".knowledge.sources",
        "Space": ".knowledge.space",
    }
    | dict.fromkeys(("Classify", "Evaluate", "FineTune", "Generate", "Skill"), ".node.tasks")
    | dict.fromkeys(("Answer", "Classified", "Evaluated", "FineTuned", "Generated", "Learned"), ".node.results")
)

__all__ = [
    "Answer",
    "Classified",
    "Classify",
    "ConfigError",
    "DaemonNotRunning",
    "DataError",
    "DeadlineExceeded",
    "Evaluate",
    "Evaluated",
    "FineTune",
    "FineTuned",
    "Generate",
    "Generated",
    "InvalidTask",
    "Learned",
    "MeshClient",
    "MeshloreError",
    "NoCapableNode",
    "Skill",
    "Space",
    "TaskError",
    "connect",
    "load",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line starts quickly (PEP 562)."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
