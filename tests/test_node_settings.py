"""Settings: file below environment below flags, and every wrong value refused with its place and remedy."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meshlore.errors import ConfigError
from meshlore.node.settings import Settings, find_places, load_settings, write_settings


@pytest.fixture
def config(tmp_path):
    """``config(text)``: a configuration file with this content."""

    def write(text: str) -> Path:
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


def refused(path, *, flags=None, environment=None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings(path, flags=flags, environment=environment or {})
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_flags_win_over_the_environment_and_the_environment_over_the_file(config):
    path = config('name = "file"\nmodel = "file"\ndata = "file"\n')
    environment = {"MESHLORE_MODEL": "environment", "MESHLORE_DATA": "environment"}
    settings = load_settings(path, flags={"data": "flag", "listen": None}, environment=environment)
    assert (settings.name, settings.model, settings.data) == ("file", "environment", "flag")
    assert settings.listen == ("/ip4/127.0.0.1/tcp/0",)


def test_without_a_file_the_defaults_hold(tmp_path):
    settings = load_settings(tmp_path / "none.toml", environment={})
    assert (settings.seed, settings.learning.patience_s) == (None, 20.0)


def test_variables_that_name_places_and_secrets_are_no_settings(tmp_path):
    environment = {"MESHLORE_HOME": "/x", "MESHLORE_CONFIG": "/y", "MESHLORE_PASSPHRASE": "z", "OTHER": "1"}
    assert load_settings(tmp_path / "none.toml", environment=environment).data == ""


def test_nested_learning_settings_come_from_file_variable_and_flag(config):
    path = config("[learning]\npatience_s = 5.0\nrefinements = 2\nclassifier_steps = 7\n")
    settings = load_settings(
        path, flags={"learning.classifier_steps": 9}, environment={"MESHLORE_LEARNING__PATIENCE_S": "1.5"}
    )
    assert settings.learning.patience_s == 1.5
    assert settings.learning.refinements == 2
    assert settings.learning.classifier_steps == 9


def test_lists_are_written_with_commas_in_variables_and_flags(config):
    settings = load_settings(config('classes = ["a", "b c"]\n'), environment={})
    assert settings.classes == ("a", "b c")
    settings = load_settings(config(""), environment={"MESHLORE_CLASSES": " a, b c ,"})
    assert settings.classes == ("a", "b c")


@pytest.mark.parametrize(
    ("text", "line", "key", "remedy"),
    [
        ('name = "n"\n\nmodle = "mlp"\n', 3, "modle", "did you mean 'model'?"),
        ("seed = 1\n[learning]\n# calm\npatience = 3\n", 4, "learning.patience", "did you mean 'patience_s'?"),
        ("seed = 1\n[lerning]\n\npatience_s = 3\n", 2, "lerning", "did you mean 'learning'?"),
        ("seed = 1\nlearning.patiense_s = 3\n", 2, "learning.patiense_s", "did you mean 'patience_s'?"),
        ("seed = 1\nlearning = { patiense_s = 3 }\n", 2, "learning.patiense_s", "did you mean 'patience_s'?"),
        ("[lerning]\n", 1, "lerning", "did you mean 'learning'?"),
        ("seed = 1\nxyzzy = 3\n", 2, "xyzzy", "known are name, data,"),
    ],
)
def test_an_unknown_key_is_refused_with_file_line_and_the_nearest_known_one(config, text, line, key, remedy):
    path = config(text)
    message = refused(path)
    assert message.startswith(f"{path}, line {line}: unknown setting {key!r}: ")
    assert remedy in message


@pytest.mark.parametrize(
    ("text", "line", "key", "value"),
    [
        ('seed = 1\nname = "two words"\n', 2, "name", "'two words'"),
        ("\nseed = -1\n", 2, "seed", "-1"),
        ('seed = 1\nlog_level = "loud"\n', 2, "log_level", "'loud'"),
        ('seed = 1\nlisten = ["/ip4/1.2.3.4/udp/5"]\n', 2, "listen", "/udp/"),
        ("classes = [1]\n", 1, "classes.0", "1"),
        ("threads = 1\n[learning]\nrefinements = 99\n", 3, "learning.refinements", "99"),
        ("threads = 1\nlearning = { refinements = 99 }\n", 2, "learning.refinements", "99"),
    ],
)
def test_a_bad_value_in_the_file_is_refused_with_its_line(config, text, line, key, value):
    path = config(text)
    message = refused(path)
    assert message.startswith(f"{path}, line {line}: {key} = ")
    assert value in message


def test_a_bad_value_in_a_variable_is_refused_with_the_variable(tmp_path):
    message = refused(tmp_path / "none.toml", environment={"MESHLORE_LEARNING__PATIENCE_S": "soon"})
    assert message.startswith("variable MESHLORE_LEARNING__PATIENCE_S: learning.patience_s = 'soon' is refused: ")
    assert "MESHLORE_SED" in refused(tmp_path / "none.toml", environment={"MESHLORE_SED": "1"})


def test_a_bad_value_of_a_flag_is_refused_with_the_flag(config):
    message = refused(config('log_level = "info"\n'), flags={"log_level": "loud"})
    assert message.startswith("flag --log-level: log_level = 'loud' is refused: ")


def test_a_syntax_error_is_refused_with_its_line(config):
    path = config('name = "n"\nseed = = 1\n')
    message = refused(path)
    assert message.startswith(f"{path} is not valid TOML (")
    assert "line 2" in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe\x00")
    assert "cannot read" in refused(tmp_path / "config.toml")


def test_a_home_named_by_hand_holds_its_own_configuration(tmp_path, monkeypatch):
    monkeypatch.delenv("MESHLORE_CONFIG", raising=False)
    monkeypatch.setenv("MESHLORE_HOME", str(tmp_path / "by-variable"))
    assert find_places().config == tmp_path / "by-variable" / "config.toml"
    places = find_places(str(tmp_path / "by-flag"))
    assert (places.home, places.config) == (tmp_path / "by-flag", tmp_path / "by-flag" / "config.toml")
    assert find_places(str(tmp_path), str(tmp_path / "x.toml")).config == tmp_path / "x.toml"


def test_without_a_home_by_hand_the_xdg_folders_are_used(tmp_path, monkeypatch):
    for name in ("MESHLORE_HOME", "MESHLORE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    places = find_places()
    assert places.home == tmp_path / "data" / "meshlore"
    assert places.config == tmp_path / "config" / "meshlore" / "config.toml"


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None, max_examples=50)
@given(data=texts, classes=st.lists(texts.map(str.strip).filter(bool), max_size=3), seed=st.integers(0, 2**31 - 1))
def test_what_was_written_is_read_again(tmp_path_factory, data, classes, seed):
    path = tmp_path_factory.mktemp("settings") / "new" / "config.toml"
    write_settings(path, {"data": data, "classes": classes, "seed": seed, "model": None})
    assert path.stat().st_mode & 0o777 == 0o600
    read = load_settings(path, environment={})
    assert (read.data, read.classes, read.seed) == (data, tuple(classes), seed)


@pytest.mark.parametrize(
    ("listen", "lan", "found"),
    [
        (["/ip4/127.0.0.1/tcp/0"], "on", False),
        (["/ip4/127.0.0.1/tcp/0", "/ip4/192.168.1.5/tcp/4810"], "on", True),
        (["/ip4/192.168.1.5/tcp/4810"], "off", False),
    ],
)
def test_who_listens_on_the_network_is_found_there_unless_told_otherwise(listen, lan, found):
    assert Settings(listen=listen, lan=lan).on_lan is found
