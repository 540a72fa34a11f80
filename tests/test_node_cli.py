"""The command line: quick to help, one line per error with its exit code, one JSON document when asked."""

import asyncio
import json
import resource
import subprocess
import sys
import time
import tomllib

import numpy as np
import pytest
from meshlore.knowledge.space import Space
from meshlore.node.cli import app
from meshlore.node.control import ControlServer
from meshlore.node.results import Answer, Classified, Evaluated, FineTuned, Generated, Learned, result_to_map
from PIL import Image
from typer.testing import CliRunner

SPACE = Space((1, 8, 8), ("cat", "dog"))
ANSWER = Answer("ben", "ben-id", "peer", 0.1)
RESULTS = {
    "classify": Classified(("dog",), (0.75,), ("ann",), ANSWER),
    "generate": Generated(np.full((3, 1, 8, 8), 255, np.uint8), "dog", 1.0, ANSWER),
    "evaluate": Evaluated(12, 0.5, 0.5, None, {"cat": 0.0, "dog": 1.0}, ANSWER),
    "fine-tune": FineTuned(12, 0.5, 1.0, 0.9, 0.9, True, ANSWER),
    "skill": Learned(("dog",), 40, {"dog": 0.1}, {"dog": 0.9}, 0.9, 0.9, True, "1 better and 0 worse", ANSWER),
}


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """Nothing of this machine's own meshlore is read or written."""
    for name in ("MESHLORE_HOME", "MESHLORE_CONFIG", "MESHLORE_PASSPHRASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg-data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg-config"))


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def refused(code, *arguments):
    """The one line that a wrong command prints."""
    result = run(*arguments, code=code)
    assert result.stdout == "", "standard output is for results"
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("meshlore: ")
    return lines[0]


@pytest.fixture
def founded(home):
    run("init", "--data", "digits", "--home", home, "--name", "ann", "--mesh", "testers")
    return home


HEAVY = ["torch", "libp2p", "trio", "ray", "diffusers", "sklearn", "matplotlib", "numpy", "httpx", "PIL", "pydantic"]


def test_help_answers_in_half_a_second_and_imports_nothing_heavy():
    program = (
        "import sys; from meshlore.node.cli import app; sys.argv[1:] = ['--help']\n"
        "try: app()\n"
        f"except SystemExit: print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)))"
    )
    used_s, output = [], ""
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert "HEAVY []" in output
    for command in ("init", "invite", "join", "run", "status", "peers", "doctor", "task", "demo", "cluster"):
        assert command in output
    assert min(used_s) < 0.5


def test_the_package_alone_imports_nothing_heavy_either():
    program = f"import sys, meshlore; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    "command", ["status", "status --json", "peers", "peers --json", "invite", "task generate --label 7 -o x.png"]
)
def test_without_a_daemon_every_asking_command_says_so(home, command):
    assert "no daemon runs in" in refused(5, *command.split(), "--home", home)


