"""The models of a node: which of them stay when it learns, when the space grows and over a restart."""

import pytest
import torch
from meshlore.knowledge.models import logits
from meshlore.node.checkpoints import load_skills, save_skills
from meshlore.node.cycle import _skills_after
from meshlore.node.learner import Learner
from meshlore.node.settings import Learning
from meshlore.node.skills import Skills
from meshlore.node.store import StateStore
from meshlore.node.taught import Taught
from village import SPACE, digits

ALONE, FIRST, SECOND, THIRD = (torch.nn.Identity() for _ in range(4))
PROBE = digits("0123").images[:4]


def learner(seed: int) -> Learner:
    return Learner(SPACE, "node", "", digits("01"), Learning(), seed)


@pytest.mark.parametrize(
    ("known", "kept", "refines", "expert"),
    [
        (Skills(FIRST, ALONE), True, True, FIRST),
        (Skills(SECOND, ALONE, expert=FIRST), True, True, FIRST),
        (Skills(SECOND, ALONE, expert=FIRST), True, False, None),
        (Skills(FIRST, ALONE), True, False, None),
    ],
    ids=["the first answers of others", "more of them", "new samples", "samples alone"],
)
def test_the_expert_is_what_others_heard_before_their_answers_were_learned(known, kept, refines, expert):
    after = _skills_after(known, Taught(THIRD, kept, ""), refines=refines)
    assert (after.classifier, after.expert) == (THIRD, expert)


def test_a_lesson_that_was_rolled_back_changes_nothing():
    known = Skills(SECOND, ALONE, expert=FIRST)
    assert _skills_after(known, Taught(SECOND, False, "worse at home"), refines=False) is None


def test_all_classifiers_come_back_after_a_restart_and_in_a_wider_space(tmp_path):
    before, first, second = (learner(seed).fresh() for seed in range(3))
    known = Skills(second, before, expert=first)
    state, node = StateStore(tmp_path), learner(0)
    state.update(**save_skills(state, None, known))
    again = load_skills(StateStore(tmp_path), node)
    wider = node.grown(again, SPACE, SPACE.grown(("another",)))
    for kind in ("classifier", "classifier_before", "expert"):
        said = logits(getattr(known, kind), PROBE, SPACE)
        assert (logits(getattr(again, kind), PROBE, SPACE) == said).all()
        grown = logits(getattr(wider, kind), PROBE, SPACE)
        assert grown.shape[1] == said.shape[1] + 1
        assert torch.equal(torch.tensor(grown[:, :-1]), torch.tensor(said))


def test_models_that_are_one_stay_one_in_a_wider_space():
    node = learner(0)
    fresh = node.fresh()
    wider = node.grown(Skills(fresh, fresh), SPACE, SPACE.grown(("another",)))
    assert wider.classifier is wider.classifier_before
    assert wider.expert is None
