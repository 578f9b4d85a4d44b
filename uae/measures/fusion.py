"""The hybrid: several systems' rankings fused by their places alone, so that no two kinds of score need a common scale."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum

Rankings = Mapping[str, tuple[list[str], list[float]]]  # question_id -> (passage_ids best first, scores)


def reciprocal_rank_fusion(rankings: Sequence[Rankings], k: int = 60) -> dict[str, tuple[list[str], list[float]]]:
    """``score(d) = sum over systems of 1 / (k + place of d)`` (Cormack, Clarke and Buettcher, SIGIR 2009).

    Places are 1, 2, ...; a system that does not rank a passage adds nothing to it. Ties by id. 60 is the paper's ``k``.

    Raises:
        ValueError: there are no rankings, or they are not of the same questions.
    """
    if not rankings:
        raise ValueError("there are no rankings to fuse")
    if any(set(ranking) != set(rankings[0]) for ranking in rankings):
        raise ValueError("only rankings of the same questions can be fused")
    return {question_id: _fused([ranking[question_id][0] for ranking in rankings], k) for question_id in rankings[0]}


def _fused(lists: Sequence[Sequence[str]], k: int) -> tuple[list[str], list[float]]:
    parts = defaultdict(list)
    for passage_ids in lists:
        for place, passage_id in enumerate(passage_ids, start=1):
            parts[passage_id].append(1 / (k + place))
    scores = {passage_id: fsum(of_systems) for passage_id, of_systems in parts.items()}  # fsum: in any order the same sum
    order = sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))
    return order, [scores[passage_id] for passage_id in order]
