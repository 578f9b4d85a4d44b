"""The teacher's temperature, calibrated: how far its utilities can be trusted as a distribution."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from uae.io.errors import ArtefactError

_RANGE = (0.01, 20.0)  # nats per token: one-hot and uniform, nearly


def calibrated_temperature(pairs: pd.DataFrame, evidence: Mapping[str, frozenset[str]]) -> float:
    """The temperature under which the teacher's distribution makes the evidence likeliest.

    Minimises the mean of ``-log sum_{d in evidence} softmax(u / tau)_d`` over the questions that have evidence and other
    passages among their candidates. This is temperature scaling (Guo et al., ICML 2017) with one free parameter.

    Args:
        pairs: of the validation split, with question_id, text and utility (nats per token).
        evidence: question_id -> texts of its evidence.

    Returns:
        nats per token.

    Raises:
        ArtefactError: no question can be calibrated on.
    """
    usable = []
    for question_id, rows in pairs.groupby("question_id"):
        hit = rows["text"].isin(evidence.get(str(question_id), frozenset())).to_numpy()
        if hit.any() and not hit.all():
            usable.append((rows["utility"].to_numpy(), hit))
    if not usable:
        raise ArtefactError(
            "train.calibrate_temperature: no validation question has evidence among its candidates; set it to false"
        )

    def loss(log_temperature: float) -> float:
        scaled = [(utility / np.exp(log_temperature), hit) for utility, hit in usable]
        return float(np.mean([logsumexp(values) - logsumexp(values[hit]) for values, hit in scaled]))

    return float(np.exp(minimize_scalar(loss, bounds=tuple(np.log(_RANGE)), method="bounded").x))
