"""Does the served second stage do what was trained? Both score the same pairs of real questions and passages."""

from collections.abc import Mapping, Sequence

import numpy as np

from uae.measures.reranking import PairScores
from uae.release.second_stage import PairParity

_ALIKE = 1e-4  # scores that differ by less are equal: sums of single precision in another order


def measure_pairs(trained: PairScores, served: PairScores, evidence: Mapping[str, Sequence[str]]) -> PairParity:
    """
    Args:
        trained, served: of the same pairs.
        evidence: question_id -> relevant passage_ids; a question without any counts for the scores alone.
    """
    lists: dict[str, list[str]] = {}
    for question_id, passage_id in trained:
        lists.setdefault(question_id, []).append(passage_id)
    ours, theirs = (
        {question_id: np.array([scores[question_id, passage_id] for passage_id in ids]) for question_id, ids in lists.items()}
        for scores in (trained, served)
    )
    first = [{q: ids[int(of[q].argmax())] for q, ids in lists.items()} for of in (ours, theirs)]
    known = [question_id for question_id in lists if len(evidence.get(question_id, ()))]
    recalls = [_recall(found, known, evidence) for found in first]
    return PairParity(
        correlation=round(_correlation(ours, theirs), 4),
        same_first=round(float(np.mean([first[0][q] == first[1][q] for q in lists])), 4),
        trained_recall=recalls[0],
        served_recall=recalls[1],
        questions=len(lists),
        pairs=len(trained),
    )


def spread(scores: PairScores) -> float:
    """The standard deviation of scores less their question's mean."""
    lists: dict[str, list[float]] = {}
    for (question_id, _), score in scores.items():
        lists.setdefault(question_id, []).append(score)
    return float(np.concatenate([np.array(of_one) - np.mean(of_one) for of_one in lists.values()]).std())


def _recall(first: Mapping[str, str], known: Sequence[str], evidence: Mapping[str, Sequence[str]]) -> float | None:
    if not known:
        return None
    return round(float(np.mean([(first[q] in set(evidence[q])) / len(evidence[q]) for q in known])), 4)


def _correlation(trained: Mapping[str, np.ndarray], served: Mapping[str, np.ndarray]) -> float:
    """1 where all passages of a question are alike to both."""
    left, right = (np.concatenate([scores - scores.mean() for scores in of.values()]) for of in (trained, served))
    if max(np.abs(left).max(), np.abs(right).max()) < _ALIKE:
        return 1.0
    scale = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / scale if scale > 0 else 0.0
