"""The settings of each baseline on each data set: what was searched, and how far, is in docs/benchmarks.md.

Found on the validation part of the training set, with seeds that the matrix does not use:
`python -m benchmarks.tune --dataset digits`. Full Fashion-MNIST has those of the 5,000 samples, one epoch a round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from . import datafree
from .averaging import AveragingSettings
from .datafree import DataFreeSettings
from .feddf import FedDFSettings

FEDAVG: Mapping[str, AveragingSettings] = {
    "digits": AveragingSettings(rounds=80, local_epochs=5, learning_rate=0.1),
    "fashion-mnist-5000": AveragingSettings(rounds=60, local_epochs=5, learning_rate=0.1),
    "fashion-mnist": AveragingSettings(rounds=40, local_epochs=1, learning_rate=0.1),
}
FEDPROX: Mapping[str, AveragingSettings] = {name: replace(settings, proximal=0.01) for name, settings in FEDAVG.items()}
FEDDF: Mapping[str, FedDFSettings] = {
    "digits": FedDFSettings(replace(FEDAVG["digits"], rounds=20)),
    "fashion-mnist-5000": FedDFSettings(replace(FEDAVG["fashion-mnist-5000"], rounds=20)),
    "fashion-mnist": FedDFSettings(replace(FEDAVG["fashion-mnist"], rounds=20)),
}
DENSE: Mapping[str, DataFreeSettings] = {
    "digits": datafree.DENSE,
    "fashion-mnist-5000": datafree.DENSE,
    "fashion-mnist": datafree.DENSE,
}
CO_BOOSTING: Mapping[str, DataFreeSettings] = {
    "digits": datafree.CO_BOOSTING,
    "fashion-mnist-5000": datafree.CO_BOOSTING,
    "fashion-mnist": datafree.CO_BOOSTING,
}
POOLED_STEPS: Mapping[str, int] = {"digits": 600, "fashion-mnist-5000": 1500, "fashion-mnist": 6000}
