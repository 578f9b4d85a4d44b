"""Fusion: two systems' rankings of the same passages made one, by their places or by their scores. Pure functions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple

from uae.measures.metrics import retrieval_metrics

Rankings = Mapping[str, tuple[list[str], list[float]]]  # question_id -> (passage_ids best first, scores)

# Of the lexical scores beside cosines. A cosine of a trained encoder spans about one half, a scaled lexical score one.
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)


def reciprocal_rank_fusion(rankings: Sequence[Rankings], k: int = 60) -> dict[str, tuple[list[str], list[float]]]:
    """``score(d) = sum over systems of 1 / (k + place of d)`` (Cormack, Clarke and Buettcher, SIGIR 2009).

    Places are 1, 2, ...; a system that does not rank a passage adds nothing to it. Ties by id. 60 is the paper's ``k``. Two
    kinds of score need no common scale here.

    Raises:
        ValueError: there are no rankings, or they are not of the same questions.
    """
    _require_same_questions(rankings)
    return {question_id: _by_place([ranking[question_id][0] for ranking in rankings], k) for question_id in rankings[0]}


def score_fusion(dense: Rankings, lexical: Rankings, weight: float) -> dict[str, tuple[list[str], list[float]]]:
    """``score(d) = cos(q, d) + weight * s(q, d) / max over d of s(q, d)``, with lexical scores ``s`` of 0 or more. Ties by id.

    The cosines stay as they are. Spreading each question's scores over 0 to 1 first, as the usual convex sum does, gives up how
    sure the encoder is of a question. Where no passage shares a word with the question, the cosines decide alone.

    Args:
        dense: cosine similarities.
        lexical: scores of BM25 or its like, of the same passages.

    Raises:
        ValueError: the rankings are not of the same questions, or not of the same passages.
    """
    _require_same_questions([dense, lexical])
    return {question_id: _by_score(dense[question_id], lexical[question_id], weight) for question_id in dense}


class Weighed(NamedTuple):
    weight: float
    map: float  # of the fused ranking with it
    questions: int


def best_weight(
    dense: Rankings, lexical: Rankings, evidence: Mapping[str, Sequence[str]], weights: Sequence[float] = WEIGHTS
) -> Weighed:
    """The weight of ``score_fusion`` with the highest MAP on these questions; of equals the smallest.

    Choose it on questions that nothing is measured on, and that no encoder in ``dense`` was trained on. A trained encoder looks
    better on its own questions than it is, so its weight would come out too large.

    Raises:
        ValueError: as ``score_fusion``, or there are no questions.
    """
    fused = {weight: score_fusion(dense, lexical, weight) for weight in weights}
    found = [Weighed(weight, _mean_average_precision(ranked, evidence), len(dense)) for weight, ranked in fused.items()]
    return max(found, key=lambda weighed: (weighed.map, -weighed.weight))


def _mean_average_precision(rankings: Rankings, evidence: Mapping[str, Sequence[str]]) -> float:
    table = retrieval_metrics({question: ids for question, (ids, _) in rankings.items()}, evidence, [1])
    return round(float(table["map"].mean()), 9)


def _require_same_questions(rankings: Sequence[Rankings]) -> None:
    if not rankings or not rankings[0]:
        raise ValueError("there are no rankings to fuse")
    if any(set(ranking) != set(rankings[0]) for ranking in rankings):
        raise ValueError("only rankings of the same questions can be fused")


def _by_place(lists: Sequence[Sequence[str]], k: int) -> tuple[list[str], list[float]]:
    parts = defaultdict(list)
    for passage_ids in lists:
        for place, passage_id in enumerate(passage_ids, start=1):
            parts[passage_id].append(1 / (k + place))
    return _ordered({passage_id: fsum(of_systems) for passage_id, of_systems in parts.items()})  # fsum: in any order the same sum


def _by_score(
    dense: tuple[list[str], list[float]], lexical: tuple[list[str], list[float]], weight: float
) -> tuple[list[str], list[float]]:
    words = dict(zip(*lexical, strict=True))
    if set(words) != set(dense[0]):
        raise ValueError("only rankings of the same passages can be fused by their scores")
    highest = max(words.values(), default=0.0)
    share = weight / highest if highest > 0 else 0.0
    # Rounded: equal passages must tie, whatever the order of the sum.
    return _ordered({passage_id: round(score + share * words[passage_id], 9) for passage_id, score in zip(*dense, strict=True)})


def _ordered(scores: Mapping[str, float]) -> tuple[list[str], list[float]]:
    order = sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))
    return order, [scores[passage_id] for passage_id in order]
