"""What a process that learns asks of torch and of the C library.

glibc may hand a large tensor back to the kernel when it is freed, and its pages are found and cleared again for the
next one (`python -m benchmarks.speed` has what that costs). So memory stays while something is learned, and goes back
afterwards.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import torch

# of mallopt(3): its number, and how many mappings, bytes or arenas are asked for
KEPT_MEMORY = {"M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, 256 << 20), "M_ARENA_MAX": (-8, 1)}


def prepare_to_learn(threads: int) -> None:
    """Torch gets so many threads, and freed memory is kept; of most use before the process has threads of its own."""
    torch.set_num_threads(threads)
    if mallopt := _of_glibc("mallopt"):
        for number, value in KEPT_MEMORY.values():
            mallopt(number, value)


def give_memory_back() -> None:
    """What a finished work has freed goes back to the system."""
    if malloc_trim := _of_glibc("malloc_trim"):
        malloc_trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
