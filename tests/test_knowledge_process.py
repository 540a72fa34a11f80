"""Freed memory stays with a process that learns, and goes back afterwards."""

from __future__ import annotations

import subprocess
import sys

import pytest

TENSORS, VALUES = 6, 10_000_000  # more than glibc ever keeps by itself
MEASURED = f"""
import resource, torch
from meshlore.knowledge.process import give_memory_back, prepare_to_learn

def resident_mb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones({VALUES}) for _ in range({TENSORS})]
    del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

prepare_to_learn(1)
first, later, kept = faults(), min(faults() for _ in range(8)), resident_mb()
give_memory_back()
print(first, later, kept - resident_mb())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux is asked")
def test_memory_is_kept_between_steps_and_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, timeout=120, check=True)

    first, later, given_mb = (float(part) for part in done.stdout.split())
    assert later < first / 10, "a later step finds its memory where one before left it"
    assert given_mb > TENSORS * VALUES * 4e-6 / 2
