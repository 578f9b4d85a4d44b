"""An encoder and BM25 asked the same questions, so that their rankings can be fused without ranking a whole corpus.

Each keeps the best of a question's scope, and scores what the other keeps. A passage that neither keeps is below the last one
of both. So where its fused score could not reach a place, that place is exact (the threshold algorithm; Fagin, Lotem and Naor,
PODS 2001). Where a scope has no more passages than are kept, everything is ranked.
"""

from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd

from uae.measures.fusion import Rankings
from uae.measures.ranking import Floats, Rows, Table, check_scope, rows_of, strings
from uae.measures.row_rankings import Asked, RowRankings, held
from uae.retrievers.cosine import Dense, searched
from uae.retrievers.lexical import Bm25

KEPT = 10_000  # passages of a question's ranking, by each of the two


class Words:
    """BM25's rankings of questions, by one index, which can be asked for single passages again.

    Attributes:
        passages: what is ranked.
        table: of them.
        rankings: question_id -> its best ``kept`` passages and their scores.
    """

    def __init__(
        self,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        scope: str,
        kept: int = KEPT,
        texts: Iterable[str] | None = None,
    ):
        """
        Args:
            passages: as ``retriever.Retriever.rank`` takes them.
            texts: what is read of the passages, in their order; None: their column text.

        Raises:
            InputError: scope is ``document`` and a question belongs to none.
        """
        check_scope(questions, scope)
        self._index, self._kept, self.passages = Bm25(passages, texts), kept, passages
        self.table = self._index.table
        self._asked = {
            question_id: (text, doc_id if scope == "document" else None)
            for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True)
        }
        of = {key: held(*self._index.search_rows(*asked, kept)) for key, asked in self._asked.items()}
        self.rankings = RowRankings(self.table, of)

    def beside(self, dense: RowRankings) -> RowRankings:
        """The rankings of some questions, with the passages that another retriever ranks, too. Made when they are asked for.

        Args:
            dense: rows of ``table``.
        """

        def find(key: str) -> tuple[Rows, Floats]:
            known = self.rankings.rows(key)
            if len(known[0]) < self._kept:  # all there are
                return known
            return self._index.search_rows(*self._asked[key], self._kept, np.sort(dense.rows(key)[0]))

        return RowRankings(self.table, Asked(dense, find))


def rank_beside(
    encoder: Dense,
    words: Words,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    progress: str,
    kept: int = KEPT,
    texts: Collection[str] | None = None,
) -> tuple[RowRankings, RowRankings]:
    """Rankings by an encoder and by BM25, each of the same passages: what either keeps.

    Args:
        words: of these questions at least.
        passages: those of ``words``, or some of them in the same order.
        texts: what the encoder reads of the passages, in their order; None: their column text.
    """
    if texts is None:
        passages = searched(questions, passages, scope)
        texts = passages["text"]
    if passages is words.passages:
        table, rows = words.table, None
    else:
        table = Table.of(passages["passage_id"])
        rows = rows_of(words.table.ids, words.table.ordered, strings(table.ids))  # of ``words``, for each of these

    def also(key: str) -> Rows:
        wanted = np.sort(words.rankings.rows(key)[0])
        return wanted if rows is None else np.flatnonzero(np.isin(rows, wanted, assume_unique=True))

    ranked = encoder.rank_rows(questions, passages, texts, scope, kept, also, table, progress)
    dense = RowRankings(words.table, {key: held(found if rows is None else rows[found], scores) for key, found, scores in ranked})
    return dense, words.beside(dense)


def rank_alone(
    encoder: Dense,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    progress: str,
    texts: Collection[str],
    kept: int = KEPT,
) -> RowRankings:
    """The best of each question's scope by an encoder that nothing joins.

    Args:
        passages: columns passage_id and doc_id.
        texts: what the encoder reads of them, in their order.
    """
    table = Table.of(passages["passage_id"])
    ranked = encoder.rank_rows(questions, passages, texts, scope, kept, None, table, progress)
    return RowRankings(table, {key: held(rows, scores) for key, rows, scores in ranked})


def cut(rankings: Rankings, kept: int = KEPT) -> Rankings:
    """The first passages of each ranking."""
    if isinstance(rankings, RowRankings):
        return rankings.cut(kept)
    return {key: (ids[:kept], scores[:kept]) for key, (ids, scores) in rankings.items()}
