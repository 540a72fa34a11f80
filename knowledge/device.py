"""Where learning computes: on a GPU where there is one, else on the CPU.

What goes in and what comes out lies on the CPU, and random numbers are drawn there, so that a seed means the same
everywhere. A GPU rounds sums differently, though, and not always alike.
"""

from __future__ import annotations

from typing import Literal

import torch

from ..errors import ConfigError

CPU = torch.device("cpu")


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to learn on. Raises ConfigError when a GPU is asked for that cannot be used."""
    usable = torch.cuda.is_available()
    if wanted == "cuda" and not usable:
        raise ConfigError(
            'learning.device = "cuda", and torch finds no CUDA device',
            'install a driver and a torch built for it, or set learning.device = "auto"',
        )
    return torch.device("cuda") if usable and wanted != "cpu" else CPU
