"""The dense retriever: passages ranked by the cosine similarity of their vectors with the question's."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import pandas as pd

from uae.measures.ranking import Floats, Ranking, Rows, Table, place, rank, rank_rows
from uae.retrievers.dense import encode
from uae.retrievers.protocol import Vectors

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Dense:
    """Implements ``retriever.Retriever`` with a bi-encoder.

    Args:
        passage_vectors: gives the passages' vectors, such as ``PassageVectors``; None: the encoder computes them each time.
    """

    def __init__(self, encoder: "SentenceTransformer", passage_vectors: Callable[[Collection[str], str], Vectors] | None = None):
        self.encoder = encoder
        self._passages = passage_vectors or (lambda texts, progress: encode(encoder, list(texts), "document", progress))

    def place(
        self,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        texts: Collection[str],
        scope: str,
        depth: int,
        also: Mapping[str, Collection[str]],
        progress: str = "",
    ) -> Iterator[Ranking]:
        """As ``measures.ranking.place``.

        Args:
            passages: columns passage_id and doc_id.
            texts: what the encoder reads of them, in their order.
        """
        asked = encode(self.encoder, questions["text"].tolist(), "query")
        return place(questions, passages, asked, self._passages(texts, progress), scope, depth, also)

    def rank(
        self,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        scope: str,
        depth: int | None,
        progress: str = "",
        also: Mapping[str, Collection[str]] | None = None,
        texts: Collection[str] | None = None,
    ) -> Iterator[Ranking]:
        """As ``retriever.Retriever.rank``.

        Args:
            also: as ``measures.ranking.rank``.
            texts: what the encoder reads of the passages, in their order; None: their column text.
        """
        if texts is None:
            passages = searched(questions, passages, scope)
            texts = passages["text"]
        asked = encode(self.encoder, questions["text"].tolist(), "query")
        found = self._passages(texts, progress)
        return rank(questions, passages, asked, found, scope, depth, also)

    def rank_rows(
        self,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        texts: Collection[str],
        scope: str,
        depth: int | None,
        also: Callable[[str], Rows] | None,
        table: Table,
        progress: str = "",
    ) -> Iterator[tuple[str, Rows, Floats]]:
        """As ``measures.ranking.rank_rows``.

        Args:
            texts: what the encoder reads of the passages, in their order.
        """
        asked = encode(self.encoder, questions["text"].tolist(), "query")
        return rank_rows(questions, passages, asked, self._passages(texts, progress), scope, depth, also, table)


def searched(questions: pd.DataFrame, passages: pd.DataFrame, scope: str) -> pd.DataFrame:
    """The passages that a question may be answered from: in the scope of documents, others are nobody's."""
    return passages if scope == "corpus" else passages[passages["doc_id"].isin(set(questions["doc_id"]))]
