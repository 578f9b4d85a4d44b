"""BM25, the retriever that knows words and nothing else: what an encoder has to beat, and one half of the hybrid."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np
import pandas as pd

from uae.measures.ranking import Floats, Ranking, Rows, Table, best_first, check_scope, rows_by_document, rows_of, strings
from uae.retrievers.bm25_index import Bm25Index
from uae.retrievers.retriever import rankings


class Bm25:
    """An index over ``passages``, of the schema PASSAGES. Word statistics are taken over all of them, whatever is searched.

    How texts become words, and words a score: ``bm25_index``.
    """

    def __init__(self, passages: pd.DataFrame, texts: Iterable[str] | None = None):
        """
        Args:
            texts: what is read of the passages, in their order; None: their column text.
        """
        self._index = Bm25Index.build(passages["text"] if texts is None else texts)
        self.table = Table.of(passages["passage_id"])
        self._doc_ids = passages["doc_id"]

    @cached_property
    def _rows(self) -> Mapping[str, Rows]:
        return rows_by_document(self._doc_ids)

    def search(
        self, text: str, doc_id: str | None, depth: int | None, also: Collection[str] = ()
    ) -> tuple[list[str], list[float]]:
        """The best ``depth`` passages (None: all) of one document (None: of all), and their scores, ties by id.

        A passage that shares no word with ``text`` has score 0 and is ranked as well, at the end.

        Args:
            also: passage_ids that are kept whatever their place; those of other documents are not.
        """
        rows, scores = self.search_rows(
            text, doc_id, depth, rows_of(self.table.ids, self.table.ordered, also) if len(also) else None
        )
        return strings(self.table.ids[rows]), scores.tolist()

    def search_rows(self, text: str, doc_id: str | None, depth: int | None, also: Rows | None = None) -> tuple[Rows, Floats]:
        """As ``search``, as rows of ``table``."""
        scores, by_id = self._index.scores(text), self.table.by_id
        rows: Rows | None = None  # all
        if doc_id is not None:
            rows = self._rows.get(doc_id, np.empty(0, np.intp))
            scores, by_id = scores[rows], by_id[rows]
        best = best_first(scores, by_id, depth)
        if also is not None and len(also) and len(best) < len(scores):
            if rows is not None:  # where in them, which ascend, the wanted ones stand: those of other documents nowhere
                at = np.minimum(np.searchsorted(rows, also), len(rows) - 1)
                also = at[rows[at] == also]
            kept = np.union1d(best, also)
            best = kept[best_first(scores[kept], by_id[kept], None)]
        return (best if rows is None else rows[best]), scores[best]


class Lexical:
    """Implements ``retriever.Retriever`` by BM25. It needs no model: its statistics are those of the passages it is given."""

    def rank(
        self,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        scope: str,
        depth: int | None,
        progress: str = "",
        texts: Iterable[str] | None = None,
    ) -> Iterator[Ranking]:
        """How rare a word is, is counted over all ``passages``, in scope ``document`` too: the few passages of one document say
        little about it."""
        check_scope(questions, scope)
        index = Bm25(passages, texts)
        for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True):
            yield Ranking(question_id, *index.search(text, doc_id if scope == "document" else None, depth))


def rank_bm25(
    questions: pd.DataFrame, passages: pd.DataFrame, scope: str, depth: int | None
) -> dict[str, tuple[list[str], list[float]]]:
    """The rankings of ``Lexical``. Arguments and errors as ``retriever.Retriever.rank``."""
    return rankings(Lexical(), questions, passages, scope, depth)
