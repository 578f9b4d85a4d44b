"""Rankings held as numbers of rows: 12 bytes a place, where an id and a score as Python objects take 40 and more."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from uae.measures.ranking import Table, strings

Numbers = npt.NDArray[Any]
Found = TypeVar("Found")
Of = tuple[Numbers, Numbers]  # rows best first, and their scores


class Asked(Mapping[str, Found]):
    """What is found for each question, when it is asked for; it is not kept."""

    def __init__(self, questions: Iterable[str], find: Callable[[str], Found]):
        self._questions, self._find = dict.fromkeys(questions), find

    def __getitem__(self, question_id: str) -> Found:
        if question_id not in self._questions:
            raise KeyError(question_id)
        return self._find(question_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self._questions)

    def __len__(self) -> int:
        return len(self._questions)


class RowRankings(Mapping[str, tuple[list[str], list[float]]]):
    """question_id -> (passage_ids best first, scores), as ``fusion.Rankings``. The lists are made each time they are asked for.

    Attributes:
        table: whose rows they are.
    """

    def __init__(self, table: Table, of: Mapping[str, Of]):
        self.table, self._of = table, of

    def __getitem__(self, question_id: str) -> tuple[list[str], list[float]]:
        rows, scores = self._of[question_id]
        return strings(self.table.ids[rows]), scores.tolist()

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)

    def rows(self, question_id: str) -> Of:
        """Its rows, best first, and their scores."""
        return self._of[question_id]

    def only(self, questions: Iterable[str]) -> "RowRankings":
        """The rankings of some questions."""
        return RowRankings(self.table, Asked(questions, self._of.__getitem__))

    def cut(self, kept: int) -> "RowRankings":
        """The first ``kept`` passages of each; what comes behind is held no more."""
        return RowRankings(
            self.table, {question_id: held(rows[:kept], scores[:kept]) for question_id, (rows, scores) in self._of.items()}
        )


def held(rows: Numbers, scores: Numbers) -> Of:
    """A copy in as few bytes as hold it."""
    return rows.astype(np.int32), np.array(scores, np.float64)
