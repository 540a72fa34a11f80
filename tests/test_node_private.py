"""A node in DP mode: nothing that leaves it depends on private records but through the paid statistics."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from meshlore.errors import BudgetSpent, StateError
from meshlore.knowledge import condense as condense_module
from meshlore.knowledge.builtin import digits
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.packet import LogitPacket, SamplePacket, encode
from meshlore.knowledge.private import Statistics, measure
from meshlore.knowledge.trust import Verdict
from meshlore.node import learner as learner_module
from meshlore.node.cycle import Cycle, _skills_after
from meshlore.node.in_process import Member, run_in_process
from meshlore.node.lane import Lane
from meshlore.node.learner import Learner
from meshlore.node.library import Entry
from meshlore.node.plan import Distil
from meshlore.node.private_learner import PrivateLearner, Vault, leave_vault, open_vault, privacy_status
from meshlore.node.settings import Learning, Privacy
from meshlore.node.skills import Skills
from meshlore.node.store import Journal, StateStore
from meshlore.node.taught import Taught
from meshlore.security.ledger import Ledger

torch.set_num_threads(1)
pytest.importorskip("dp_accounting", reason="pip install 'meshlore[privacy]'")

BRIEF = Learning(classifier_steps=20, distil_steps=20, generator_steps=4, samples_per_class=6)
DP = Privacy(mode="dp")
DATA = digits("train")
SPACE = DATA.space


def no_step(fraction: float) -> None:
    pass


def entry(packet: SamplePacket | LogitPacket, author: str) -> Entry:
    name = hashlib.sha256(author.encode()).hexdigest()
    return Entry(name=name, author=author, author_name=author, seq=1, created_at=0.0, packet=packet)


def foreign() -> list[Entry]:
    learner = Learner(SPACE, "node", "", DATA.subset(np.arange(400)), replace_source(BRIEF), 9)
    packet = learner.condense(no_step)
    assert packet is not None
    return [entry(packet, "ben")]


def replace_source(settings: Learning) -> Learning:
    return settings.model_copy(update={"source": "gaussian"})


def all_that_leaves(private: Dataset, statistics: Statistics) -> dict[str, object]:
    """Everything that others can get from a node with these private data, whose statistics are given."""
    learner = PrivateLearner(SPACE, "node", "", private, BRIEF, 3, paid=lambda _data: statistics, epsilon=4.0)
    trained = learner.train(no_step)
    packet = learner.condense(no_step)
    assert packet is not None
    own, others = entry(packet, "ann"), foreign()
    # the past of a node, which private data have shaped
    standing = {"ben": 0.5 if len(private) % 2 else 1.0}
    taught = learner.distil(trained, own, others, standing, turn=0, step=no_step)
    generator = learner.fit_generator(others, standing, no_step)
    skills = Skills(taught.classifier, trained, generator, generator, taught.public)
    shown = learner.shown_to_others(skills)
    assert shown is not None
    images = digits("test").images[:20]
    assert generator is not None
    assert shown.generator is generator
    return {
        "packet": encode(packet),
        "answers": encode(learner.answer(shown.classifier, [own])),
        "advert": learner.competence(skills, own, others).competence.to_map(),
        "generated": generator.sample(np.arange(10), seed=1).tobytes(),
        "public": b"".join(tensor.numpy().tobytes() for tensor in shown.classifier.state_dict().values()),
        "kept images": learner.unlike_private(images, 3).tolist(),
        "verdicts": {author: verdict.weight for author, verdict in taught.verdicts.items()},
        "news": learner.has_news(taught, first=True, refines=False),
        "personal": b"".join(tensor.numpy().tobytes() for tensor in taught.classifier.state_dict().values()),
    }


def private_learner(vault: Vault) -> PrivateLearner:
    paid, ledger = vault.statistics, vault.ledger
    return PrivateLearner(SPACE, "node", "", DATA, BRIEF, 3, paid=paid, epsilon=4.0, ledger=ledger)


def test_two_nodes_with_other_data_and_the_same_statistics_tell_the_same():
    statistics = measure(DATA, 1.0811, np.random.default_rng(0))
    one, other = (
        all_that_leaves(DATA.select_classes(classes).subset(np.arange(count)), statistics)
        for classes, count in ((("1", "2", "3"), 300), (("7", "8"), 201))
    )
    assert one.pop("personal") != other.pop("personal")
    assert one == other


def test_whom_a_private_node_trusts_with_skills_for_others_hangs_on_published_samples_alone():
    one, other = (
        PrivateLearner(SPACE, "node", "", DATA.select_classes(classes), BRIEF, 3, paid=lambda _: None, epsilon=4.0)
        for classes in (("1", "2", "3"), ("7", "8"))
    )
    assert one.judge(foreign(), {}) == other.judge(foreign(), {})


def test_the_raw_path_is_never_taken(monkeypatch):
    def forbidden(*_arguments: object, **_options: object) -> None:
        raise AssertionError("private records were condensed or compared")

    statistics = measure(DATA, 1.0811, np.random.default_rng(0))
    others = foreign()
    monkeypatch.setattr(learner_module, "SOURCES", dict.fromkeys(learner_module.SOURCES, forbidden))
    for name in ("condense", "gaussian"):
        monkeypatch.setattr(condense_module, name, forbidden)
    learner = PrivateLearner(SPACE, "node", "", DATA, BRIEF, 3, paid=lambda _data: statistics, epsilon=4.0)
    learner.guard = forbidden
    assert learner.condense(no_step) is not None
    assert learner.fit_generator(others, {}, no_step) is not None
    assert learner.unlike_private(DATA.images[:5], 0).all()


def test_nobody_is_answered_before_there_is_a_public_classifier():
    learner = PrivateLearner(
        SPACE, "node", "", DATA, BRIEF, 3, paid=lambda _data: pytest.fail("no statistics are wanted"), epsilon=4.0
    )
    skills = Skills(learner.fresh(), learner.fresh())
    assert learner.shown_to_others(skills) is None
    assert learner.competence(skills, None, []).competence.classify == ()
    assert not learner.retells


def test_what_fine_tuning_adds_is_never_told():
    asked = []
    learner = PrivateLearner(
        SPACE, "node", "", DATA, BRIEF, 3, paid=lambda d: asked.append(len(d)) or noisy(), epsilon=4
    )
    learner.add_private(DATA.subset(np.arange(50)))
    learner.condense(no_step)
    assert asked == [len(DATA)]


def noisy() -> Statistics:
    return measure(DATA, 1.0811, np.random.default_rng(0))


def test_statistics_are_taken_once_paid_once_and_kept(tmp_path):
    first = Vault(tmp_path, DP).statistics(DATA)
    vault = Vault(tmp_path, DP)
    again = vault.statistics(DATA.subset(np.arange(100)))
    assert again.name == first.name
    assert len(vault.ledger.releases) == 1
    assert 3.9 < vault.ledger.spent() <= 4.0
    assert vault.ledger.left() < 0.1


def test_a_crash_before_the_payment_pays_at_the_next_start_for_the_same_statistics(tmp_path, monkeypatch):
    def power_cut(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "spend", power_cut)
        with pytest.raises(KeyboardInterrupt):
            Vault(tmp_path, DP).statistics(DATA)
    written = (tmp_path / "privacy.statistics").read_bytes()
    vault = Vault(tmp_path, DP)
    assert vault.ledger.releases == ()
    assert vault.statistics(DATA).to_bytes() == written
    assert len(vault.ledger.releases) == 1


def test_lost_statistics_cannot_be_taken_again_with_a_spent_budget(tmp_path):
    Vault(tmp_path, DP).statistics(DATA)
    (tmp_path / "privacy.statistics").unlink()
    vault = Vault(tmp_path, DP)
    with pytest.raises(BudgetSpent):
        vault.statistics(DATA)
    learner = PrivateLearner(SPACE, "node", "", DATA, BRIEF, 3, paid=vault.statistics, epsilon=4.0)
    assert learner.condense(no_step) is None


def test_a_home_that_has_published_without_protection_cannot_promise_it_later(tmp_path):
    with pytest.raises(StateError, match="cannot be taken back"):
        open_vault(tmp_path, DP, replace(Journal(), version=3))


def test_leaving_dp_mode_is_noted_and_there_is_no_way_back(tmp_path):
    assert leave_vault(tmp_path, Privacy()) == []
    open_vault(tmp_path, DP, Journal())
    assert "given up for good" in leave_vault(tmp_path, Privacy())[0]
    assert leave_vault(tmp_path, Privacy()) == []
    with pytest.raises(StateError, match="no privacy promise any more"):
        open_vault(tmp_path, DP, Journal())


@pytest.mark.parametrize(("mode", "words"), [("off", "unprotected"), ("filter", "no guarantee"), ("dp", "nothing was")])
def test_the_status_says_in_plain_words_what_protects(tmp_path, mode, words):
    assert words in privacy_status(Privacy(mode=mode), private_learner(Vault(tmp_path, DP)))["says"]


def test_the_status_tells_what_was_spent_and_what_is_left(tmp_path):
    vault = Vault(tmp_path, DP)
    vault.statistics(DATA)
    status = privacy_status(DP, private_learner(vault))
    assert status["spent"] == pytest.approx(4.0, abs=1e-3)
    assert status["left"] == pytest.approx(0.0, abs=1e-3)
    assert time.time() - Vault(tmp_path, DP).ledger.releases[0].when < 60


def test_an_anchor_in_dp_mode_learns_as_any_anchor():
    learner = PrivateLearner(
        SPACE, "anchor", "", None, BRIEF, 3, paid=lambda _data: pytest.fail("no statistics are wanted"), epsilon=4.0
    )
    fresh = learner.fresh()
    taught = learner.distil(fresh, None, foreign(), {}, turn=0, step=no_step)
    assert taught.kept
    assert learner.has_news(taught, first=True, refines=False)
    assert learner.shown_to_others(Skills(fresh, fresh)) is not None


def test_both_classifiers_come_back_from_their_checkpoints(tmp_path):
    from meshlore.node.checkpoints import load_skills, save_skills

    learner = PrivateLearner(SPACE, "node", "", DATA, BRIEF, 3, paid=lambda _data: noisy(), epsilon=4.0)
    personal, public = learner.fresh(), PrivateLearner.fresh(learner)
    with torch.no_grad():
        public.model.head.bias += 1
    state = StateStore(tmp_path)
    state.update(**save_skills(state, None, Skills(personal, personal, public=public)))
    again = load_skills(StateStore(tmp_path), learner)
    assert again is not None
    assert again.public is not None
    probe = torch.zeros(1, *SPACE.shape)
    assert torch.equal(again.public(probe), public.eval()(probe))
    assert not torch.equal(again.public(probe), again.classifier(probe))


def test_a_distillation_that_was_rolled_back_still_changes_what_others_hear():
    old, public = torch.nn.Identity(), torch.nn.Identity()
    after = _skills_after(Skills(old, old), Taught(old, False, "worse at home", {}, public), refines=False)
    assert after is not None
    assert after.classifier is old
    assert after.public is public
    assert _skills_after(Skills(old, old), Taught(old, False, "worse at home"), refines=False) is None


async def test_whom_the_public_classifier_learned_from_is_noted_though_the_personal_one_was_rolled_back():
    old, (ben,) = torch.nn.Identity(), foreign()
    taught = Taught(old, False, "worse at home", {"ben": Verdict(1.0, "")}, torch.nn.Identity())
    learner = SimpleNamespace(distil=lambda *_, **__: taught, has_news=lambda _taught, **_: True)
    library = SimpleNamespace(of_others=lambda: [ben], own_samples=lambda: None, is_revoked=lambda _author: False)
    lane = Lane("as the test says")
    cycle = Cycle(learner, lane, library, SimpleNamespace(entries=list), {})
    try:
        action = Distil(frozenset({ben.name}), refines=False)
        outcome = await cycle.do(action, Journal(), Skills(old, old))
    finally:
        await lane.close()
    assert outcome.skills.public is taught.public
    assert outcome.changes["learned_from"] == ("ben",)


PATIENT = BRIEF.model_copy(update={"patience_s": 600.0}).model_dump()
HIDDEN = {"seed": 1, "learning": PATIENT, "privacy": {"mode": "dp", "epsilon": 0.1}}
FEW = DATA.subset(np.arange(30))  # too few for so small an epsilon: their statistics are all noise


def test_a_node_whose_noisy_statistics_tell_nothing_learns_from_others_and_rests():
    open_hearted = {"seed": 2, "learning": PATIENT}
    members = [Member("one", FEW, HIDDEN), Member("two", DATA.subset(np.arange(30, 200)), open_hearted)]
    silent, _ = run_in_process(SPACE, members, digits("test"), timeout_s=60)
    assert silent.knowledge_bytes_published == 0
    assert silent.global_after > silent.global_before


def test_an_anchor_that_was_sent_nothing_has_no_accuracy():
    members = [Member("one", FEW, HIDDEN), Member("anchor", None, {"learning": BRIEF.model_dump()})]
    node, anchor = run_in_process(SPACE, members, digits("test"), timeout_s=60)
    assert node.global_after == node.global_before
    assert (anchor.global_before, anchor.global_after) == (None, None)
