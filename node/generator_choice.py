"""Which kind of generator the settings name, where that is not the compact one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from ..knowledge.device import choose_device
from ..knowledge.generators import GeneratorKind
from ..knowledge.space import Space
from .settings import Settings


def chosen_generators(settings: Settings, space: Space) -> GeneratorKind | None:
    """The pipeline of the folder that is set, loaded; None: no folder is set.

    Raises:
        ModelError: the folder holds no pipeline that can be adapted.
        ConfigError: the extra is not installed, or there is no such device.
    """
    chosen = settings.pipeline
    if not chosen.folder:
        return None
    from ..knowledge.pipeline import Pipeline, PipelineSettings

    how = PipelineSettings(**{field.name: getattr(chosen, field.name) for field in fields(PipelineSettings)})
    return Pipeline(Path(chosen.folder).expanduser(), space, how, choose_device(settings.learning.device))
