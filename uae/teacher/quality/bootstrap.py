"""Means and gains over questions with their intervals, as the report's figures have them."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from uae.measures.statistics import mean_with_interval, paired_gain

Figure = dict[str, Any]  # a part of the report, as JSON has it


class Bootstrap(NamedTuple):
    confidence: float
    resamples: int
    seed: int

    def mean(self, values: pd.Series) -> Figure | None:
        """Of per-question values; undefined ones (NaN) are left out and do not count as questions."""
        known = values.dropna().to_numpy(dtype=np.float64)
        if not len(known):
            return None
        return mean_with_interval(known, *self)._asdict() | {"questions": len(known)}

    def gain(self, base: pd.Series, system: pd.Series) -> Figure | None:
        if len(base) < 2:  # no test of one question
            return None
        gain = paired_gain(base.to_numpy(dtype=np.float64), system.to_numpy(dtype=np.float64), *self)
        relative = gain.relative._asdict() if gain.relative else None
        return {"absolute": gain.absolute._asdict(), "relative": relative, "p_value": gain.p_value, "questions": len(base)}
