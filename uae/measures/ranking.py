"""Exact ranking of passages for questions, within their document or over the whole corpus. Ties are broken by id."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from uae.io.errors import InputError
from uae.io.mapped import drop_pages

Floats = npt.NDArray[np.floating]
Rows = npt.NDArray[np.integer]
Ids = npt.NDArray[np.bytes_]  # as ``compact`` gives them

_QUESTIONS = 256  # in one product, at most
_PASSAGES = 8192  # in one product: 25 MB of 384 numbers in double precision
_SCORES = 1 << 24  # kept at once where whole rankings are asked for: 128 MB
# A product's last bits depend on a row's place. Equal passages must tie, so scores are rounded to so many decimals.
_DECIMALS = 9
_KEPT = 1 << 20  # places kept at once where the best are asked for
_IDS = 1 << 14  # that are Python objects at a time


class Ranking(NamedTuple):
    question_id: str
    passage_ids: list[str]  # best first
    scores: list[float]  # cosine similarities
    places: Sequence[int] = ()  # of each among all passages of the scope, 1 is best; told by ``place`` alone


class Table(NamedTuple):
    """What the rows of a ranking are."""

    ids: Ids
    ordered: Rows  # as ``rows_by_id`` gives it
    by_id: Rows  # as ``places`` gives it

    @classmethod
    def of(cls, passage_ids: pd.Series) -> "Table":
        ids = compact(passage_ids)
        ordered = rows_by_id(ids)
        return cls(ids, ordered, places(ordered))


def rank(
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    question_vectors: Floats,
    passage_vectors: Floats,
    scope: Literal["document", "corpus"] | str,
    depth: int | None = None,
    also: Mapping[str, Collection[str]] | None = None,
) -> Iterator[Ranking]:
    """Rank the passages in each question's scope, best first, and keep the best ``depth`` (None: all).

    Products are computed in double precision, block by block. Beside the rankings themselves, memory does not grow with the
    number of questions. No copy of the passages' vectors is made: they may lie in a mapped file.

    Args:
        passages: of its columns passage_id and doc_id are used.
        question_vectors: unit vectors in the questions' order, shape (n, d).
        passage_vectors: unit vectors in the passages' order, shape (m, d).
        also: question_id -> passage_ids that are kept whatever their place; those outside the question's scope are not.

    Raises:
        InputError: scope is ``document`` and a question belongs to none.
        ValueError: there are more or fewer vectors than rows.
    """
    table = Table.of(passages["passage_id"])
    wanted = None if also is None else lambda question_id: rows_of(table.ids, table.ordered, also.get(question_id, ()))
    ranked = rank_rows(questions, passages, question_vectors, passage_vectors, scope, depth, wanted, table)
    return (Ranking(question_id, strings(table.ids[rows]), scores.tolist()) for question_id, rows, scores in ranked)


def rank_rows(
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    question_vectors: Floats,
    passage_vectors: Floats,
    scope: str,
    depth: int | None,
    also: Callable[[str], Rows] | None,
    table: Table,
) -> Iterator[tuple[str, Rows, Floats]]:
    """As ``rank``: each question_id with the rows of its ranking, best first, and their scores.

    Args:
        also: gives, of a question_id, the rows that are kept whatever their place, ascending.
        table: of the passages.
    """
    pool = _Pool.of(questions, passages, question_vectors, passage_vectors, scope, table)
    kept = len(table.ids) if depth is None else min(depth, len(table.ids))
    step = (_SCORES if depth is None else _KEPT) // max(kept, 1)
    return _ranked(pool, questions, question_vectors, depth, also, max(1, min(_QUESTIONS, step)))


def _ranked(
    pool: "_Pool", questions: pd.DataFrame, vectors: Floats, depth: int | None, also: Callable[[str], Rows] | None, step: int
) -> Iterator[tuple[str, Rows, Floats]]:
    for asked, of_asked in _parts(questions, vectors, step):
        ranked = pool.best(asked, of_asked, depth, also)
        for question_id, (rows, scores) in zip(asked["question_id"], ranked, strict=True):
            yield question_id, rows, scores


def place(
    questions: pd.DataFrame,
    passages: pd.DataFrame,
    question_vectors: Floats,
    passage_vectors: Floats,
    scope: str,
    depth: int,
    also: Mapping[str, Collection[str]],
) -> Iterator[Ranking]:
    """As ``rank``, with the place that each kept passage has in the ranking of the whole scope, which is never made.

    Those that are better are counted, block by block. Arguments and errors as ``rank``.
    """
    pool = _Pool.of(questions, passages, question_vectors, passage_vectors, scope, Table.of(passages["passage_id"]))
    for asked, vectors in _parts(questions, question_vectors, _QUESTIONS):
        ranked = pool.best(asked, vectors, depth, lambda key: rows_of(pool.ids, pool.ordered, also.get(key, ())))
        better = pool.better(asked, vectors, ranked)
        for question_id, (rows, scores), above in zip(asked["question_id"], ranked, better, strict=True):
            yield Ranking(question_id, strings(pool.ids[rows]), scores.tolist(), (above + 1).tolist())


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


def rows_by_document(doc_ids: pd.Series) -> Mapping[str, Rows]:
    """doc_id -> the places of its passages' rows, ascending.

    Args:
        doc_ids: of each passage.
    """
    known = isinstance(doc_ids.dtype, pd.CategoricalDtype)  # then no passage's doc_id becomes a Python object
    numbers, names = (doc_ids.cat.codes.to_numpy(), doc_ids.cat.categories) if known else pd.factorize(doc_ids)
    ordered = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers, minlength=len(names))
    ends = np.cumsum(counts)
    return {str(name): ordered[end - count : end] for name, count, end in zip(names, counts, ends, strict=True) if count}


def compact(ids: pd.Series) -> Ids:
    """Ids as UTF-8, all as wide as the longest. A million of 24 letters take 24 MB, where Python's strings would take 88.

    Where they lie in one piece of Arrow's memory and are all of one length, as hashes are, nothing is copied.
    """
    as_they_lie = _as_they_lie(ids)
    if as_they_lie is not None:
        return as_they_lie
    parts = [np.array([text.encode() for text in ids.iloc[at : at + _IDS]], np.bytes_) for at in range(0, len(ids), _IDS)]
    return np.concatenate(parts) if parts else np.empty(0, "S1")


def _as_they_lie(ids: pd.Series) -> Ids | None:
    if not len(ids) or not isinstance(ids.dtype, pd.StringDtype) or ids.dtype.storage != "pyarrow":
        return None
    column = pa.array(ids)
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks != 1:
            return None
        column = column.chunk(0)
    if not pa.types.is_large_string(column.type):
        return None
    _, ends, letters = column.buffers()
    edges = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    width = int(edges[1] - edges[0])
    if not width or any((np.diff(edges[at : at + _IDS + 1]) != width).any() for at in range(0, len(ids), _IDS)):
        return None
    found = np.frombuffer(letters, f"S{width}", len(ids), int(edges[0]))
    found.flags.writeable = False  # it is the column's own memory
    return found


def strings(ids: Ids) -> list[str]:
    """The ids that ``compact`` was given. All rankings share one object of each: there are millions of them."""
    return [sys.intern(text.decode()) for text in ids.tolist()]


def rows_by_id(ids: Ids) -> Rows:
    """The rows in the order of their ids. Bytes of UTF-8 have the order of the texts."""
    return np.argsort(ids, kind="stable").astype(np.int32 if len(ids) < 1 << 31 else np.intp)


def places(ordered: Rows) -> Rows:
    """Each row's place in the order of ids: what ties are broken by.

    Args:
        ordered: as ``rows_by_id`` gives it.
    """
    found = np.empty_like(ordered)
    found[ordered] = np.arange(len(ordered), dtype=ordered.dtype)
    return found


def rows_of(ids: Ids, ordered: Rows, wanted: Collection[str]) -> Rows:
    """The rows of these ids, ascending; of those that are not there, none.

    Args:
        ordered: as ``rows_by_id`` gives it. No table of hashes is made: of a million ids it would take more memory than they do.
    """
    if not len(wanted) or not len(ids):
        return np.empty(0, np.intp)
    # What is longer is not there, and would be cut to something that may be.
    asked = np.array([text for text in map(str.encode, wanted) if len(text) <= ids.itemsize], ids.dtype)
    found = ordered[np.minimum(np.searchsorted(ids, asked, sorter=ordered), len(ids) - 1)]
    return np.unique(found[ids[found] == asked]).astype(np.intp)


def best_first(scores: Floats, by_id: Rows, depth: int | None) -> Rows:
    """The places of the best ``depth`` scores (None: of all), best first, ties by id.

    Args:
        scores: shape (n,); equal ones tie, so they are rounded before.
        by_id: of the scored rows, as ``places`` gives it.
    """
    if depth is None or depth >= len(scores):
        chosen = np.arange(len(scores))
    elif depth <= 0:
        return np.empty(0, np.intp)
    else:
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        chosen = np.flatnonzero(scores >= least)  # with all that tie for the last place
    return chosen[np.lexsort((by_id[chosen], -scores[chosen]))][:depth]


def _parts(questions: pd.DataFrame, vectors: Floats, step: int) -> Iterator[tuple[pd.DataFrame, Floats]]:
    for start in range(0, len(questions), step):
        yield questions.iloc[start : start + step], vectors[start : start + step]


class _Pool(NamedTuple):
    """What questions are asked of."""

    ids: Ids
    ordered: Rows  # as ``rows_by_id`` gives it
    by_id: Rows
    vectors: Floats
    rows_of: Mapping[str, Rows] | None  # None: every question is asked of all passages

    @classmethod
    def of(
        cls,
        questions: pd.DataFrame,
        passages: pd.DataFrame,
        question_vectors: Floats,
        passage_vectors: Floats,
        scope: str,
        table: Table,
    ) -> "_Pool":
        check_scope(questions, scope)
        for name, given, vectors in (("questions", questions, question_vectors), ("passages", passages, passage_vectors)):
            if len(given) != len(vectors):
                raise ValueError(f"there are {len(given)} {name} and {len(vectors)} vectors of them")
        rows = rows_by_document(passages["doc_id"]) if scope == "document" else None
        return cls(*table, passage_vectors, rows)

    def best(
        self, asked: pd.DataFrame, vectors: Floats, depth: int | None, also: Callable[[str], Rows] | None
    ) -> list[tuple[Rows, Floats]]:
        """Each question's best rows, with those that are wanted besides, and their scores, best first."""
        wanted = [self.by_id[:0] if also is None else also(question_id) for question_id in asked["question_id"]]
        found: list[tuple[Rows, Floats]] = [(np.empty(0, np.intp), np.empty(0))] * len(asked)
        for turns, rows in self._scopes(asked):
            own = [wanted[turn] for turn in turns]
            for turn, best in zip(
                turns, _best_of_blocks(vectors[turns], self.vectors, rows, self.by_id, depth, own), strict=True
            ):
                found[turn] = best
        return found

    def better(self, asked: pd.DataFrame, vectors: Floats, ranked: Sequence[tuple[Rows, Floats]]) -> list[Rows]:
        """How many passages of the scope come before each of the ranked ones."""
        found: list[Rows] = [np.zeros(len(rows), np.intp) for rows, _ in ranked]
        for turns, rows in self._scopes(asked):
            for block, products in _products(vectors[turns], self.vectors, rows):
                for turn, scores in zip(turns, products, strict=True):
                    if len(found[turn]):
                        found[turn] += _above(scores, self.by_id[block], ranked[turn][1], self.by_id[ranked[turn][0]])
        return found

    def _scopes(self, asked: pd.DataFrame) -> Iterator[tuple[Rows, "Rows | range"]]:
        """Which of the questions are asked of which rows."""
        if self.rows_of is None:
            yield np.arange(len(asked)), range(len(self.ids))
            return
        for doc_id, turns in asked.reset_index(drop=True).groupby("doc_id").indices.items():
            yield np.asarray(turns, np.intp), self.rows_of.get(str(doc_id), np.empty(0, np.intp))


