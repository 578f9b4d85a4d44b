"""Fusion: two systems' rankings of the same passages made one, by their places or by their scores. Pure functions."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from math import fsum
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from uae.measures.ranking import best_first
from uae.measures.row_rankings import Asked, Of, RowRankings, held

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
_Passage = TypeVar("_Passage", str, int)


def combined(cosine: _Number, lexical: _Number, highest: float, weight: float) -> _Number:
    """``cos(q, d) + weight * s(q, d) / max over d of s(q, d)``, with lexical scores ``s`` of 0 or more.

    The cosines stay as they are. Spreading each question's scores over 0 to 1 first, as the usual convex sum does, gives up how
    sure the encoder is of a question. Where no passage shares a word with the question, the cosines decide alone.

    Args:
        highest: of the lexical scores of all passages that may be found.
    """
    return cosine + (weight / highest if highest > 0 else 0.0) * lexical


def fuse(dense: Rankings, lexical: Rankings, fusion: Fusion) -> Rankings:
    """A dense and a lexical system as one. Ties by id.

    By places, a passage that shares no word with the question has no place in the lexical ranking.

    Args:
        dense: cosine similarities.
        lexical: scores of BM25 or its like, of the same passages. If both are rows of one table, so is what comes of them.

    Raises:
        ValueError: the rankings are not of the same questions, or not of the same passages.
    """
    if isinstance(dense, RowRankings) and isinstance(lexical, RowRankings):
        rows = aligned_rows(dense, lexical)
        return RowRankings(dense.table, {question_id: held(*of_one.fused(fusion)) for question_id, of_one in rows.items()})
    return {question_id: _listed(of_one.fused(fusion)) for question_id, of_one in aligned(dense, lexical).items()}


class Aligned(NamedTuple):
    """One question's scores by both systems, passages in the order of their ids."""

    ids: npt.NDArray[Any]  # object; of ``aligned_rows`` numbers of rows
    cosines: npt.NDArray[np.float64]
    lexical: npt.NDArray[np.float64]

    def fused(self, fusion: Fusion, depth: int | None = None) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
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
        found[question_id] = _side_by_side(
            (own, np.asarray(scores, np.float64)), (others, np.asarray(other, np.float64)), own, others
        )
    return found


def aligned_rows(dense: RowRankings, lexical: RowRankings) -> Mapping[str, Aligned]:
    """As ``aligned``, of rankings of one table: rows stand for ids. Each question's are made when they are asked for."""
    _require_same_questions([dense, lexical])
    if dense.table is not lexical.table:
        raise ValueError("only rows of one table can be fused")
    by_id = dense.table.by_id

    def find(question_id: str) -> Aligned:
        own, other = dense.rows(question_id), lexical.rows(question_id)
        return _side_by_side(own, other, by_id[own[0]], by_id[other[0]])

    return Asked(dense, find)


def _side_by_side(own: Of, other: Of, own_order: npt.NDArray[Any], other_order: npt.NDArray[Any]) -> Aligned:
    """Two systems' passages and scores, in the order of what stands for each passage."""
    order, other_places = np.argsort(own_order, kind="stable"), np.argsort(other_order, kind="stable")
    if len(order) != len(other_places) or (own[0][order] != other[0][other_places]).any():
        raise ValueError("only rankings of the same passages can be fused")
    return Aligned(own[0][order], own[1][order], other[1][other_places])


def reciprocal_rank_fusion(rankings: Sequence[Rankings], k: int = RRF_K) -> Rankings:
    """``score(d) = sum over systems of 1 / (k + place of d)`` (Cormack, Clarke and Buettcher, SIGIR 2009).

    Places are 1, 2, ...; a system that does not rank a passage adds nothing to it. Ties by id. Two kinds of score need no common
    scale here.

    Raises:
        ValueError: there are no rankings, or they are not of the same questions.
    """
    _require_same_questions(rankings)
    rows = [ranking for ranking in rankings if isinstance(ranking, RowRankings)]
    if len(rows) == len(rankings) and all(ranking.table is rows[0].table for ranking in rows):
        by_id = rows[0].table.by_id
        return RowRankings(rows[0].table, {question_id: _rows_by_place(rows, question_id, k, by_id) for question_id in rows[0]})
    return {
        question_id: _by_place([ranking[question_id][0] for ranking in rankings], k, lambda passage_id: passage_id)
        for question_id in rankings[0]
    }


def _require_same_questions(rankings: Sequence[Rankings]) -> None:
    if not rankings or not rankings[0]:
        raise ValueError("there are no rankings to fuse")
    if any(set(ranking) != set(rankings[0]) for ranking in rankings):
        raise ValueError("only rankings of the same questions can be fused")


def _rows_by_place(rankings: Sequence[RowRankings], question_id: str, k: int, by_id: npt.NDArray[Any]) -> Of:
    rows, scores = _by_place([ranking.rows(question_id)[0].tolist() for ranking in rankings], k, by_id.__getitem__)
    return held(np.array(rows), np.array(scores))


def _by_place(lists: Sequence[Sequence[_Passage]], k: int, rank: Callable[[_Passage], Any]) -> tuple[list[_Passage], list[float]]:
    """
    Args:
        rank: what equal sums are ordered by.
    """
    parts = defaultdict(list)
    for passage_ids in lists:
        for place, passage_id in enumerate(passage_ids, start=1):
            parts[passage_id].append(1 / (k + place))
    scores = {passage_id: fsum(of_systems) for passage_id, of_systems in parts.items()}  # fsum: in any order the same sum
    order = sorted(scores, key=lambda passage_id: (-scores[passage_id], rank(passage_id)))
    return order, [scores[passage_id] for passage_id in order]


def _listed(ranked: tuple[npt.NDArray[np.object_], npt.NDArray[np.float64]]) -> tuple[list[str], list[float]]:
    return ranked[0].tolist(), ranked[1].tolist()
