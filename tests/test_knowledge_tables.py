"""Tables: CSV and numpy files, cut into levels that all nodes share, through every step of the knowledge wing."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import DataError, DecodeError, InvalidTask, ModelError
from meshlore.knowledge.augment import Views, own_views, same_view
from meshlore.knowledge.condense import condense
from meshlore.knowledge.generator import fit_generator
from meshlore.knowledge.metrics import global_accuracy
from meshlore.knowledge.models import MODELS, TABLE_MODELS, build_model, default_model, logits, to_tensor
from meshlore.knowledge.packet import SamplePacket, decode, encode
from meshlore.knowledge.samples import as_levels, presented, read_files, write_samples
from meshlore.knowledge.sources import fitted, load, load_private, save_npz
from meshlore.knowledge.space import Column, Space
from meshlore.knowledge.tables import in_units, quantised, read_csv, read_ranges, robust_range
from meshlore.knowledge.training import fit_classifier
from meshlore.knowledge.trust import weigh

SPACE = Space((1, 1, 2), ("cat", "dog"), columns=(Column("weight", 0.0, 51.0), Column("height", -1.0, 1.0)))
ROWS = "weight,height,label\n" + "".join(
    f"{weight},{weight / 100},{'cat' if weight < 6 else 'dog'}\n" for weight in range(12)
)


@pytest.fixture
def file(tmp_path):
    def write(text: str, name: str = "data.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(str(path), **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


class TestCsv:
    def test_columns_and_classes_come_from_the_file_and_ranges_from_the_values(self, file):
        loaded = load(str(file(ROWS)))
        space = loaded.dataset.space
        assert space.classes == ("cat", "dog")
        assert [column.name for column in space.columns] == ["weight", "height"]
        assert space.columns[0].low < 0 < 11 < space.columns[0].high
        assert loaded.dataset.images.shape == (12, 1, 1, 2)
        assert any("become known to all members" in note for note in loaded.notes)

    def test_numbers_survive_to_within_half_a_level(self, file):
        dataset = load(str(file(ROWS))).dataset
        units = in_units(dataset.images, dataset.space)
        step = (dataset.space.columns[0].high - dataset.space.columns[0].low) / 255
        assert np.abs(units[:, 0] - np.arange(12)).max() <= step / 2 + 1e-9

    @pytest.mark.parametrize(
        "text",
        [
            ROWS.replace(",", ";"),
            ROWS.replace(",", "\t"),
            "\ufeff" + ROWS,
            ROWS.replace("\n", "\r\n"),
            ROWS + "\n\n",
            ROWS.replace("label", "Class"),
        ],
        ids=["semicolons", "tabs", "byte order mark", "windows", "empty lines", "named class"],
    )
    def test_the_usual_variants_are_the_same_table(self, file, text):
        assert np.array_equal(load(str(file(text))).dataset.images, load(str(file(ROWS, "b.csv"))).dataset.images)

    def test_without_a_label_column_the_last_one_is_it_and_that_is_said(self, file):
        loaded = load(str(file(ROWS.replace("label", "species"))))
        assert loaded.dataset.space.classes == ("cat", "dog")
        assert any("'species'" in note for note in loaded.notes)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (ROWS + "13,,dog\n", "line 14, column 'height': '' is not a number"),
            (ROWS + "big,1,dog\nbig,2,dog\n", "line 14, column 'weight': 'big' is not a number (1 more"),
            (ROWS + "nan,1,dog\n", "'nan' is not a number"),
            (ROWS + "1_0,1,dog\n", "'1_0' is not a number"),
            (ROWS + '"1,5",1,dog\n', "'1,5' is not a number"),
            (ROWS + "1,dog\n", "line 14: 2 cells under 3 names"),
            (ROWS + "1,1,\n", "line 14: '' is no class name"),
            (ROWS + "1,1,owl\n", "class 'owl'"),
            (ROWS.replace("height", "weight"), "'weight' in its first line"),
            (ROWS.replace("weight", "class"), "columns 'class' and 'label'"),
            ("weight,height,label\n", "no rows"),
            ("", "0 columns"),
            ("a,b\n" + "".join(f"{n},{n}\n" for n in range(30)), "30 different labels in 30 rows"),
            ("".join(ROWS.splitlines(keepends=True)[:8]), "holds 7 samples"),
        ],
        ids=str,
    )
    def test_what_is_wrong_is_named_by_line_and_column(self, file, text, words):
        assert words in refusal(file(text))

    def test_bytes_that_are_no_text_are_refused(self, tmp_path):
        (tmp_path / "data.csv").write_bytes(b"weight,label\n\xff\xfe,1\n")
        assert "UTF-8" in refusal(tmp_path / "data.csv")

    def test_a_space_finds_its_columns_by_name_and_says_what_it_leaves_out_or_cuts_off(self, file):
        text = "height,id,label,weight\n" + "0.5,7,dog,10\n" * 6 + "-0.5,8,cat,99\n" * 6
        loaded = load(str(file(text)), space=SPACE)
        assert loaded.dataset.space == SPACE
        assert loaded.dataset.images[0].ravel().tolist() == [50, 191]
        assert loaded.dataset.images[-1].ravel().tolist() == [255, 64]
        assert any("left out 1 columns: id" in note for note in loaded.notes)
        assert any(note.startswith("6 values (25.00%) lie outside") for note in loaded.notes)

    def test_a_missing_column_an_unknown_class_and_the_wrong_modality_are_refused(self, file):
        assert "lacks the column 'height'" in refusal(file("weight,label\n" + "1,cat\n" * 12), space=SPACE)
        assert "class 'Cat' is unknown" in refusal(file(ROWS.replace("cat", "Cat")), space=SPACE)
        assert "about images" in refusal(file(ROWS), space=Space((1, 8, 8), ("cat", "dog")))
        with pytest.raises(DataError, match="about tables"):
            load("digits", space=SPACE)

    def test_ranges_may_be_given_by_hand(self, file):
        ranges = read_ranges(file('weight = [0, 120]\n"height" = [-1.5, 1.5]\n', "ranges.toml"))
        loaded = load(str(file(ROWS)), ranges=ranges)
        assert loaded.dataset.space.columns == (Column("weight", 0.0, 120.0), Column("height", -1.5, 1.5))
        assert not any("become known" in note for note in loaded.notes)
        assert "no column" in refusal(file(ROWS), ranges={"age": (0.0, 1.0)})
        assert "reaches from 2.0 to 1.0" in refusal(file(ROWS), ranges={"weight": (2.0, 1.0)})
        for text in ("weight = 3", "weight = [1, true]", "weight ="):
            with pytest.raises(DataError, match=r"ranges\.toml"):
                read_ranges(file(text, "ranges.toml"))


class TestArchives:
    def test_a_table_of_numpy_is_read(self, tmp_path):
        path = tmp_path / "mine.npz"
        table, labels = np.arange(24.0).reshape(12, 2), np.array(["cat", "dog"] * 6)
        np.savez(path, table=table, columns=np.array(["weight", "height"]), labels=labels)
        dataset = load(str(path)).dataset
        assert dataset.class_names() == ("cat", "dog")
        table[3, 1] = np.nan
        np.savez(path, table=table, columns=np.array(["weight", "height"]), labels=labels)
        assert "row 3, column 'height': nan is not a number" in refusal(path)
        np.savez(path, table=table, columns=np.array(["weight"]), labels=labels)
        assert "cannot be read" in refusal(path)

    def test_a_saved_table_keeps_its_columns_and_another_range_is_requantised(self, tmp_path):
        dataset = load("wine").dataset
        save_npz(tmp_path / "mine.npz", dataset)
        assert load(str(tmp_path / "mine.npz")).dataset.space == dataset.space
        wider = tuple(Column(column.name, column.low - 1, column.high + 1) for column in dataset.space.columns[::-1])
        moved = fitted(dataset, Space(dataset.space.shape, dataset.space.classes, columns=wider)).dataset
        back = in_units(moved.images, moved.space)[:, ::-1]
        step = np.array([column.high - column.low for column in wider[::-1]]) / 255
        assert (np.abs(back - in_units(dataset.images, dataset.space)) <= 0.51 * step).all()


class TestRange:
    @given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=50))
    def test_any_column_has_one_with_its_median_inside(self, values):
        low, high = robust_range(np.array(values))
        assert low < np.median(values) < high

    def test_it_does_not_tell_what_is_rare(self):
        values = np.concatenate([np.linspace(0, 1, 1000), [1e6]])
        assert robust_range(values) == pytest.approx((-0.05, 1.05), abs=0.01)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": (Column("a", 0, 1),)}, "samples of shape"),
        ({"columns": (Column("a", 0, 1), Column("a", 0, 1))}, "two columns have the same name"),
        ({"columns": (Column("a", 0, 1), Column(" b", 0, 1))}, "column name"),
        ({"columns": (Column("a", 0, 1), Column("b", 1, 1))}, "reaches from"),
        ({"columns": (Column("a", 0, 1), Column("b", 0, float("nan")))}, "reaches from"),
        ({"columns": (Column("a", 0, 1), Column("b", 0, float("inf")))}, "reaches from"),
        ({"shape": (1, 1, 513), "columns": tuple(Column(str(n), 0, 1) for n in range(513))}, "513 columns"),
    ],
)
def test_columns_out_of_bounds_make_no_space(changes, words):
    with pytest.raises(DataError, match=words):
        Space(**({"shape": (1, 1, 2), "classes": ("a", "b")} | changes))


@pytest.mark.parametrize("columns", [[["a", 0, 1]], [["a", 0.0]], ["a"], [["a", 0.0, 1.0, 2.0]], [[1, 0.0, 1.0]]])
def test_foreign_columns_are_checked(columns):
    with pytest.raises(DecodeError):
        Space.from_map(SPACE.to_map() | {"columns": columns})
    assert Space.from_map(SPACE.to_map()) == SPACE


@pytest.mark.parametrize("name", MODELS)
def test_models_of_images_refuse_tables_by_name(name):
    if name in TABLE_MODELS:
        assert logits(build_model(name, SPACE, 0), np.zeros((2, 1, 1, 2), np.uint8), SPACE).shape == (2, 2)
    else:
        with pytest.raises(ModelError, match="is for images, not for tables: use mlp or mlp-large"):
            build_model(name, SPACE, 0)
    assert default_model(SPACE, "node") in TABLE_MODELS


def test_rows_have_no_other_views():
    rows, random = torch.rand(5, 1, 1, 7), torch.Generator().manual_seed(0)
    assert all(torch.equal(rows, view) for view in same_view([rows, rows], Views(), random))
    assert torch.equal(own_views(rows, Views(), random), rows)


def test_rows_of_many_kinds_give_the_same_levels(file):
    path = file("height,weight\n0.5,10\n-0.5,20\n")
    wanted = [[50, 191], [100, 64]]
    for given_as in (path, [str(path)], np.array([[10, 0.5], [20, -0.5]]), {"weight": [10, 20], "height": [0.5, -0.5]}):
        assert as_levels(given_as, SPACE).reshape(2, 2).tolist() == wanted
    assert as_levels(np.array([10, 0.5]), SPACE).reshape(1, 2).tolist() == wanted[:1]
    assert read_files([path], SPACE).names == (f"{path}:2", f"{path}:3")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (np.zeros((2, 3)), "shape"),
        (np.array([[np.nan, 1]]), "missing"),
        ({"weight": [1]}, "column 'height' is missing"),
        ({"weight": [1, 2], "height": [1]}, "different lengths"),
        ([["a", "b"]], "not numbers"),
        ([], "shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(rows, words):
    with pytest.raises(InvalidTask, match=words):
        as_levels(rows, SPACE)


def test_written_rows_are_read_again(tmp_path):
    samples = np.array([[[[50, 191]]], [[[100, 64]]]], np.uint8)
    write_samples(tmp_path / "out.csv", presented(samples, SPACE), "cat", SPACE)
    table = read_csv(tmp_path / "out.csv", SPACE)
    assert table.labels == ("cat", "cat")
    assert np.array_equal(quantised(table.values, SPACE)[0], samples)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 30), columns=st.integers(1, 40), seed=st.integers(0, 1000))
def test_packets_of_tables_survive_the_wire(n, columns, seed):
    rng = np.random.default_rng(seed)
    space = Space((1, 1, columns), ("a", "b"), columns=tuple(Column(str(i), 0.0, 1.0) for i in range(columns)))
    rows = rng.integers(0, 256, (n, 1, 1, columns)).astype(np.uint8)
    packet = SamplePacket(space.id, "condensed", rows, rng.integers(0, 2, n), None, np.array([5, 5]))
    assert np.array_equal(decode(encode(packet), space).images, rows)


@pytest.mark.parametrize(("name", "rows", "columns"), [("wine", (128, 50), 13), ("breast-cancer", (419, 150), 30)])
def test_built_in_tables_have_a_fixed_split(name, rows, columns):
    train, test = load(name).dataset, load(f"{name}:test").dataset
    assert (len(train), len(test)) == rows
    assert train.space == test.space
    assert train.space.width == columns
    assert min(train.counts()) > 0


class TestLearning:
    """On the tuning split of the breast cancer data; nothing here has seen its test part."""

    train, validation = load("breast-cancer").dataset.tuning_split(100)

    def score(self, dataset) -> float:
        model = fit_classifier(build_model("mlp", dataset.space, 0), dataset, steps=150, seed=0)
        return global_accuracy(logits(model, self.validation.images, dataset.space), self.validation.labels)

    def test_condensed_rows_teach_nearly_as_well_as_the_real_ones(self):
        made = condense(self.train, seed=0)
        assert len(made) <= 80
        real = {row.tobytes() for row in self.train.images}
        assert not any(row.tobytes() in real for row in made.images)
        assert self.score(type(self.train)(self.train.space, made.images, made.labels)) > self.score(self.train) - 0.04

    def test_generated_rows_are_of_their_class(self):
        oracle = fit_classifier(build_model("mlp", self.train.space, 0), self.train, steps=150, seed=0)
        generator = fit_generator(self.train.images, self.train.labels, self.train.space, steps=200, seed=0)
        wanted = np.repeat([0, 1], 50)
        drawn = generator.sample(wanted, seed=0)
        assert (logits(oracle, drawn, self.train.space).argmax(axis=1) == wanted).mean() > 0.9

    def test_trust_tells_a_label_flip_from_an_honest_table(self):
        mine, honest, liar = (self.train.subset(np.arange(start, len(self.train), 3)) for start in range(3))
        packets = {}
        for author, part in (("honest", honest), ("liar", liar)):
            made = condense(part, seed=1)
            labels = made.labels if author == "honest" else 1 - made.labels
            packet = SamplePacket(part.space.id, "condensed", made.images, labels, None, part.counts())
            packets[author] = (author, packet)
        verdicts = weigh(mine, packets, [], mine.space, seed=0)
        assert verdicts["honest"].weight > 0.8
        assert verdicts["liar"].weight < 0.2


def test_a_member_with_a_class_of_its_own_adds_it(file):
    loaded = load_private(str(file(ROWS.replace("dog", "owl"))), SPACE)
    assert loaded.dataset.space.classes == ("cat", "dog", "owl")
    assert loaded.dataset.space.id == SPACE.id
    assert loaded.dataset.counts().tolist() == [6, 0, 6]
    assert "new to the mesh, and added to its classes: owl" in loaded.notes
    only = load_private(str(file(ROWS.replace("dog", "owl"))), SPACE, ("cat",))
    assert only.dataset.space == SPACE


def test_levels_are_spread_over_the_range():
    tensor = to_tensor(quantised(np.array([[0.0, -1.0], [51.0, 1.0]]), SPACE)[0], SPACE)
    assert tensor.flatten(1).tolist() == [[-1.0, -1.0], [1.0, 1.0]]
