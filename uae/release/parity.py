"""Does what is served do what was trained? The vectors of real queries by both encoders, and what is found by them.

Measured twice: when a release is built, to choose the encoder that serves it, and before it is promoted, on the test questions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import faiss
import numpy as np
import pandas as pd

from uae.index.nearest import search
from uae.index.stored import Readable
from uae.io.mapped import drop_pages_of
from uae.measures.ranking import Table, rows_by_document, strings
from uae.retrievers.protocol import Side, Vectors

_HAIR = 1e-9
_DROPPED = 16  # questions: after so many a mapped index's pages are given back


def is_within(loss: float, limit: float) -> bool:
    """Whether a loss is within its limit. In binary fractions 1 - 0.95, or 1 of 200, is a hair more than it should be."""
    return loss <= limit + _HAIR


class Parity(NamedTuple):
    """``cosine``, the lowest over the questions; recalls, means over those of them that have evidence (None: there are none)."""

    cosine: float
    mean_cosine: float
    trained_recall: float | None  # Recall@1 by the trained encoder's vectors, on the same index
    served_recall: float | None
    questions: int

    @property
    def recall_loss(self) -> float:
        """The share of the trained encoder's Recall@1 that is lost by serving; negative: serving finds more."""
        if not self.trained_recall or self.served_recall is None:
            return 0.0
        return 1 - self.served_recall / self.trained_recall


@dataclass(frozen=True)
class Corpus:
    """What is searched, in the index's order."""

    ids: pd.DataFrame  # passage_id, and doc_id as a category
    index: faiss.Index
    parameters: str  # as ``ann.tune`` gives them
    mapped: Path | None = None  # the file that the index is read from; None: it is in memory


def measure_parity(trained: Vectors, served: Vectors, questions: pd.DataFrame, corpus: Corpus, scope: str) -> Parity:
    """Compare the two encoders' vectors of the questions, shape (n, dim) each, and what they find in their scope.

    Args:
        questions: as QUESTIONS, n rows.
    """
    cosines = np.einsum("nd,nd->n", trained.astype(np.float64), served.astype(np.float64))
    known = np.flatnonzero(questions["evidence"].str.len() > 0)
    trained_recall = served_recall = None
    if len(known):
        asked = questions.iloc[known]
        trained_recall, served_recall = (recall_at_1(vectors[known], asked, corpus, scope) for vectors in (trained, served))
    return Parity(float(cosines.min()), float(cosines.mean()), trained_recall, served_recall, len(questions))


def recall_at_1(vectors: Vectors, questions: pd.DataFrame, corpus: Corpus, scope: str) -> float:
    """Recall@1, searched as it is served: the mean share of a question's evidence that the first passage is."""
    table = Table.of(corpus.ids["passage_id"])
    by_id = table.by_id.astype(np.int64)
    scopes = rows_by_document(corpus.ids["doc_id"]) if scope == "document" else {}
    recall = np.zeros(len(questions))
    for number, (doc_id, evidence) in enumerate(zip(questions["doc_id"], questions["evidence"], strict=True)):
        rows = np.asarray(scopes.get(doc_id, ()), np.int64) if scope == "document" else None
        _, found = search(corpus.index, vectors[number : number + 1], 1, rows, corpus.parameters, by_id)
        best = set(strings(table.ids[found[0]]))
        recall[number] = len(best & set(evidence)) / len(evidence)
        if corpus.mapped is not None and not number % _DROPPED:
            drop_pages_of(corpus.mapped)
    return float(recall.mean())


class Encodes(Protocol):
    def encode(self, texts: Sequence[str], kind: Side) -> Vectors: ...


def lowest_cosine(encoder: Encodes, index: Readable, rows: Sequence[int], texts: Sequence[str]) -> float:
    """How well the vectors in the index fit the encoder: the lowest cosine over the passages of these rows, encoded anew."""
    stored = index.reconstruct_batch(np.asarray(rows, dtype=np.int64))
    stored = stored / np.maximum(np.linalg.norm(stored, axis=1, keepdims=True), 1e-12)
    found = encoder.encode(list(texts), "document")
    return float(np.einsum("nd,nd->n", stored.astype(np.float64), found.astype(np.float64)).min())
