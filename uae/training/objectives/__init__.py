"""What a student can be trained by. A new objective is one new file here, and one line in the table below.

Its file holds a subclass of ``uae.training.objectives.contract.Objective``, whose fields are the objective's own parameters.
They get their values in params.yaml, under ``train.objectives``.
"""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType

from uae.training.objectives.contract import Objective

_FILES = {
    "utility_infonce": "UtilityInfoNCE",
    "infonce": "InfoNCE",
    "kl": "KL",
    "margin_mse": "MarginMSE",
    "m3_kd": "M3KD",
    "wasserstein": "Wasserstein",
    "disj_infonce": "DisjInfoNCE",
    "mann_whitney": "MannWhitney",
    "plackett_luce": "PlackettLuce",
}

OBJECTIVES: Mapping[str, type[Objective]] = MappingProxyType(
    {file: getattr(import_module(f"{__name__}.{file}"), name) for file, name in _FILES.items()}
)