def test_classifying_and_evaluating_without_a_daemon_says_so_too(home, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    for command in (["classify", tmp_path / "p.png"], ["evaluate", "digits:test"], ["fine-tune", "digits"]):
        assert "meshlore run" in refused(5, "task", *command, "--home", home)


def test_a_home_that_is_no_member_cannot_run(home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('data = "digits"\n')
    assert "meshlore init" in refused(4, "run", "--home", home)


def test_an_unknown_setting_is_refused_with_file_and_line(home):
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('name = "n"\nmodle = "mlp"\n')
    for command in (["run"], ["init", "--data", "digits"]):
        line = refused(2, *command, "--home", home)
        assert f"{home / 'config.toml'}, line 2: unknown setting 'modle': did you mean 'model'?" in line
    assert [path.name for path in home.iterdir() if path.name != "lock"] == ["config.toml"]


def test_a_bad_flag_names_the_flag(home):
    assert "flag --listen: " in refused(2, "run", "--home", home, "--listen", "nowhere")


@pytest.mark.parametrize(
    ("code", "flags", "cause"),
    [
        (3, ["--data", "missing-folder"], "there is no data source 'missing-folder'"),
        (2, [], "no data source was given"),
        (3, ["--data", "digits", "--model", "no-such-model"], "no-such-model"),
        (3, ["--data", "digits", "--classes", "cat"], "class 'cat' is unknown"),
        (3, ["--data", "digits", "--all-classes", "0,1"], "class '2' is unknown"),
        (2, ["--data", "digits", "--name", "two words"], "flag --name"),
        (2, ["--data", "digits", "--role", "king"], "role 'king'"),
        (2, ["--data", "digits", "--size", "big"], "size 'big'"),
        (2, ["--data", "digits", "--colour", "sepia"], "colour 'sepia'"),
    ],
)
def test_a_wrong_init_is_refused_and_leaves_nothing(home, code, flags, cause):
    assert cause in refused(code, "init", "--home", home, *flags)
    assert not home.exists()


@pytest.mark.parametrize("code", ["", "hello", "meshlore-invite1-", "meshlore-invite1-AAAA"])
def test_a_bad_invite_is_refused_and_leaves_nothing(home, code):
    assert "invite" in refused(6, "join", code, "--data", "digits", "--home", home)
    assert not home.exists()


def test_init_founds_a_mesh_once(founded):
    assert {"identity.key", "root.key", "member.cert", "config.toml"} <= {path.name for path in founded.iterdir()}
    assert founded.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in founded.iterdir())
    assert tomllib.loads((founded / "config.toml").read_text()) == {"name": "ann", "data": "digits"}
    before = {path: path.read_bytes() for path in founded.iterdir()}
    assert "already belongs to a mesh" in refused(4, "init", "--data", "digits", "--home", founded)
    assert {path: path.read_bytes() for path in founded.iterdir()} == before


def test_a_home_in_use_cannot_run_twice(founded):
    program = (
        "import sys; from pathlib import Path; from meshlore.node.store import HomeLock\n"
        "lock = HomeLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program, founded], stdin=-1, stdout=-1) as process:
        process.stdout.readline()
        assert f"(pid {process.pid})" in refused(4, "run", "--home", founded)
        process.stdin.close()


def test_data_of_another_kind_than_the_mesh_is_about_cannot_run(founded, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,b,label\n" + "1,2,cat\n3,4,dog\n" * 6)
    line = refused(3, "run", "--home", founded, "--data", table)
    assert f"{table} is a table, and the mesh is about images" in line


class FakeNode:
    """What the control API shows."""

    def status(self):
        return {"name": "fake", "space": SPACE.to_map()}

    def peers(self):
        return [{"name": "ben", "state": "live"}]

    async def invite(self, role, _lifetime_s):
        return f"meshlore-invite1-{role}"

    async def submit(self, task, _timeout_s, progress):
        progress(0.5, "half")
        await asyncio.sleep(0.02)
        return result_to_map(RESULTS[task["kind"]])


@pytest.fixture
async def daemon(home):
    home.mkdir(mode=0o700)
    server = ControlServer(home, FakeNode())
    await server.start()
    yield home
    await server.stop()


async def ask(daemon, *arguments, code=0):
    return await asyncio.to_thread(run, *arguments, "--home", daemon, code=code)


async def document(daemon, *arguments):
    """What --json printed: exactly one document on one line, and nothing else on standard output."""
    result = await ask(daemon, *arguments, "--json")
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


async def test_json_is_exactly_one_document(daemon, tmp_path, image_folder):
    pictures, one = image_folder(), tmp_path / "p.png"
    Image.new("L", (8, 8)).save(one)
    assert await document(daemon, "status") == FakeNode().status()
    assert await document(daemon, "peers") == FakeNode().peers()
    assert (await document(daemon, "invite"))["code"] == "meshlore-invite1-node"
    said = await document(daemon, "task", "classify", one)
    assert said["images"] == [{"path": str(one), "label": "dog", "confidence": 0.75}]
    assert said["answer"]["node"] == "ben"
    assert (await document(daemon, "task", "evaluate", pictures))["per_class"] == {"cat": 0.0, "dog": 1.0}
    assert (await document(daemon, "task", "fine-tune", pictures))["kept"] is True
    drawn = await document(daemon, "task", "generate", "--label", "dog", "-n", 3, "-o", tmp_path / "dogs.png")
    assert drawn["path"] == str(tmp_path / "dogs.png")
    assert Image.open(tmp_path / "dogs.png").getextrema()[1] == 255


async def test_without_json_a_task_prints_its_result_and_says_on_standard_error_who_answered(daemon, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "p.png")
    result = await ask(daemon, "task", "classify", tmp_path / "p.png")
    assert result.stdout == f"{tmp_path / 'p.png'}: dog (75%)\n"
    assert "answered by ben (a peer)" in result.stderr


async def test_data_with_a_class_unknown_to_the_mesh_is_no_task(daemon, image_folder):
    folder = image_folder(classes=("cat", "cow"))
    for command in ("evaluate", "fine-tune"):
        line = await asyncio.to_thread(refused, 3, "task", command, folder, "--home", daemon)
        assert f"{folder / 'cow'} is none of the classes" in line
        assert "known: cat, dog" in line


async def test_unreadable_and_missing_pictures_and_wrong_outputs_are_refused(daemon, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    for name in ("broken.png", "missing.png"):
        assert name in await asyncio.to_thread(refused, 3, "task", "classify", tmp_path / name, "--home", daemon)
    line = await asyncio.to_thread(refused, 2, "task", "generate", "--label", "dog", "-o", "dogs.txt", "--home", daemon)
    assert "does not end in .png" in line


def test_an_invite_to_nobody_ends_by_its_deadline(founded, home, tmp_path):
    from meshlore.security.invites import InviteBook
    from meshlore.security.membership import Credentials

    credentials = Credentials.load(founded)
    book = InviteBook(founded / "invites.db", credentials.mesh_id)
    code = book.create([f"/ip4/127.0.0.1/tcp/9/p2p/{credentials.peer_id}"], ["node"], time.time(), 900).code()
    line = refused(1, "join", code, "--data", "digits", "--home", tmp_path / "other", "--timeout", 3)
    assert "answer" in line or "reach" in line
    assert list((tmp_path / "other").iterdir()) == []
