"""An anchor that draws with a pipeline from a folder: started, taught, started again, and told wrong things."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from meshlore.errors import ConfigError, MeshloreError
from meshlore.knowledge.pipeline import AdaptedPipeline
from meshlore.node.build import build_node
from meshlore.node.settings import Settings, load_settings
from meshlore.node.tasks import Generate
from taught import teach
from tiny_pipeline import save_tiny_pipeline
from village import LEARNING, Village, found, settled, submit

HOW = {"rank": 2, "learning_rate": 2e-2, "batch_size": 4, "draw_steps": 1}
LABELS = np.array([0, 3])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pipelines") / "tiny"
    save_tiny_pipeline(folder)
    return folder


@pytest.fixture
async def village(tmp_path: Path):
    village = Village(tmp_path, found(tmp_path))
    yield village
    await village.stop()


async def test_what_it_was_adapted_to_is_kept_through_restarts_and_goes_on(village: Village, folder: Path) -> None:
    brief = LEARNING.model_copy(update={"generator_steps": 3, "distil_steps": 10})
    village.settings = {"pipeline": {"folder": str(folder)} | HOW, "learning": brief}
    anchor = await village.start("anchor")
    await teach(village, anchor, "ann")
    made = anchor.skills.generator
    assert isinstance(made, AdaptedPipeline)
    drawn = await submit(anchor, Generate("3", 2, where="here"))
    assert drawn.images.shape == (2, 1, 8, 8)
    await village.stop()

    again = await village.start("anchor")
    assert np.array_equal(again.skills.generator.sample(LABELS, seed=1), made.sample(LABELS, seed=1))
    starts, fit = [], again.learner.generators.fit
    again.learner.generators.fit = lambda *given, **more: (starts.append(given[4]), fit(*given, **more))[1]
    await teach(village, again, "ben")
    await settled(again, when=lambda: starts)
    assert isinstance(starts[0], AdaptedPipeline)
    await village.stop()

    village.settings = {"learning": brief}
    compact = await village.start("anchor")
    await settled(compact, when=lambda: compact.skills.generator is not None)
    assert not isinstance(compact.skills.generator, AdaptedPipeline)


def test_a_folder_that_is_none_is_one_line_at_the_start_and_nothing_is_changed(village: Village) -> None:
    home = village.folder / "anchor"
    (home / "no").mkdir()
    settings = Settings(name="anchor", pipeline={"folder": str(home / "no")})
    before = sorted(home.rglob("*"))
    with pytest.raises(MeshloreError, match=r"is no pipeline: it has no model_index\.json: name a folder"):
        build_node(home, settings, village.members["anchor"])
    assert [path for path in sorted(home.rglob("*")) if path not in before and path.is_file()] == []


def test_settings_say_what_is_wrong_with_a_prompt(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[pipeline]\nfolder = "x"\nprompt = "a cat"\n')
    with pytest.raises(ConfigError, match=r"line 3: pipeline.prompt = 'a cat' is refused: put \{\} where"):
        load_settings(config, environment={})
    config.write_text("[pipeline]\nfolders = 1\n")
    with pytest.raises(ConfigError, match="did you mean 'folder'"):
        load_settings(config, environment={})
