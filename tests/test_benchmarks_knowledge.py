"""The knowledge benchmark: it resumes, filters, renders, judges, and its baselines learn."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from meshlore.errors import ConfigError
from meshlore.knowledge import metrics
from meshlore.knowledge.data import Dataset
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.models import build_model, to_tensor
from meshlore.knowledge.space import Space
from meshlore.knowledge.training import fit_classifier, no_step
from meshlore.node.in_process import Member, run_in_process
from torch import nn

from benchmarks import (
    knowledge,
    knowledge_generation,
    knowledge_plots,
    knowledge_report,
    knowledge_results,
    knowledge_targets,
    tune,
)
from benchmarks.baselines import datafree
from benchmarks.baselines.averaging import AveragingSettings, federate, train_locally
from benchmarks.baselines.datafree import one_shot
from benchmarks.baselines.feddf import FedDFSettings, feddf
from benchmarks.baselines.local import Locals, ensemble, pooled
from benchmarks.baselines.problem import Problem, Solution, average, size_bytes
from benchmarks.knowledge_cells import DATASETS, Cell, cells, hold_public_apart, load_split, problem_of, share_out
from benchmarks.knowledge_generation import frechet
from benchmarks.knowledge_methods import METHODS, check_settings, members_of

CELL = Cell("digits", "dirichlet-0.1", 5, 0, "local")
FIGURES = {"global": [0.4, 0.6], "personal": [0.9, 0.9], "moved_kb": [2.0, 2.0], "cpu_s": {"training": [1.0, 1.0]}}
SPACE = Space((1, 8, 8), ("left", "right", "top"), levels=17)


def bars(count: int, labels: tuple[int, ...], seed: int) -> Dataset:
    """A bright bar at the left, right or top, in noise."""
    rng = np.random.default_rng(seed)
    chosen = rng.choice(labels, count).astype(np.int64)
    images = rng.integers(0, 6, (count, 1, 8, 8)).astype(np.uint8)
    images[chosen == 0, :, :, :3] += 9
    images[chosen == 1, :, :, 5:] += 9
    images[chosen == 2, :, :3] += 9
    return Dataset(SPACE, images, chosen)


def pooled_classifier(data: Dataset) -> nn.Module:
    return fit_classifier(build_model("cnn-small", SPACE, 1), data, steps=60, seed=1)


@pytest.fixture(scope="module")
def problem():
    """Two clients, each without one class of three."""
    clients = (bars(90, (0, 1), 1), bars(90, (1, 2), 2))
    return Problem(clients, bars(150, (0, 1, 2), 3), bars(90, (0, 1, 2), 4).images, "cnn-small", 0)


@pytest.fixture(scope="module")
def local(problem):
    return Locals(problem)


def accuracy(problem, solution):
    return metrics.global_accuracy(solution.logits[0], problem.test.labels)


def test_the_average_of_weights_is_the_weighted_mean_to_the_last_bit():
    one, other = nn.Linear(2, 1), nn.Linear(2, 1)
    for model, value in ((one, 1.0), (other, 4.0)):
        for weight in model.parameters():
            nn.init.constant_(weight, value)
    assert all(torch.equal(value, torch.full_like(value, 3.0)) for value in average([one, other], [1, 2]).values())


def test_one_round_of_federated_averaging_is_the_mean_of_what_the_clients_learned(problem):
    settings = AveragingSettings(rounds=1, local_epochs=1)
    solution = federate(problem, settings)
    trained = [
        train_locally(problem.fresh(), private, settings, torch.Generator().manual_seed(number))
        for number, private in enumerate(problem.clients)
    ]
    common = problem.fresh()
    common.load_state_dict(average(trained, [len(private) for private in problem.clients]))
    assert np.allclose(solution.logits[0], problem.answer(common), atol=1e-6)
    assert (solution.bytes_up, solution.bytes_down) == (size_bytes(common), size_bytes(common))


def test_a_strong_proximal_term_keeps_clients_near_the_common_model(problem):
    def distance(proximal):
        settings = AveragingSettings(local_epochs=5, learning_rate=0.05, proximal=proximal)
        common = problem.fresh()
        learned = train_locally(common, problem.clients[0], settings, torch.Generator().manual_seed(0))
        moved = [now - then for now, then in zip(learned.parameters(), common.parameters(), strict=True)]
        return float(torch.cat([part.detach().flatten() for part in moved]).norm())

    assert distance(10.0) < 0.5 * distance(0.0)


@pytest.mark.parametrize(
    "solve",
    [
        lambda problem, _: federate(problem, AveragingSettings(rounds=4, local_epochs=2)),
        lambda problem, _: federate(problem, AveragingSettings(rounds=4, local_epochs=2, proximal=0.01)),
        lambda problem, _: feddf(problem, FedDFSettings(AveragingSettings(rounds=2, local_epochs=2), steps=20)),
        lambda _, local: ensemble(local, "probability"),
        lambda _, local: ensemble(local, "count"),
        lambda problem, _: pooled(problem, "cnn-small", 60),
    ],
    ids=["fedavg", "fedprox", "feddf", "ensemble-probability", "ensemble-count", "pooled"],
)
def test_every_baseline_learns_all_classes_of_an_easy_problem(problem, local, solve):
    assert accuracy(problem, solve(problem, local)) > 0.85


@pytest.mark.parametrize("paper", [datafree.DENSE, datafree.CO_BOOSTING], ids=["dense", "co-boosting"])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_data_free_distillation_beats_chance_without_any_data(problem, local, paper, norm):
    small = replace(paper, epochs=6, generator_steps=8, batch_size=32, width=8, passes=4, student_rate=0.05, norm=norm)
    solution = one_shot(problem, local, small)
    assert accuracy(problem, solution) > 0.45
    assert solution.bytes_up == solution.bytes_down > 0


def test_a_member_of_the_ensemble_that_is_wrong_loses_weight(problem, local):
    server = datafree._Server(problem, local.models, datafree.CO_BOOSTING)
    seen = problem.clients[1]
    server.images, server.labels = to_tensor(seen.images, SPACE), torch.from_numpy(seen.labels)
    server.said = server.ensemble.each(server.images)
    server._reweigh(0.01)
    assert server.ensemble.weights[1] > 0.5 > server.ensemble.weights[0]


def test_hard_samples_are_moved_in_every_pixel_but_stay_images(problem, local):
    server = datafree._Server(problem, local.models, replace(datafree.CO_BOOSTING, reach=0.1))
    images = to_tensor(problem.clients[0].images[:20], SPACE)
    moved = server._diversify(images)
    assert float((moved - images).abs().mean()) > 0.05
    assert float((moved - images).abs().max()) <= 0.2 + 1e-6
    assert float(moved.abs().max()) <= 1


def test_public_samples_are_taken_from_clients_evenly_when_there_are_no_others(problem):
    apart = hold_public_apart(replace(problem, public=problem.public[:0]), 60)
    assert len(apart.public) == 60
    assert [len(client) for client in apart.clients] == [60, 60]
    assert hold_public_apart(problem, 60) is problem


@pytest.mark.parametrize("partition", ["dirichlet-0.1", "two-classes", "iid"])
def test_every_partition_gives_each_training_sample_to_one_node(partition):
    train, _, _ = load_split("digits", 0, "test")
    parts = share_out(train.labels, partition, 5, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(train)))
    if partition == "two-classes":
        assert {len(np.unique(train.labels[part])) for part in parts} == {2}
    with pytest.raises(ConfigError, match="no partition"):
        share_out(train.labels, "by-moon", 5, 0)


def test_settings_are_chosen_on_a_part_of_the_training_set_only():
    train, validation, _ = load_split("digits", 0, "validation")
    everything, test, _ = load_split("digits", 0, "test")
    assert (len(train) + len(validation), len(test)) == (len(everything), 500)
    known = {image.tobytes() for image in everything.images}
    assert all(image.tobytes() in known for image in validation.images)


def test_the_methods_of_one_problem_share_its_clients():
    assert problem_of(CELL) is problem_of(replace(CELL, method="fedavg"))
    assert problem_of(CELL) is not problem_of(replace(CELL, seed=1))


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch):
    path, ran = tmp_path / "results.jsonl", []
    wanted = cells(["digits"], ["dirichlet-0.1"], [5], [0, 1], ["local", "ours"])

    def work(cell):
        ran.append(cell)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return cell, FIGURES, 1.0

    monkeypatch.setattr(knowledge, "work", work)
    with pytest.raises(KeyboardInterrupt):
        knowledge.run(wanted, path, jobs=1, budget_s=0)
    assert list(knowledge_results.read(path)) == wanted[:2]
    with path.open("ab") as file:
        file.write(b'{"cell": {"dataset": "dig')  # as a kill leaves it
    assert knowledge.run(wanted, path, jobs=1, budget_s=0)
    assert ran == [*wanted[:3], *wanted[2:]]
    assert set(knowledge_results.read(path)) == set(wanted)


def test_a_cell_that_cannot_be_run_is_named_and_the_rest_goes_on(tmp_path, monkeypatch, capsys):
    wanted = cells(["digits"], ["dirichlet-0.1"], [5], [0], ["local", "ours"])
    monkeypatch.setattr(knowledge, "work", lambda c: (c, "it is missing" if c.method == "local" else FIGURES, 1.0))
    assert not knowledge.run(wanted, tmp_path / "r.jsonl", jobs=1, budget_s=0)
    assert list(knowledge_results.read(tmp_path / "r.jsonl")) == wanted[1:]
    assert "it is missing" in capsys.readouterr().err


def test_a_source_that_the_nodes_do_not_have_is_refused_before_anything_runs():
    check_settings({"learning": {"source": "gaussian"}})
    with pytest.raises(ConfigError, match=r"learning\.source = 'divined' is not known"):
        check_settings({"learning": {"source": "divined"}})


def test_generators_that_make_the_samples_are_trained_as_nodes_train_them(problem):
    trained, spared = (
        {member.settings["learning"].get("generator_steps") for member in members_of(problem, settings, "mlp")}
        for settings in ({"learning": {"source": "generated"}}, {})
    )
    assert (trained, spared) == ({None}, {1})


def test_tables_have_models_of_their_own_and_no_methods_that_draw_pictures():
    table = Cell("breast-cancer", "dirichlet-0.5", 5, 0, "local", "validation")
    pictures = replace(table, dataset="digits")
    assert (problem_of(table).model, problem_of(pictures).model) == ("mlp", "cnn-small")
    for method in ("dense", "co-boosting", "generation"):
        with pytest.raises(ConfigError, match="breast-cancer is a table"):
            METHODS[method](replace(table, method=method), no_step)


def test_colour_digits_are_the_digits_with_three_channels():
    grey, colour = (problem_of(replace(CELL, dataset=name, method="local")) for name in ("digits", "colour-digits"))
    assert colour.space.shape == (3, 16, 16)
    assert [len(client) for client in colour.clients] == [len(client) for client in grey.clients]
    assert np.array_equal(colour.test.labels, grey.test.labels)
    assert not np.array_equal(colour.clients[0].images[:8], colour.test.images[:8])


def test_what_was_measured_again_counts(tmp_path):
    path = tmp_path / "results.jsonl"
    knowledge_results.append(path, CELL, {"global": [0.1]}, {})
    knowledge_results.append(path, CELL, {"global": [0.2]}, {})
    assert knowledge_results.read(path)[CELL] == {"global": [0.2]}


def test_filters_name_the_cells():
    options = knowledge._parse(["--dataset", "digits", "--nodes", "5", "--seed", "3", "--method", "ours"])
    chosen = knowledge._cells(options)
    assert {(cell.dataset, cell.nodes, cell.seed, cell.method) for cell in chosen} == {("digits", 5, 3, "ours")}
    assert len(chosen) == 4
    assert {cell.partition for cell in knowledge._cells(knowledge._parse(["--quick"]))} == {"dirichlet-0.1"}
    with pytest.raises(SystemExit, match="no method"):
        knowledge._cells(knowledge._parse(["--method", "magic"]))


def test_the_table_shows_mean_and_range_over_seeds_and_only_columns_with_figures():
    runs = [{"global": [0.4, 0.6]}, {"global": [0.6, 0.8]}]
    text = knowledge_results.table({"ours": runs}, knowledge_results.COLUMNS)
    assert text.splitlines()[0] == "| method | seeds | mean g | worst node |"
    assert text.splitlines()[2] == "| ours | 2 | .600 (.500–.700) | .500 (.400–.600) |"


def test_targets_are_judged_on_the_mean_and_personal_loss_on_the_worst_node():
    def figures(global_accuracy, change):
        return {
            "global": [global_accuracy] * 2,
            "anchor": 0.99,
            "personal_before": [0.9, 0.9],
            "personal": [0.95, 0.9 + change],
        }

    group = ("digits", "dirichlet-0.1", 5, "ours-anchor")
    judged = knowledge_targets.judge({group: [figures(0.98, 0.01), figures(0.96, -0.02), figures(0.98, 0.0)]})
    verdicts = {item.target.what: item.verdict for item in judged}
    assert verdicts == {"nodes": "not reached", "anchor": "reached", "worst personal change": "not reached"}
    few = knowledge_targets.judge({group: [figures(0.98, 0.01)]})
    assert few[0].verdict == "reached, too few seeds"


def test_the_report_replaces_only_what_is_between_its_markers(tmp_path):
    document = tmp_path / "benchmarks.md"
    document.write_text("# Benchmarks\n\nWords.\n")
    for global_accuracy in (0.5, 0.7):
        text = knowledge_report.markdown({CELL: {**FIGURES, "global": [global_accuracy]}})
        knowledge_report.write_into(document, text)
    assert document.read_text().startswith("# Benchmarks\n\nWords.\n")
    assert "| local | 1 | .700 |" in document.read_text()
    assert ".500" not in document.read_text()


def test_every_method_is_explained_in_the_documentation():
    page = (Path(knowledge.__file__).parents[1] / knowledge.DOCUMENT).read_text()
    assert [name for name in METHODS if f"`{name}`" not in page] == []


def test_pictures_are_drawn_for_settings_with_two_methods(tmp_path):
    results = {CELL: FIGURES, replace(CELL, method="ours"): {**FIGURES, "global": [0.9, 0.9]}}
    (path,) = knowledge_plots.draw(results, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert knowledge_plots.draw({CELL: FIGURES}, tmp_path) == []


@pytest.mark.parametrize(("limits", "wanted"), [((753.0, 753.0), (376.5, 2130.0)), ((1.0, 16.0), (1.0, 32.0))])
def test_a_point_that_is_alone_has_room_around(limits, wanted):
    assert knowledge_plots._with_room(*limits) == pytest.approx(wanted, rel=1e-3)


def test_seeds_that_are_all_alike_are_drawn(tmp_path):
    """The mean of three floats .95 is a little less than each of them."""
    cells = [replace(CELL, seed=seed, method=method) for seed in range(3) for method in ("local", "ours")]
    assert knowledge_plots.draw({cell: {**FIGURES, "global": [0.95]} for cell in cells}, tmp_path)


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """(path, what was run): a search of three candidates, of which one is far behind and one a little."""
    quality = {"good": 0.9, "near": 0.89, "bad": 0.6}
    path, ran = tmp_path / "tuning.jsonl", []

    def solve(_method, problem, settings, _dataset):
        ran.append((problem.seed, settings))
        right = np.eye(10, dtype=np.float32)[problem.test.labels]
        wrong = np.random.default_rng(0).random(len(right)) > quality[settings]
        right[wrong] = np.roll(right[wrong], 1, axis=1)
        return Solution([right])

    monkeypatch.setattr(tune, "candidates", lambda _method, _dataset: {name: name for name in quality})
    monkeypatch.setattr(tune, "solve", solve)
    monkeypatch.setattr(tune, "solution_figures", lambda problem, solution: {"global": [accuracy(problem, solution)]})
    return path, ran


def test_a_setting_that_is_far_behind_is_not_tried_on_the_next_seed(searched, capsys):
    path, ran = searched
    assert tune.main(["--method", "fedavg", "--results", str(path)]) == 0
    assert ran == [(10, "good"), (10, "near"), (10, "bad"), (11, "good"), (11, "near")]
    table = capsys.readouterr().out
    assert "### digits, dirichlet-0.1, N=5" in table
    assert "| fedavg: bad | 1 |" in table
    assert "| fedavg: good | 2 |" in table


def test_a_stopped_search_goes_on_where_it_was(searched):
    path, ran = searched
    tune.main(["--method", "fedavg", "--seed", "10", "--results", str(path)])
    tune.main(["--method", "fedavg", "--results", str(path)])
    assert len(ran) == len(set(ran)) == 5


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_baseline_has_candidates_that_are_settings_of_its_own(dataset):
    for method in tune.METHODS:
        found = tune.candidates(method, dataset)
        assert len(found) >= 2
        assert len({repr(settings) for settings in found.values()}) == len(found)


def test_json_is_one_document_and_check_tells_of_missed_targets(tmp_path, monkeypatch, capsys):
    bad = {"global": [0.5, 0.5], "personal": [0.9, 0.9], "personal_before": [0.8, 0.8], "cpu_s": {}}
    monkeypatch.setattr(knowledge, "work", lambda cell: (cell, bad, 1.0))
    command = ["--quick", "--method", "ours-anchor", "--results", str(tmp_path / "r.jsonl"), "--json"]
    assert knowledge.main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert [target["verdict"] for target in document["targets"]] == [
        "not reached, too few seeds",
        "reached, too few seeds",
    ]
    assert knowledge.main([*command, "--check"]) == 1


def test_the_frechet_distance_of_shifted_clouds_is_the_squared_shift():
    rng = np.random.default_rng(0)
    cloud = rng.normal(size=(2000, 3))
    assert frechet(cloud, cloud) == pytest.approx(0, abs=1e-6)
    assert frechet(cloud, cloud + np.array([2.0, 0, 0])) == pytest.approx(4, abs=1e-6)


def test_drawings_are_judged_by_an_oracle_by_a_student_and_by_distance(problem, monkeypatch):
    monkeypatch.setattr(knowledge_generation, "STUDENT_STEPS", 60)
    real = bars(150, (0, 1, 2), 8)
    oracle = pooled_classifier(real)
    taught = fit_generator(real.images, real.labels, SPACE, steps=150, seed=0)
    lopsided = fit_generator(real.images, np.zeros_like(real.labels), SPACE, steps=50, seed=0)
    good, bad = (
        knowledge_generation.judge(knowledge_generation.drawn(problem, drawer), oracle, real, problem)
        for drawer in (taught, lopsided)
    )
    assert good["oracle_accuracy"] > 0.9 > 0.6 > bad["oracle_accuracy"]
    assert good["downstream"] > 0.8
    assert good["frechet"] < bad["frechet"]


def test_nodes_in_one_process_teach_each_other_and_are_metered():
    learning = {"classifier_steps": 40, "condense_steps": 20, "distil_steps": 40, "generator_steps": 5}
    placed = []

    def wrap(place, learner):
        placed.append(place)
        return learner

    members = [
        Member("one", bars(120, (0, 1), 5), {"model": "cnn-small", "seed": 1, "learning": learning}),
        Member("two", bars(120, (1, 2), 6), {"model": "mlp", "seed": 2, "learning": learning}),
        Member("anchor", None, {"seed": 3, "learning": learning}),
    ]
    one, two, anchor = run_in_process(SPACE, members, bars(150, (0, 1, 2), 7), wrap_learner=wrap, timeout_s=100)
    assert placed == [0, 1, 2]
    for node in (one, two):
        assert node.global_before < 0.7 < 0.9 < node.global_after
        assert node.personal_after >= node.personal_before - 0.02
        assert {"classifier", "condensation", "distillation"} <= set(node.cpu_s)
        assert all(seconds > 0 for seconds in node.cpu_s.values())
        assert 0 < node.knowledge_bytes_published < node.knowledge_bytes_sent < node.bytes_sent
    assert (one.model, two.model, anchor.model) == ("cnn-small", "mlp", "cnn-large")
    assert (anchor.counts, anchor.personal_after) == ((), None)
    assert anchor.global_after > 0.9
