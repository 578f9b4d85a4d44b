"""An encoder and BM25 asked the same questions, so that their rankings can be fused without ranking a whole corpus.

Each keeps the best of a question's scope, and scores what the other keeps. A passage that neither keeps is below the last one
of both. So where its fused score could not reach a place, that place is exact (the threshold algorithm; Fagin, Lotem and Naor,
PODS 2001). Where a scope has no more passages than are kept, everything is ranked.
"""

from collections.abc import Collection, Iterable, Mapping

import pandas as pd

from uae.measures.fusion import Rankings
from uae.measures.ranking import check_scope
from uae.retrievers.cosine import Dense
from uae.retrievers.lexical import Bm25

KEPT = 10_000  # passages of a question's ranking, by each of the two


class Words:
    """BM25's rankings of questions, by one index, which can be asked for single passages again.

    Attributes:
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
        self._index, self._kept = Bm25(passages, texts), kept
        self._asked = {
            question_id: (text, doc_id if scope == "document" else None)
            for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True)
        }
        self.rankings: Rankings = {key: self._index.search(*asked, kept) for key, asked in self._asked.items()}

    def beside(self, dense: Rankings) -> dict[str, tuple[list[str], list[float]]]:
        """The rankings of some questions, with the passages that another retriever ranks, too."""
        return {
            key: self.rankings[key]
            if len(self.rankings[key][0]) < self._kept  # all there are
            else self._index.search(*self._asked[key], self._kept, ids)
            for key, (ids, _) in dense.items()
        }


def rank_beside(
    encoder: Dense,
    words: Words,
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    scope: str,
    progress: str,
    kept: int = KEPT,
    texts: Collection[str] | None = None,
) -> tuple[dict[str, tuple[list[str], list[float]]], dict[str, tuple[list[str], list[float]]]]:
    """Rankings by an encoder and by BM25, each of the same passages: what either keeps.

    Args:
        words: of these questions at least.
        texts: what the encoder reads of the passages, in their order; None: their column text.
    """
    also: Mapping[str, list[str]] = {key: words.rankings[key][0] for key in questions["question_id"]}
    ranked = encoder.rank(questions, passages, scope, kept, progress, also, texts)
    dense = {ranking.question_id: (ranking.passage_ids, ranking.scores) for ranking in ranked}
    return dense, words.beside(dense)


def cut(rankings: Rankings, kept: int = KEPT) -> dict[str, tuple[list[str], list[float]]]:
    """The first passages of each ranking."""
    return {key: (ids[:kept], scores[:kept]) for key, (ids, scores) in rankings.items()}
