"""The privacy ledger: what was spent, and that no crash, loss or trick makes it less."""

from __future__ import annotations

import json
import math
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import BudgetSpent, ConfigError, StateError
from meshlore.security import ledger as ledger_module
from meshlore.security.ledger import (
    LEDGER,
    MARK,
    Budget,
    Ledger,
    Release,
    delta_of,
    epsilon_of,
    noise_multiplier,
)

pytest.importorskip("dp_accounting", reason="pip install 'meshlore[privacy]'")

BUDGET = Budget(4.0, 1e-5)
SMALL = Release(4.0, "a" * 64)  # costs about .9


def test_a_release_is_on_disk_for_its_owner_only_and_survives_a_restart(tmp_path):
    Ledger(tmp_path, BUDGET).spend(SMALL)
    again = Ledger(tmp_path, BUDGET)
    assert again.releases == (SMALL,)
    assert again.paid("a" * 64)
    assert again.spent() == pytest.approx(epsilon_of([4.0], 1e-5))
    for name in (LEDGER, MARK):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_a_release_beyond_the_budget_is_refused_and_leaves_no_trace(tmp_path):
    ledger = Ledger(tmp_path, BUDGET)
    ledger.spend(SMALL)
    before = (tmp_path / LEDGER).read_bytes()
    with pytest.raises(BudgetSpent, match=r"is spent: 0.9.* of epsilon 4") as refusal:
        ledger.spend(Release(1.1, "b"))
    assert "privacy.epsilon" in refusal.value.remedy
    assert (tmp_path / LEDGER).read_bytes() == before
    assert len(ledger.releases) == 1


def test_everything_is_fsynced_before_spend_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(ledger_module.os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    Ledger(tmp_path, BUDGET).spend(SMALL)
    assert str(tmp_path / LEDGER) in synced
    assert str(tmp_path) in synced


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(2.0, 60.0), min_size=1, max_size=4), st.sampled_from([1e-7, 1e-5, 1e-3]))
def test_the_accountant_agrees_with_the_closed_form_of_composed_gaussians(sigmas, delta):
    # k Gaussian mechanisms are one whose precision is the sum of theirs (Dong et al., arXiv 1905.02383)
    together = 1 / math.sqrt(sum(1 / sigma**2 for sigma in sigmas))
    epsilon = epsilon_of(sigmas, delta)
    assert delta_of(together, epsilon) <= delta
    assert epsilon == 0 or delta_of(together, 0.98 * epsilon - 1e-3) >= delta


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0, 8.0])
def test_the_noise_for_a_budget_is_the_least_that_keeps_to_it(epsilon):
    sigma = noise_multiplier(Budget(epsilon, 1e-5))
    assert epsilon_of([sigma], 1e-5) <= epsilon
    assert epsilon_of([0.99 * sigma], 1e-5) > epsilon


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sigmas", [[1.0811], [3.0, 2.0, 8.0]])
def test_the_accountant_of_opacus_says_the_same_within_two_percent(sigmas):
    accountants = pytest.importorskip("opacus.accountants", reason="pip install --no-deps opacus opt_einsum")
    accountant = accountants.create_accountant("prv")
    accountant.history = [(sigma, 1.0, 1) for sigma in sigmas]
    assert epsilon_of(sigmas, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=0.02)


@settings(max_examples=10, deadline=None)
@given(cut=st.integers(1, 400), releases=st.integers(0, 2))
def test_a_torn_last_line_counts_as_spent(tmp_path_factory, cut, releases):
    home = tmp_path_factory.mktemp("home")
    ledger = Ledger(home, Budget(8.0, 1e-5))
    for number in range(releases):
        ledger.spend(Release(4.0, f"release-{number}"))
    mark = (home / MARK).read_bytes() if releases else None
    whole = (home / LEDGER).read_bytes() if releases else b""
    ledger.spend(Release(3.0, "torn"))
    full = ledger.spent()
    line = (home / LEDGER).read_bytes()[len(whole) :]
    (home / LEDGER).write_bytes(whole + line[: min(cut, len(line) - 1)])
    if mark is None:
        (home / MARK).unlink()
    else:
        (home / MARK).write_bytes(mark)
    again = Ledger(home, Budget(8.0, 1e-5))
    assert again.spent() >= full - 1e-9
    assert Ledger(home, Budget(8.0, 1e-5)).releases == again.releases


