"""Exact ranking of passages for questions, within their document or over the whole corpus. Ties are broken by id."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from uae.io.errors import InputError


class Ranking(NamedTuple):
    question_id: str
    passage_ids: list[str]  # best first
    scores: list[float]  # cosine similarities


def rank(
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    question_vectors: np.ndarray,
    passage_vectors: np.ndarray,
    scope: str,
    depth: int | None = None,
) -> Iterator[Ranking]:
    """Rank every passage in each question's scope, keep the best ``depth`` (None: all).

    ``question_vectors`` (n, d) and ``passage_vectors`` (m, d) are unit vectors in the rows' order.

    Raises:
        InputError: scope is ``document`` and a question belongs to none.
    """
    if scope == "document" and (orphans := questions.loc[questions["doc_id"] == "", "source"].tolist()):
        raise InputError(
            f"{orphans[0]}: this question belongs to no document (nor do {len(orphans) - 1} more), so it cannot be answered "
            "within one: set scope to corpus"
        )
    # Rounded double precision: a product's last bits depend on the row's place, and equal passages must tie.
    passage_vectors = passage_vectors.astype(np.float64)
    ids = passages["passage_id"].to_numpy()
    by_id = np.argsort(np.argsort(ids))
    everywhere = np.arange(len(ids))
    rows = {doc: np.flatnonzero(passages["doc_id"].to_numpy() == doc) for doc in questions["doc_id"].unique() if doc}
    for question_id, doc_id, vector in zip(questions["question_id"], questions["doc_id"], question_vectors, strict=True):
        scope_rows = rows[doc_id] if scope == "document" else everywhere
        scores = np.round(passage_vectors[scope_rows] @ vector.astype(np.float64), 9)
        best = np.lexsort((by_id[scope_rows], -scores))[:depth]
        yield Ranking(question_id, ids[scope_rows[best]].tolist(), scores[best].tolist())
