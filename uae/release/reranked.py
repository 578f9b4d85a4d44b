"""A system with a second stage, asked as a leg: what its legs find first is re-ranked by the release's cross-encoder."""

import numpy as np
import numpy.typing as npt

from uae.measures.ranking import best_first
from uae.measures.reranking import DECIMALS
from uae.release.legs.protocol import Leg, Queries, Rows
from uae.release.second_stage import SecondStage
from uae.retrievers.protocol import Vectors


class RerankedLegs:
    """Implements ``legs.protocol.Leg``. It owns neither the first stage nor the second."""

    def __init__(self, first: Leg, second: SecondStage, depth: int, weight: float, places: Rows):
        """
        Args:
            depth: passages of the first stage that are re-ranked.
            weight: of the first stage's scores beside the second's.
            places: each row's place in the order of passage_ids, which orders equal scores.
        """
        self.first, self._second = first, second
        self.depth, self._weight, self._places = depth, weight, places

    def find(self, queries: Queries, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """As ``Leg.find``; scores and their order as ``measures.reranking.second_stage_ranking`` has them."""
        scores, found = self.first.find(queries, max(k, self.depth), rows)
        top = [of_one[: self.depth][of_one[: self.depth] >= 0] for of_one in found]
        second = self._second.scores(queries.texts, [of_one.tolist() for of_one in top])
        for place, (of_one, values) in enumerate(zip(top, second, strict=True)):
            if len(of_one):
                self._put_in_order(scores[place], found[place], of_one, values)
        return scores[:, :k], found[:, :k]

    def _put_in_order(self, scores: Vectors, found: Rows, top: Rows, second: npt.NDArray[np.float32]) -> None:
        """Change one query's row in place."""
        number = len(top)
        first = scores.astype(np.float64)
        values = np.round(second.astype(np.float64) + self._weight * first[:number], DECIMALS)
        order = best_first(values, self._places[top], None)
        found[:number], scores[:number] = top[order], values[order]
        scores[number:] = values[order[-1]] - (first[number - 1] - first[number:])

    def close(self) -> None:
        """Nothing: its parts are the release's."""
