"""What a process of ours writes into its log."""

import subprocess
import sys

FAILS = """
import structlog
from meshlore.node.logs import configure_logging

configure_logging("info")

def learn(private):
    raise ValueError("cannot be learned")

try:
    learn(bytes([115, 101, 99, 114, 101, 116]))
except ValueError:
    structlog.get_logger("meshlore.node").exception("it failed", action="Distil")
"""


def test_a_failure_is_logged_with_its_traceback_and_without_the_values_of_variables():
    log = subprocess.run([sys.executable, "-c", FAILS], capture_output=True, text=True, check=True).stderr
    assert "it failed" in log
    assert "in learn" in log
    assert "ValueError: cannot be learned" in log
    assert "secret" not in log
