"""The settings of each baseline on each data set: what was searched, and how far, is in docs/benchmarks.md.

Found on the validation part of the training set, with seeds that the matrix does not use:
`python -m benchmarks.tune --dataset digits`. Full Fashion-MNIST has those of the 5,000 samples, one epoch a round;
tables have those of digits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..knowledge_cells import DATASETS
from . import datafree
from .averaging import AveragingSettings
from .datafree import DataFreeSettings
from .feddf import FedDFSettings

_DIGITS = AveragingSettings(rounds=80, local_epochs=5, learning_rate=0.1)
FEDAVG: Mapping[str, AveragingSettings] = {
    "digits": _DIGITS,
    "colour-digits": _DIGITS,
    "breast-cancer": _DIGITS,
    "wine": _DIGITS,
    "fashion-mnist-5000": AveragingSettings(rounds=60, local_epochs=5, learning_rate=0.1),
    "fashion-mnist": AveragingSettings(rounds=40, local_epochs=1, learning_rate=0.1),
}
FEDPROX: Mapping[str, AveragingSettings] = {name: replace(settings, proximal=0.01) for name, settings in FEDAVG.items()}
FEDDF: Mapping[str, FedDFSettings] = {
    name: FedDFSettings(replace(settings, rounds=20)) for name, settings in FEDAVG.items()
}
DENSE: Mapping[str, DataFreeSettings] = dict.fromkeys((*DATASETS, "colour-digits"), datafree.DENSE)
CO_BOOSTING: Mapping[str, DataFreeSettings] = dict.fromkeys((*DATASETS, "colour-digits"), datafree.CO_BOOSTING)
POOLED_STEPS: Mapping[str, int] = {
    "digits": 600,
    "colour-digits": 600,
    "breast-cancer": 600,
    "wine": 600,
    "fashion-mnist-5000": 1500,
    "fashion-mnist": 6000,
}
