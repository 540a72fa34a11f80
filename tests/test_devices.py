"""Devices as their users run them: real processes, real sockets, the command line."""

import re
import signal
import time
from collections.abc import Iterator

import pytest
from devices import Device
from PIL import Image

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def devices(tmp_path) -> Iterator[dict[str, Device]]:
    """Three devices with three or four digits each: kitchen founded the mesh and runs, cellar joined and runs,
    attic has joined."""
    found = {name: Device(tmp_path / name) for name in ("kitchen", "cellar", "attic")}
    kitchen = found["kitchen"]
    kitchen.cli("init", "--data", "digits", "--classes", "0,1,2,3", "--name", "kitchen")
    kitchen.start()
    for name, classes, model in (("cellar", "4,5,6", "mlp"), ("attic", "7,8,9", "cnn-medium")):
        code = kitchen.cli("invite").stdout.strip()
        found[name].cli("join", code, "--data", "digits", "--classes", classes, "--name", name, "--model", model)
        if name == "cellar":
            found[name].start()
            kitchen.wait_until(lambda: kitchen.json("status")["live_peers"] == 1, "sees cellar")
    yield found
    for device in found.values():
        device.kill()


def accuracy(device, *options):
    return device.json("task", "evaluate", "digits:test", *options)["balanced"]


def test_devices_teach_each_other_survive_power_cuts_and_catch_up(devices, tmp_path):
    kitchen, cellar, attic = devices["kitchen"], devices["cellar"], devices["attic"]
    cellar.wait_taught("kitchen")
    kitchen.wait_taught("cellar")
    for device in (kitchen, cellar):
        assert accuracy(device, "--before") < 0.45
        assert accuracy(device) > 0.58, "both know seven of ten digits now"

    # a power cut at the author: what it taught goes on teaching
    kitchen.kill()
    attic.start()
    attic.wait_taught("kitchen", "cellar")
    assert accuracy(attic) > 0.85
    assert {peer["name"]: peer["state"] for peer in attic.json("peers")}["cellar"] == "live"

    # back again: nothing is learned anew, no number is used twice, what was missed is caught up on
    before = cellar.json("status")
    kitchen.start()
    kitchen.wait_taught("cellar", "attic")
    log = kitchen.log.read_text()
    assert len(re.findall(r"action=Train\b", log)) == 1
    assert len(re.findall(r"action=Publish\b", log)) == 1
    assert cellar.json("status")["sequence"] >= before["sequence"]
    assert accuracy(kitchen) > 0.85

    # tasks: done here or there, and elsewhere when who was asked is gone
    seven = tmp_path / "seven.png"
    kitchen.cli("task", "generate", "--label", "7", "-n", "9", "-o", str(seven), "--where", "attic")
    with Image.open(seven) as picture:
        assert picture.width > 100
    said = kitchen.json("task", "classify", str(seven), "--where", "attic")
    assert said["answer"]["hop"] == "peer"
    assert said["answer"]["node"] == "attic"
    attic.signal(signal.SIGSTOP)  # frozen: it accepts, and never answers
    refused = kitchen.cli("task", "classify", str(seven), "--where", "attic", "--timeout", "6", check=False)
    assert refused.returncode == 7
    assert refused.stderr.count("\n") == 1
    assert kitchen.json("task", "classify", str(seven), "--timeout", "20")["answer"]["node"] != "attic"
    attic.signal(signal.SIGCONT)

    # Ctrl-C is quick and clean
    started = time.monotonic()
    assert cellar.stop() == 0
    assert time.monotonic() - started < 5
    assert not (cellar.home / "control.sock").exists()
    assert cellar.cli("status", check=False).returncode == 5


def test_an_invite_works_once_and_only_for_its_mesh(devices, tmp_path):
    kitchen = devices["kitchen"]
    code = kitchen.cli("invite").stdout.strip()
    Device(tmp_path / "one").cli("join", code, "--data", "digits", "--name", "one")
    again = Device(tmp_path / "two").cli("join", code, "--data", "digits", "--name", "two", check=False)
    assert again.returncode == 6
    assert "used before" in again.stderr
    assert not (tmp_path / "two" / "member.cert").exists()
    foreign = devices["cellar"].cli("join", code, "--data", "digits", check=False)
    assert foreign.returncode == 4
    assert "already belongs to a mesh" in foreign.stderr