def test_a_line_that_did_not_say_what_it_cost_takes_the_whole_budget(tmp_path):
    ledger = Ledger(tmp_path, BUDGET)
    ledger.spend(SMALL)
    with (tmp_path / LEDGER).open("ab") as file:
        file.write(b'{"noise_mul')
    with pytest.raises(BudgetSpent):
        Ledger(tmp_path, BUDGET).spend(Release(1000.0, "tiny"))


def _lose_last(home: Path) -> None:
    lines = (home / LEDGER).read_bytes().splitlines(keepends=True)
    (home / LEDGER).write_bytes(b"".join(lines[:-1]))


def _change_noise(home: Path) -> None:
    (home / LEDGER).write_bytes((home / LEDGER).read_bytes().replace(b"4.0", b"9.0", 1))


@pytest.mark.parametrize(
    "damage",
    [
        _lose_last,
        _change_noise,
        lambda home: (home / LEDGER).unlink(),
        lambda home: (home / LEDGER).write_bytes(b""),
        lambda home: (home / MARK).unlink(),
        lambda home: (home / MARK).write_bytes(b"{}"),
    ],
    ids=["lost-line", "less-noise", "no-ledger", "empty-ledger", "no-mark", "bad-mark"],
)
def test_a_smaller_or_other_history_is_never_taken_for_the_truth(tmp_path, damage):
    ledger = Ledger(tmp_path, BUDGET)
    for name in ("one", "two"):
        ledger.spend(Release(4.0, name))
    damage(tmp_path)
    with pytest.raises(StateError):
        Ledger(tmp_path, BUDGET)


def test_a_ledger_that_others_may_read_is_refused(tmp_path):
    Ledger(tmp_path, BUDGET).spend(SMALL)
    (tmp_path / LEDGER).chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        Ledger(tmp_path, BUDGET)


def test_a_broken_promise_stays_broken(tmp_path):
    Ledger(tmp_path, BUDGET).break_promise("privacy.mode was set to filter", 1.0)
    with pytest.raises(BudgetSpent, match="no privacy promise any more"):
        Ledger(tmp_path, Budget(100.0, 1e-5)).spend(SMALL)


def test_a_full_disk_releases_nothing(tmp_path, monkeypatch):
    ledger = Ledger(tmp_path, BUDGET)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module.os, "fsync", full)
    with pytest.raises(StateError, match="nothing was released"):
        ledger.spend(SMALL)
    assert ledger.releases == ()


@pytest.mark.parametrize("release", [Release(0.0, "x"), Release(math.nan, "x"), Release(1.0, 'a"b'), Release(1.0, "")])
def test_a_release_that_makes_no_sense_is_refused(tmp_path, release):
    with pytest.raises(StateError):
        Ledger(tmp_path, BUDGET).spend(release)


def test_a_budget_that_makes_no_sense_is_refused():
    for epsilon, delta in ((0, 1e-5), (math.inf, 1e-5), (1, 0), (1, 1)):
        with pytest.raises(ConfigError):
            Budget(epsilon, delta)


def test_a_missing_accountant_names_the_remedy(tmp_path, monkeypatch):
    ledger_module._composed.cache_clear()
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    with pytest.raises(ConfigError, match=r"meshlore\[privacy\]"):
        Ledger(tmp_path, BUDGET).spend(SMALL)


WRITER = """
import sys
from pathlib import Path
from meshlore.security import ledger
ledger.epsilon_of = lambda sigmas, delta: 0.0
book = ledger.Ledger(Path(sys.argv[1]), ledger.Budget(100.0, 1e-5))
for number in range(10**6):
    book.spend(ledger.Release(50.0, f"release-{number}"))
    print(number, flush=True)
"""


def test_kill_minus_nine_never_makes_the_history_smaller(tmp_path):
    for turn in range(4):
        home = tmp_path / str(turn)
        home.mkdir(mode=0o700)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(home)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        released = [next(writer.stdout) for _ in range(3 + 5 * turn)]
        writer.send_signal(signal.SIGKILL)
        released += writer.stdout.readlines()
        writer.wait(10)
        known = [release.what for release in Ledger(home, Budget(100.0, 1e-5)).releases]
        assert known[: len(released)] == [f"release-{number}" for number in range(len(released))]
        assert json.loads((home / MARK).read_text())["bytes"] == (home / LEDGER).stat().st_size
