"""Knowing when nothing helps: whether the first passage of a question lowers the perplexity of its answer, by its scores.

What is learnt from: questions asked where they belong, whose first passages the teacher judged, and the same questions asked of
documents where they do not belong. The teacher is not asked about the latter: their passages count as useless. How far that is
true, ``benchmarks/useful.py`` asks it.

Nearly every passage lowers the perplexity a little, by its style alone: of the bundled corpus' passages drawn by chance, four in
five do. So useful is what helps more than such passages do.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from uae.io.files import sha256_bytes
from uae.measures.fusion import Aligned, Fusion
from uae.measures.usefulness import Usefulness

log = logging.getLogger(__name__)

_CHANCE = 0.9
_LEAST = 10  # first passages of each kind, useful and not: of fewer nothing is learnt


class UsefulTerms(NamedTuple):
    """Section ``useful`` of params.yaml."""

    least_utility: float | None  # nats per token: more than this is useful. None: as ``beyond_chance`` says
    least_probability: float  # from which a release calls its first passage useful


def beyond_chance(pairs: pd.DataFrame, candidates: pd.DataFrame) -> float | None:
    """What nine in ten passages drawn by chance (``candidates.random``) stay below, in nats per token. None: too few were drawn.

    Args:
        pairs: columns question_id, passage_id and utility.
        candidates: columns question_id, passage_id and source.
    """
    drawn = candidates.loc[candidates["source"] == "random", ["question_id", "passage_id"]].merge(pairs)
    if len(drawn) < _LEAST:
        log.warning(
            "%d judged passages were drawn by chance: too few to tell what is useful, so the release does not say it. Draw some "
            "(candidates.random), or give useful.least_utility a number", len(drawn),
        )  # fmt: skip
        return None
    return round(max(float(drawn["utility"].quantile(_CHANCE)), 0.0), 4)


class First(NamedTuple):
    """The first passage of a question."""

    cosine: float
    bm25: float
    utility: float | None  # nats per token; None: nobody judged it


def calibrate(
    own: Sequence[First], foreign: Sequence[First], least_utility: float, least_probability: float
) -> dict[str, Any] | None:
    """What a release needs to tell useful first passages, and what it was fitted to. None: too few are of one kind.

    Both parts count alike, whatever their numbers: as if every second question had its answer here. What nobody judged counts as
    useless among ``foreign``, and does not count among ``own``.

    Returns:
        The fields of ``Usefulness``, ``least_probability``, and ``chosen``: ``{"least_utility", "questions", "useful",
        "foreign", "auroc"}``. The last is of the very passages that were fitted to.
    """
    judged = [first for first in own if first.utility is not None]
    rows = [*judged, *foreign]
    useful = np.array([first.utility is not None and first.utility > least_utility for first in rows], dtype=bool)
    if min(useful.sum(), (~useful).sum()) < _LEAST:
        log.warning(
            "%d of %d first passages are useful: too few of one kind to learn from, so the release does not say whether "
            "anything helps. See useful.least_utility in params.yaml", useful.sum(), len(rows),
        )  # fmt: skip
        return None
    weights = [1 / len(judged)] * len(judged) + [1 / max(len(foreign), 1)] * len(foreign)
    features = np.array([[first.cosine, np.log1p(first.bm25)] for first in rows])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features, useful, logisticregression__sample_weight=np.array(weights) * len(rows) / sum(weights))
    scaler, fitted = model[0], model[1]
    slopes = fitted.coef_[0] / scaler.scale_
    intercept = float(fitted.intercept_[0] - (slopes * scaler.mean_).sum())
    found = Usefulness(intercept, float(slopes[0]), float(slopes[1]))
    scores = [found.probability(first.cosine, first.bm25) for first in rows]
    return found._asdict() | {
        "least_probability": least_probability,
        "chosen": {
            "least_utility": least_utility,
            "questions": len(judged),
            "useful": int(useful.sum()),
            "foreign": len(foreign),
            "auroc": round(float(roc_auc_score(useful, scores)), 4),
        },
    }


def first_passage(ranked: Aligned, fusion: Fusion, utilities: Mapping[Any, float], judged_only: bool) -> First | None:
    """The first of a question's passages under a fusion.

    Args:
        utilities: what ``ranked`` knows a passage by -> nats per token, of those that were judged for this question.
        judged_only: the first of those; None where there is none.
    """
    for passage_id in ranked.fused(fusion)[0]:
        if passage_id in utilities or not judged_only:
            place = int(np.flatnonzero(ranked.ids == passage_id)[0])
            return First(float(ranked.cosines[place]), float(ranked.lexical[place]), utilities.get(passage_id))
    return None


def foreign_documents(questions: pd.DataFrame, passages: pd.DataFrame) -> "pd.Series[str]":
    """For each question a document that it was not asked about, by chance, always the same; none where there is but one.

    Args:
        questions: columns question_id and doc_id.

    Returns:
        doc_id, indexed as ``questions``; questions without a foreign document are left out.
    """
    documents = sorted(passages["doc_id"].unique())
    chosen = {}
    for index, question_id, own in zip(questions.index, questions["question_id"], questions["doc_id"], strict=True):
        others = [doc_id for doc_id in documents if doc_id != own]
        if others:
            chosen[index] = others[int(sha256_bytes(question_id)[:12], 16) % len(others)]
    return pd.Series(chosen, dtype=object)


def without(ranked: Aligned, rows: npt.NDArray[Any]) -> Aligned:
    """A question's passages less the given ones. Rows stand for ids (``fusion.aligned_rows``)."""
    kept = ~np.isin(ranked.ids, rows)
    return Aligned(ranked.ids[kept], ranked.cosines[kept], ranked.lexical[kept])
