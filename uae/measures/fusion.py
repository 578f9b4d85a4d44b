"""Fusion: two systems' rankings of the same passages made one, by their places or by their scores. Pure functions."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from uae.measures.ranking import best_first

Rankings = Mapping[str, tuple[list[str], list[float]]]  # question_id -> (passage_ids best first, scores)

SCORES, RANKS = "scores", "ranks"
RRF_K = 60  # of the paper
_DECIMALS = 9  # equal passages must tie, whatever the order of a sum


class Fusion(NamedTuple):
    """How a lexical system joins a dense one."""

    form: str  # SCORES: ``combined``; RANKS: ``reciprocal_rank_fusion``
    weight: float  # of the lexical system, beside 1 of the dense one; 0: it does not join


ALONE = Fusion(SCORES, 0.0)

_Number = TypeVar("_Number", float, npt.NDArray[np.float64])


def combined(cosine: _Number, lexical: _Number, highest: float, weight: float) -> _Number:
    """``cos(q, d) + weight * s(q, d) / max over d of s(q, d)``, with lexical scores ``s`` of 0 or more.

    The cosines stay as they are. Spreading each question's scores over 0 to 1 first, as the usual convex sum does, gives up how
    sure the encoder is of a question. Where no passage shares a word with the question, the cosines decide alone.

    Args:
        highest: of the lexical scores of all passages that may be found.
    """
    return cosine + (weight / highest if highest > 0 else 0.0) * lexical


def fuse(dense: Rankings, lexical: Rankings, fusion: Fusion) -> dict[str, tuple[list[str], list[float]]]:
    """A dense and a lexical system as one. Ties by id.

    By places, a passage that shares no word with the question has no place in the lexical ranking.

    Args:
        dense: cosine similarities.
        lexical: scores of BM25 or its like, of the same passages.

    Raises:
        ValueError: the rankings are not of the same questions, or not of the same passages.
    """
    return {question_id: _listed(of_one.fused(fusion)) for question_id, of_one in aligned(dense, lexical).items()}


class Aligned(NamedTuple):
    """One question's scores by both systems, passages in the order of their ids."""

    ids: npt.NDArray[np.object_]
    cosines: npt.NDArray[np.float64]
    lexical: npt.NDArray[np.float64]

    def fused(self, fusion: Fusion, depth: int | None = None) -> tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]:
        """The best ``depth`` ids (None: all) and their fused scores, best first."""
        by_id = np.arange(len(self.ids))
        if fusion.form == RANKS:
            values = np.zeros(len(self.ids))
            near = best_first(self.cosines, by_id, None)
            words = best_first(self.lexical, by_id, None)
            for order, weight in ((near, 1.0), (words[self.lexical[words] > 0], fusion.weight)):
                values[order] += weight / (RRF_K + 1 + np.arange(len(order)))
        else:
            values = combined(self.cosines, self.lexical, float(self.lexical.max(initial=0.0)), fusion.weight)
        values = np.round(values, _DECIMALS)
        best = best_first(values, by_id, depth)
        return self.ids[best], values[best]


def aligned(dense: Rankings, lexical: Rankings) -> dict[str, Aligned]:
    """The scores of both systems side by side, by question. Arguments and errors as ``fuse``."""
    _require_same_questions([dense, lexical])
    found = {}
    for question_id, (ids, scores) in dense.items():
        other_ids, other = lexical[question_id]
        own, others = np.asarray(ids, dtype=object), np.asarray(other_ids, dtype=object)
        order, other_order = np.argsort(own, kind="stable"), np.argsort(others, kind="stable")
        if len(own) != len(others) or (own[order] != others[other_order]).any():
            raise ValueError("only rankings of the same passages can be fused")
        found[question_id] = Aligned(
            own[order], np.asarray(scores, np.float64)[order], np.asarray(other, np.float64)[other_order]
        )
    return found


def reciprocal_rank_fusion(rankings: Sequence[Rankings], k: int = RRF_K) -> dict[str, tuple[list[str], list[float]]]:
    """``score(d) = sum over systems of 1 / (k + place of d)`` (Cormack, Clarke and Buettcher, SIGIR 2009).

    Places are 1, 2, ...; a system that does not rank a passage adds nothing to it. Ties by id. Two kinds of score need no common
    scale here.

    Raises:
        ValueError: there are no rankings, or they are not of the same questions.
    """
    _require_same_questions(rankings)
    return {question_id: _by_place([ranking[question_id][0] for ranking in rankings], k) for question_id in rankings[0]}


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
    scores = {passage_id: fsum(of_systems) for passage_id, of_systems in parts.items()}  # fsum: in any order the same sum
    order = sorted(scores, key=lambda passage_id: (-scores[passage_id], passage_id))
    return order, [scores[passage_id] for passage_id in order]


def _listed(ranked: tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]) -> tuple[list[str], list[float]]:
    return ranked[0].tolist(), ranked[1].tolist()
