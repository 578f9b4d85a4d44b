"""How likely it is that the first passage that was found helps to answer. A pure function of two scores."""

import math
from typing import NamedTuple


class Usefulness(NamedTuple):
    """A logistic function of a passage's scores for a query, fitted to utilities (Platt 1999): ``uae.training.usefulness``."""

    intercept: float
    cosine: float  # by the trained encoder: the weight of it
    bm25: float  # of ``log(1 + bm25)``

    def probability(self, cosine: float, bm25: float) -> float:
        """``1 / (1 + exp(-(intercept + a * cosine + b * log(1 + bm25))))``, of a bm25 of 0 or more.

        Absolute scores count here. What is served is divided by the question's highest bm25, so that a question that shares
        few words with anything looks like any other.
        """
        logit = self.intercept + self.cosine * cosine + self.bm25 * math.log1p(bm25)
        return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
