"""Re-ranking: a ranking's first passages put into another order. What stands below keeps its place. Pure functions."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from uae.io.errors import ArtefactError

if TYPE_CHECKING:
    from uae.measures.fusion import Rankings

PairScores = Mapping[tuple[str, str], float]  # (question_id, passage_id) -> score

DECIMALS = 5  # a sum of numbers of single precision: equal passages must tie


def reorder(rankings: "Rankings", values: Mapping[tuple[str, str], float], top: int) -> dict[str, tuple[list[str], list[float]]]:
    """Order each question's first ``top`` passages by value, highest first, ties by id; the rest keep their order.

    The score of a passage is its value. Below the top, scores go on from the lowest value by the differences of the old ones, so
    that they never rise.

    Args:
        values: (question_id, passage_id) -> value, of every passage in the top.

    Raises:
        ArtefactError: a passage has no value.
    """
    require_scores(rankings, values, top)
    return {question_id: _reordered(question_id, *ranking, values, top) for question_id, ranking in rankings.items()}


def second_stage_ranking(
    rankings: "Rankings", scores: PairScores, depth: int, weight: float
) -> dict[str, tuple[list[str], list[float]]]:
    """Each question's first ``depth`` passages by ``s(q, d) + weight * f(q, d)``: the second stage's score and the first's.

    With a weight of 0 the second stage decides alone. Order and scores below the first ``depth`` as in ``reorder``.

    Args:
        rankings: the first stage's, with its scores.
        scores: the second stage's, of every passage in the first ``depth``.

    Raises:
        ArtefactError: a passage has no score.
    """
    require_scores(rankings, scores, depth)
    values = _sums(rankings, scores, depth, weight)
    return {question_id: _reordered(question_id, *ranking, values, depth) for question_id, ranking in rankings.items()}


def require_scores(rankings: "Rankings", scores: PairScores, depth: int) -> None:
    """
    Raises:
        ArtefactError: one of the first ``depth`` passages has no score.
    """
    for question_id, (ids, _) in rankings.items():
        if missing := [passage_id for passage_id in ids[:depth] if (question_id, passage_id) not in scores]:
            raise ArtefactError(
                f"question {question_id}: {len(missing)} of the passages to re-rank have no value, first {missing[0]}: ask about "
                "the rankings' own passages"
            )


def _sums(rankings: "Rankings", scores: PairScores, depth: int, weight: float) -> dict[tuple[str, str], float]:
    return {
        (question_id, passage_id): round(scores[question_id, passage_id] + weight * first, DECIMALS)
        for question_id, (ids, values) in rankings.items()
        for passage_id, first in zip(ids[:depth], values[:depth], strict=True)
    }


def _reordered(
    question_id: str, ids: list[str], scores: list[float], values: Mapping[tuple[str, str], float], top: int
) -> tuple[list[str], list[float]]:
    best = sorted((-values[question_id, passage_id], passage_id) for passage_id in ids[:top])
    order = [passage_id for _, passage_id in best] + ids[top:]
    rest = [-best[-1][0] - (scores[top - 1] - score) for score in scores[top:]] if best else []
    return order, [float(-negative) for negative, _ in best] + rest
