"""The cluster command: many real nodes on this machine, watched, interrupted, and shot at."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from devices import QUICK

pytestmark = pytest.mark.timeout(240)


def cluster(tmp_path, *options):
    command = [sys.executable, "-m", "meshlore", "cluster", "--samples", "300", "-o", str(tmp_path / "out"), *options]
    environment = os.environ | QUICK
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def nodes_of(process, count):
    """The node processes of a running cluster, once there are ``count``."""
    parent, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while len(parent.children()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return parent.children()


def test_nodes_without_an_anchor_get_better_and_the_report_is_one_json_document(tmp_path):
    process = cluster(tmp_path, "--nodes", "3", "--no-anchor", "--alpha", "0.5", "--seed", "3", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["anchor"] is None
    assert report["seed"] == 3
    assert len(report["nodes"]) == 3
    assert len({node["model"] for node in report["nodes"]}) == 3
    assert sum(node["samples"] for node in report["nodes"]) == 300
    for node in report["nodes"]:
        assert node["global_after"] > node["global_before"]
        assert 0 < node["knowledge_bytes_sent"] < node["bytes_sent"]
    assert report["pooled"]["global"] > 0.8
    assert all(os.path.getsize(path) > 10_000 for path in report["pictures"])


def test_a_killed_node_does_not_stop_the_rest(tmp_path):
    process = cluster(tmp_path, "--nodes", "3", "--json")
    children = nodes_of(process, 4)
    time.sleep(3)
    children[1].kill()
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert [node["state"] for node in report["nodes"]] == ["live", "lost", "live"]
    assert "node-2 ended during the run" in " ".join(report["remarks"])
    assert all(node["global_after"] is not None for node in report["nodes"] if node["state"] == "live")


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_nothing_is_left_behind(tmp_path, how):
    process = cluster(tmp_path, "--nodes", "3")
    children = nodes_of(process, 4)
    time.sleep(4)
    if how == "Ctrl-C":
        process.send_signal(signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=10)
        assert time.monotonic() - started < 5
        assert process.returncode == 130
        assert "Traceback" not in out + err
    else:
        process.kill()
        process.communicate(timeout=10)
    gone, alive = psutil.wait_procs(children, timeout=8)
    assert not alive
    assert len(gone) == 4


def test_a_wrong_data_source_is_refused_in_one_line_before_anything_starts(tmp_path):
    process = cluster(tmp_path, "--data", str(tmp_path / "nowhere"))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.count("\n") == 1
    assert "nowhere" in err
    assert out == ""
