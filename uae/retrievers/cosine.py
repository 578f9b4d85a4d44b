"""The dense retriever: passages ranked by the cosine similarity of their vectors with the question's."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from uae.measures.ranking import Ranking, rank
from uae.retrievers.dense import encode

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class Dense:
    """Implements ``retriever.Retriever`` with a bi-encoder."""

    def __init__(self, encoder: "SentenceTransformer"):
        self.encoder = encoder

    def rank(
        self, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, depth: int | None, progress: str = ""
    ) -> Iterator[Ranking]:
        if scope == "document":  # the other documents' passages are nobody's
            passages = passages[passages["doc_id"].isin(set(questions["doc_id"]))]
        asked = encode(self.encoder, questions["text"].tolist(), "query")
        found = encode(self.encoder, passages["text"].tolist(), "document", progress)
        return rank(questions, passages, asked, found, scope, depth)
