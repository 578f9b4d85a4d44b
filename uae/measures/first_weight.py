"""How much the first stage's scores count beside the second stage's, chosen on questions with evidence."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.measures.reranking import PairScores, require_scores, second_stage_ranking

_START = (np.log(0.5), np.log(20.0))  # cosines of a trained encoder become log-probabilities by a factor of about 20
# By what either stage's scores are multiplied. Reciprocal ranks differ by thousandths, so theirs may be large.
_SCALES = ((np.log(0.01), np.log(100.0)), (np.log(0.01), np.log(1e5)))
_AT = np.log(2.0)  # nearer to a bound than by this factor, the search may have stopped short of it


class FirstWeight(NamedTuple):
    weight: float
    map: float  # of the ranking with it
    first_map: float  # of the first stage's ranking, as it came
    questions: int  # that it was chosen on
    at_bound: bool  # of the search, where the first stage decides alone: the second stage has found no say


def best_first_weight(
    rankings: Rankings, scores: PairScores, depth: int, evidence: Mapping[str, Sequence[str]]
) -> FirstWeight | None:
    """The weight ``w = b / a`` of ``second_stage_ranking`` under which the evidence is likeliest.

    ``p(d | q) = softmax(a s + b f)`` over the question's first ``depth`` passages, with the second stage's score ``s`` and the
    first's ``f``. ``a`` and ``b`` minimise the mean of ``- log sum_{d in evidence} p(d | q)``. Of few questions the likelihood
    says more than MAP does, which jumps where two passages change places.

    Choose it on questions that neither stage was trained on, and that nothing is measured on.

    Returns:
        None where no question has evidence and other passages among its first ``depth``.

    Raises:
        ArtefactError: a passage has no score.
    """
    require_scores(rankings, scores, depth)
    usable = {question_id: ranking for question_id, ranking in rankings.items() if len(evidence.get(question_id, ()))}
    lists = [found for key, ranking in usable.items() if (found := _list(key, ranking, scores, depth, evidence[key]))]
    if not lists:
        return None

    def loss(logs: npt.NDArray[np.float64]) -> float:
        logits = [(np.exp(logs) @ both, hit) for both, hit in lists]
        return float(np.mean([logsumexp(values) - logsumexp(values[hit]) for values, hit in logits]))

    second, first = minimize(loss, _START, method="L-BFGS-B", bounds=_SCALES).x
    weight = round(float(np.exp(first - second)), 3)

    def quality(ranked: Rankings) -> float:
        ids = {question_id: found for question_id, (found, _) in ranked.items()}
        table = retrieval_metrics(ids, {question_id: evidence[question_id] for question_id in ids}, [1])
        return round(float(table["map"].mean()), 9)

    both = second_stage_ranking(usable, scores, depth, weight)
    at_bound = bool(second < _SCALES[0][0] + _AT or first > _SCALES[1][1] - _AT)
    return FirstWeight(weight, quality(both), quality(usable), len(lists), at_bound)


def _list(
    question_id: str, ranking: tuple[list[str], list[float]], scores: PairScores, depth: int, evidence: Sequence[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]] | None:
    """A question's list, if it can say anything."""
    ids = ranking[0][:depth]
    hit = np.isin(ids, list(evidence))
    if not hit.any() or hit.all():
        return None
    return np.array([[scores[question_id, passage_id] for passage_id in ids], ranking[1][:depth]], np.float64), hit
