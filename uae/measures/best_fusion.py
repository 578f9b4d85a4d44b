"""Which fusion of two systems is best on some questions. Pure functions."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from uae.measures.fusion import RANKS, SCORES, Aligned, Fusion
from uae.measures.metrics import retrieval_metrics

Quality = Callable[[Mapping[str, Sequence[str]]], "pd.Series[float]"]  # question_id -> ids, best first; to one number a question

_DEPTH = 100  # of a ranking whose quality is looked at
# Of the lexical scores beside cosines. A cosine of a trained encoder spans about one half, a scaled lexical score one.
_WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
FUSIONS = (*(Fusion(SCORES, weight) for weight in _WEIGHTS), *(Fusion(RANKS, weight) for weight in (0.3, 0.5, 1.0, 2.0, 3.0)))


class Chosen(NamedTuple):
    fusion: Fusion
    quality: float  # the mean over the questions
    questions: int
    tried: list[tuple[Fusion, float]]  # each with its quality


def best_fusion(
    questions: Mapping[str, Aligned],
    quality: Quality,
    fusions: Sequence[Fusion] = FUSIONS,
    judged: Mapping[str, Collection[Any]] | None = None,
) -> Chosen:
    """The fusion whose rankings are best; of equals the first.

    Choose it on questions that nothing is measured on, with scores of an encoder that was not trained on them. A trained encoder
    looks better on its own questions than it is, and BM25's weight would come out too small.

    Args:
        quality: such as ``average_precision``.
        judged: question_id -> the ids that its quality is told of. All are fused first, as in serving. None: the first of all.

    Raises:
        ValueError: there are no questions.
    """
    if not questions:
        raise ValueError("there are no rankings to fuse")
    ranked: list[dict[str, list[Any]]] = [{} for _ in fusions]
    for question_id, of_one in questions.items():  # once: they may be made when they are asked for
        for of_all, fusion in zip(ranked, fusions, strict=True):
            if judged is None:
                ids = of_one.fused(fusion, _DEPTH)[0]
            else:
                everything = of_one.fused(fusion)[0]
                ids = everything[np.isin(everything, list(judged[question_id]))]
            of_all[question_id] = ids.tolist()
    tried = [(fusion, round(float(quality(of_all).mean()), 9)) for fusion, of_all in zip(fusions, ranked, strict=True)]
    best, value = max(tried, key=lambda one: one[1])
    return Chosen(best, value, len(questions), tried)


def average_precision(evidence: Mapping[str, Sequence[str]]) -> Quality:
    """The average precision of each question's ranking, against its evidence."""

    def of(rankings: Mapping[str, Sequence[str]]) -> "pd.Series[float]":
        return retrieval_metrics(rankings, {question_id: evidence[question_id] for question_id in rankings}, [1])["map"]

    return of
