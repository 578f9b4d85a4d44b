"""Several legs asked as one: a dense and a lexical leg, fused by their scores or by their places.

By scores the best ``k`` are exact. Passages are looked at in the order of each leg, until none that is left can reach the k-th.
That is the threshold algorithm (Fagin, Lotem and Naor, PODS 2001). Behind an approximate index they
are exact for what that finds.
"""

import numpy as np
import numpy.typing as npt

from uae.measures.fusion import RANKS, RRF_K, Fusion, combined
from uae.measures.ranking import best_first
from uae.release.legs.dense import DenseLeg
from uae.release.legs.lexical import LexicalLeg
from uae.release.legs.protocol import Queries, Rows
from uae.retrievers.protocol import Vectors

# Looked at first, of each leg, and at most where there are many passages: then the bound of what is left hardly matters.
_FIRST, _DEEPEST = 64, 4096
_ALL = 20_000  # so many passages or fewer are all looked at, if the first are not enough

Scores = npt.NDArray[np.float64]


class FusedLegs:
    """A dense and a lexical leg as one. It owns neither of them."""

    def __init__(self, dense: DenseLeg, lexical: LexicalLeg, fusion: Fusion, passages: int, places: Rows):
        """
        Args:
            passages: how many there are.
            places: each row's place in the order of passage_ids, which orders equal scores.
        """
        self.dense, self._lexical, self._fusion = dense, lexical, fusion
        self._passages, self._places = passages, places

    def find(self, queries: Queries, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """As ``protocol.Leg.find``; scores as ``measures.fusion`` has them."""
        allowed = self._passages if rows is None else len(rows)
        k = min(k, allowed)
        scores, found = np.full((len(queries.texts), k), -np.inf, np.float32), np.full((len(queries.texts), k), -1, np.int64)
        if not k:
            return scores, found
        vectors = queries.vectors
        if vectors is None:
            raise ValueError("a fused system needs the queries' vectors")
        for place, text in enumerate(queries.texts):
            words = self._lexical.all_scores(text)
            one = vectors[place : place + 1]
            search = self._by_place if self._fusion.form == RANKS else self._by_score
            best, values = search(one, words, k, rows, allowed)
            scores[place, : len(best)], found[place, : len(best)] = values, best
        return scores, found

    def close(self) -> None:
        """Nothing: its legs are the release's."""

    def _by_score(self, vector: Vectors, words: Scores, k: int, rows: Rows | None, allowed: int) -> tuple[Rows, Scores]:
        of_words = _lexical_order(words, rows)
        highest = float(words[of_words[0]]) if len(of_words) else 0.0
        depth = max(_FIRST, 4 * k)
        while True:
            depth = min(depth, allowed)
            cosines, near = self.dense.search(vector, depth, rows)
            seen = np.union1d(near[0][near[0] >= 0], of_words[:depth])
            values = combined(self.dense.score(vector, seen), words[seen], highest, self._fusion.weight)
            best = best_first(values, self._places[seen], k)
            left = combined(float(cosines[0, -1]), _at(words, of_words, depth), highest, self._fusion.weight)
            if depth == allowed or depth >= _DEEPEST or (len(best) == k and values[best[-1]] > left):
                return seen[best], values[best]
            depth = allowed if allowed <= _ALL else 4 * depth

    def _by_place(self, vector: Vectors, words: Scores, k: int, rows: Rows | None, allowed: int) -> tuple[Rows, Scores]:
        depth = allowed if allowed <= _ALL else min(max(_DEEPEST, k), allowed)
        near = self.dense.search(vector, depth, rows)[1][0]
        near = near[near >= 0]
        of_words = _lexical_order(words, rows, self._places)[:depth]
        seen = np.union1d(near, of_words)
        values = np.zeros(len(seen))
        for ordered, weight in ((near, 1.0), (of_words, self._fusion.weight)):
            values[np.searchsorted(seen, ordered)] += weight / (RRF_K + 1 + np.arange(len(ordered)))
        best = best_first(values, self._places[seen], k)
        return seen[best], values[best]


def _lexical_order(words: Scores, rows: Rows | None, places: Rows | None = None) -> Rows:
    """Rows that may be found and share a word with the query, best first."""
    found = np.flatnonzero(words > 0) if rows is None else rows[words[rows] > 0]
    order = np.argsort(-words[found], kind="stable") if places is None else best_first(words[found], places[found], None)
    return found[order].astype(np.int64)


def _at(words: Scores, of_words: Rows, depth: int) -> float:
    """The lexical score at a depth: none that is left has a higher one."""
    return float(words[of_words[depth - 1]]) if depth <= len(of_words) else 0.0