def _products(vectors: Floats, passage_vectors: Floats, rows: Rows | range) -> Iterator[tuple[Rows, Floats]]:
    """Block by block, some rows and the scores of each question with them, shape (questions, rows)."""
    asked = vectors.astype(np.float64)
    for start in range(0, len(rows), _PASSAGES):
        block = np.asarray(rows[start : start + _PASSAGES], np.intp)
        together = len(block) and block[-1] - block[0] == len(block) - 1  # neighbours: a slice copies nothing
        these = passage_vectors[block[0] : block[-1] + 1] if together else passage_vectors[block]
        products = np.round(asked @ these.astype(np.float64).T, _DECIMALS)
        drop_pages(passage_vectors)
        yield block, products


def _best_of_blocks(
    vectors: Floats, passage_vectors: Floats, rows: Rows | range, by_id: Rows, depth: int | None, wanted: Sequence[Rows]
) -> list[tuple[Rows, Floats]]:
    """The best of ``rows`` for each vector. After each block of rows only what may still be among the best is kept.

    Args:
        wanted: for each vector the rows that are kept besides, ascending.
    """
    best: list[tuple[Rows, Floats]] = [(np.empty(0, np.intp), np.empty(0))] * len(vectors)
    besides: list[list[tuple[Rows, Floats]]] = [[] for _ in wanted]
    for block, products in _products(vectors, passage_vectors, rows):
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
            if len(wanted[turn]):
                among = np.flatnonzero(np.isin(block, wanted[turn], assume_unique=True))
                besides[turn].append((block[among], scores[among]))
    if depth is None:
        return [_in_order(found, scores, by_id) for found, scores in best]
    for turn, parts in enumerate(besides):
        if parts:
            found, scores = (np.concatenate(each) for each in zip(best[turn], *parts, strict=True))
            once = np.unique(found, return_index=True)[1]
            best[turn] = _in_order(found[once], scores[once], by_id)
    return best


def _in_order(rows: Rows, scores: Floats, by_id: Rows) -> tuple[Rows, Floats]:
    order = best_first(scores, by_id[rows], None)
    return rows[order], scores[order]


def _above(scores: Floats, by_id: Rows, ranked: Floats, ranked_by_id: Rows) -> Rows:
    """How many of the scores come before each of the ranked ones, which come best first; of equal scores the first id."""
    levels = ranked[::-1]
    below = np.searchsorted(levels, scores, side="left")  # how many of the ranked scores are less
    greater = np.cumsum(np.bincount(below, minlength=len(levels) + 1)[::-1])[:-1]
    tied = np.flatnonzero(levels[np.minimum(below, len(levels) - 1)] == scores)
    before = (scores[tied, None] == ranked) & (by_id[tied, None] < ranked_by_id)
    found: Rows = greater + before.sum(axis=0)
    return found
