"""Exact ranking of passages for questions, within their document or over the whole corpus. Ties are broken by id."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from uae.io.errors import InputError

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.intp]

_QUESTIONS = 256  # in one product, at most
_PASSAGES = 8192  # in one product: 25 MB of 384 numbers in double precision
_SCORES = 1 << 24  # kept at once where whole rankings are asked for: 128 MB
# A product's last bits depend on a row's place. Equal passages must tie, so scores are rounded to so many decimals.
_DECIMALS = 9


class Ranking(NamedTuple):
    question_id: str
    passage_ids: list[str]  # best first
    scores: list[float]  # cosine similarities


def rank(
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    question_vectors: Floats,
    passage_vectors: Floats,
    scope: Literal["document", "corpus"] | str,
    depth: int | None = None,
) -> Iterator[Ranking]:
    """Rank the passages in each question's scope, best first, and keep the best ``depth`` (None: all).

    Products are computed in double precision, block by block. Beside the rankings themselves, memory does not grow with the
    number of questions. No copy of the passages' vectors is made.

    Args:
        question_vectors: unit vectors in the questions' order, shape (n, d).
        passage_vectors: unit vectors in the passages' order, shape (m, d).

    Raises:
        InputError: scope is ``document`` and a question belongs to none.
        ValueError: there are more or fewer vectors than rows.
    """
    check_scope(questions, scope)
    for name, table, vectors in (("questions", questions, question_vectors), ("passages", passages, passage_vectors)):
        if len(table) != len(vectors):
            raise ValueError(f"there are {len(table)} {name} and {len(vectors)} vectors of them")
    ids = passages["passage_id"].to_numpy()
    by_id = places(ids)
    rows_of = rows_by_document(passages) if scope == "document" else None
    kept = len(ids) if depth is None else min(depth, len(ids))
    step = max(1, min(_QUESTIONS, _SCORES // max(kept, 1)))
    for start in range(0, len(questions), step):
        asked = questions.iloc[start : start + step]
        vectors = question_vectors[start : start + step]
        for question_id, (rows, scores) in zip(
            asked["question_id"], _ranked(asked, vectors, passage_vectors, by_id, rows_of, depth), strict=True
        ):
            yield Ranking(question_id, ids[rows].tolist(), scores.tolist())


def check_scope(questions: pd.DataFrame, scope: str) -> None:
    """
    Raises:
        InputError: scope is ``document`` and a question belongs to none.
    """
    if scope == "document" and (orphans := questions.loc[questions["doc_id"] == "", "source"].tolist()):
        raise InputError(
            f"{orphans[0]}: this question belongs to no document (nor do {len(orphans) - 1} more), so it cannot be answered "
            "within one: set scope to corpus"
        )


def rows_by_document(passages: pd.DataFrame) -> Mapping[str, Rows]:
    """doc_id -> the places of its passages' rows, ascending."""
    places = passages.reset_index(drop=True).groupby("doc_id").indices
    return {str(doc_id): np.asarray(rows, np.intp) for doc_id, rows in places.items()}


def places(ids: npt.NDArray[np.object_]) -> Rows:
    """Each id's place among all of them in order: what ties are broken by."""
    found = np.empty(len(ids), dtype=np.intp)
    found[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return found


def best_first(scores: Floats, by_id: Rows, depth: int | None) -> Rows:
    """The places of the best ``depth`` scores (None: of all), best first, ties by id.

    Args:
        scores: shape (n,); equal ones tie, so they are rounded before.
        by_id: of the scored rows, as ``places`` gives it.
    """
    chosen = np.arange(len(scores))
    if depth is not None and depth < len(scores):
        if depth <= 0:
            return chosen[:0]
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        chosen = np.flatnonzero(scores >= least)  # with all that tie for the last place
    return chosen[np.lexsort((by_id[chosen], -scores[chosen]))][:depth]


def _ranked(
    asked: pd.DataFrame,
    vectors: Floats,
    passage_vectors: Floats,
    by_id: Rows,
    rows_of: Mapping[str, Rows] | None,
    depth: int | None,
) -> list[tuple[Rows, Floats]]:
    """Each question's best rows and their scores."""
    if rows_of is None:
        return _best_of_blocks(vectors, passage_vectors, np.arange(len(passage_vectors)), by_id, depth)
    found: list[tuple[Rows, Floats]] = [(np.empty(0, np.intp), np.empty(0))] * len(asked)
    for doc_id, turns in asked.reset_index(drop=True).groupby("doc_id").indices.items():
        rows = rows_of.get(str(doc_id), np.empty(0, np.intp))
        for turn, best in zip(turns, _best_of_blocks(vectors[turns], passage_vectors, rows, by_id, depth), strict=True):
            found[turn] = best
    return found


def _best_of_blocks(
    vectors: Floats, passage_vectors: Floats, rows: Rows, by_id: Rows, depth: int | None
) -> list[tuple[Rows, Floats]]:
    """The best of ``rows`` for each vector. After each block of rows only what may still be among the best is kept."""
    asked = vectors.astype(np.float64)
    best: list[tuple[Rows, Floats]] = [(rows[:0], np.empty(0))] * len(asked)
    for start in range(0, len(rows), _PASSAGES):
        block = rows[start : start + _PASSAGES]
        together = len(block) and block[-1] - block[0] == len(block) - 1  # neighbours: a slice copies nothing
        these = passage_vectors[block[0] : block[-1] + 1] if together else passage_vectors[block]
        products = np.round(asked @ these.astype(np.float64).T, _DECIMALS)
        for turn, scores in enumerate(products):
            before, known = best[turn]
            if depth is None:
                best[turn] = np.concatenate([before, block]), np.concatenate([known, scores])
                continue
            full = 0 < depth <= len(known)  # then nothing below the last one known can get in
            chosen = np.flatnonzero(scores >= known[-1]) if full else best_first(scores, by_id[block], depth)
            found, values = np.concatenate([before, block[chosen]]), np.concatenate([known, scores[chosen]])
            order = best_first(values, by_id[found], depth)
            best[turn] = found[order], values[order]
    if depth is None:
        ordered = [(found, scores, best_first(scores, by_id[found], None)) for found, scores in best]
        return [(found[order], scores[order]) for found, scores, order in ordered]
    return best
