"""How much the first stage's scores count beside the second stage's, chosen by MAP."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from uae.measures.fusion import Rankings
from uae.measures.metrics import retrieval_metrics
from uae.measures.reranking import PairScores, second_stage_ranking

# Of the first stage's scores beside those of a second stage, which are log-probabilities: cosines of a trained encoder become
# such by a factor of about 20 (``train.student_temperature``).
FIRST_WEIGHTS = (0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 100.0)


class FirstWeight(NamedTuple):
    weight: float
    map: float  # of the ranking with it
    first_map: float  # of the first stage's ranking, as it came
    questions: int


def best_first_weight(
    rankings: Rankings,
    scores: PairScores,
    depth: int,
    evidence: Mapping[str, Sequence[str]],
    weights: Sequence[float] = FIRST_WEIGHTS,
) -> FirstWeight:
    """The weight of ``second_stage_ranking`` with the highest MAP on these questions; of equals the smallest.

    Choose it on questions that neither stage was trained on, and that nothing is measured on.

    Raises:
        ArtefactError: as ``second_stage_ranking``.
        ValueError: there are no questions.
    """
    if not rankings:
        raise ValueError("there are no rankings to choose a weight on")
    def quality(ranked: Rankings) -> float:
        ids = {question_id: found for question_id, (found, _) in ranked.items()}
        table = retrieval_metrics(ids, {question_id: evidence[question_id] for question_id in ids}, [1])
        return round(float(table["map"].mean()), 9)

    tried = {weight: quality(second_stage_ranking(rankings, scores, depth, weight)) for weight in weights}
    best = max(tried, key=lambda weight: (tried[weight], -weight))
    return FirstWeight(best, tried[best], quality(rankings), len(rankings))
