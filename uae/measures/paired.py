"""A mean difference with its standard error over documents, and one-sided bounds by Student's t at any level.

A gate that looks every week needs levels such as 0.00001. A bootstrap of 9,999 resamples does not reach them, and one over few
documents is too narrow. The error is the cluster-robust one of a mean over questions. There is one degree of freedom less than
there are documents (Cameron & Miller 2015, A Practitioner's Guide to Cluster-Robust Inference, section VI).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from uae.measures.statistics import Floats, sums_by_group

POWER = 0.8  # with which ``detectable`` would be found
_ALIKE = 1e-9  # an error so much smaller than what it is the error of is one of rounding


class Difference(NamedTuple):
    """A mean over questions of candidate less reference."""

    mean: float
    error: float  # standard error of the mean; infinite where there is only one unit
    units: int  # independent ones: documents, or questions where they stand for themselves

    def lower(self, confidence: float) -> float:
        """The truth is above it in this share of repetitions: minus infinity where nothing can be said."""
        return self.mean - self._reach(1 - confidence)

    def p_value(self, least: float = 0.0) -> float:
        """One-sided, of a truth of at most ``least``.

        Where all units changed alike, Student's t knows no spread and would call two units proof. There it is the sign test's:
        so many units that go up by chance all do so in one of ``2**units`` cases.
        """
        if self.units < 2:
            return 1.0
        excess = self.mean - least
        if self.error <= _ALIKE * abs(excess):
            return 0.5**self.units if excess > 0 else 1.0
        return float(student.sf(excess / self.error, self.units - 1)) if self.error else 1.0

    def detectable(self, level: float) -> float:
        """The smallest true difference that a one-sided test at ``level`` finds in 80 % of repetitions; infinite for one unit."""
        return self._reach(level) + self._reach(1 - POWER)

    def _reach(self, tail: float) -> float:
        if self.units < 2:
            return math.inf
        return float(student.isf(tail, self.units - 1)) * self.error


def paired_difference(candidate: Floats, reference: Floats, units: Sequence[str]) -> Difference:
    """
    Args:
        candidate, reference: a value a question, shape (n,), n > 0.
        units: of each question: its document, or itself.
    """
    groups = np.asarray(units)
    changes = candidate - reference
    mean = float(changes.mean())
    residues = sums_by_group(changes - mean, groups)
    number = len(residues)
    if number < 2:
        return Difference(mean, math.inf, number)
    # The mean is a ratio of sums: its variance by the residues' sums (Taylor), with the correction for few groups.
    variance = number / (number - 1) * float((residues**2).sum()) / len(changes) ** 2
    return Difference(mean, math.sqrt(variance), number)
