"""What a retriever does, whatever its kind.

A kind of retriever is one file of this room and one line in ``kinds.py``. A caller that wants passages ranked asks ``rankings``.
The caller knows neither how a kind represents a text nor how it compares a question with a passage.
"""

from collections.abc import Iterator
from typing import Protocol

import pandas as pd

from uae.measures.ranking import Ranking


class Retriever(Protocol):
    """Ranks passages for questions."""

    def rank(
        self, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, depth: int | None, progress: str = ""
    ) -> Iterator[Ranking]:
        """The best ``depth`` passages (None: all) of each question's scope, best first, ties by id.

        Args:
            questions: columns question_id, text, doc_id and source, as ``QUESTIONS`` has them.
            passages: columns passage_id, doc_id and text; ``text`` is what a model reads of a passage.
            scope: ``document`` or ``corpus``.
            progress: the name of a progress bar; "": none.

        Raises:
            InputError: scope is ``document`` and a question belongs to none.
        """
        ...


def rankings(
    retriever: Retriever,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    depth: int | None = None,
    progress: str = "",
) -> dict[str, tuple[list[str], list[float]]]:
    """question_id -> (passage_ids best first, their scores). Arguments and errors as ``Retriever.rank``."""
    ranked = retriever.rank(questions, passages, scope, depth, progress)
    return {ranking.question_id: (ranking.passage_ids, ranking.scores) for ranking in ranked}
