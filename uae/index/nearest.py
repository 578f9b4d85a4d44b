"""Searching stored vectors, in a FAISS index of any kind or elsewhere (``uae.index.stored``): filters, ties, and enough results.

What an index finds is scored anew from the stored vectors, in double precision. So equal vectors get equal scores, and ties can
be seen and broken by a given order. A query gets the same scores alone and in a batch, for which FAISS takes different code
paths. And it gets the same scores from another index that holds the same vectors.
"""

from pathlib import Path

import faiss
import numpy as np

from uae.index.stored import Readable, Rows, Stored, Vectors
from uae.io.mapped import drop_pages_of

# A filter that allows this many rows is answered by comparing all of them; with more the graph or the lists are used.
# From benchmarks/index.py; see docs/decisions.md.
EXHAUSTIVE_ROWS = 20_000
_SPARE = 8  # more than asked for, so that ties at the end are seen
_TIE = 1e-6  # scores of unit vectors nearer than this may be equal: float32 sums of different order
# Reading one row out of codes or lists takes as long as passing over this many. From benchmarks/index.py.
_READ_BY_ROW = 500
_ROWS = 1 << 10  # of a mapped index that are read together: the system maps far more than each
_TURNS = 8  # in which all lists of a mapped index are gone through
_RANKED_BYTES = 8_000_000  # of stored vectors in double precision at once: ties can be as many as the index has rows
# A graph's queue is searched through at each step: its time grows with the square of efSearch.
MOST_BREADTH = 4096
_FILTERABLE_LISTS = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
_SCANS = (faiss.IndexFlat, faiss.IndexScalarQuantizer)


class InMemory:
    """A FAISS index with the parameters of its searches. Implements ``stored.Stored``."""

    def __init__(self, index: faiss.Index, parameters: str, mapped: Path | None = None):
        """
        Args:
            parameters: as ``ann.tune`` gives them, such as "nprobe=8"; "": the index's own.
            mapped: the file that it is read from, of which no search may have all in memory; None: it is there.
        """
        self._index, self._parameters, self._mapped = index, parameters, mapped

    @property
    def ntotal(self) -> int:
        return self._index.ntotal

    @property
    def d(self) -> int:
        return self._index.d

    @property
    def is_exhaustive(self) -> bool:
        return is_exhaustive(self._index)

    def exhaustive(self, vectors: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        return exhaustive(self._index, vectors, k, rows, self._mapped)

    def approximate(self, vectors: Vectors, k: int, rows: Rows | None) -> Rows:
        return approximate(self._index, vectors, k, rows, self._parameters)

    def reconstruct_batch(self, rows: Rows, /) -> Vectors:
        if self._mapped is None or len(rows) <= _ROWS:
            return self._index.reconstruct_batch(rows)
        read = np.empty((len(rows), self.d), np.float32)
        for start in range(0, len(rows), _ROWS):
            read[start : start + _ROWS] = self._index.reconstruct_batch(rows[start : start + _ROWS])
            drop_pages_of(self._mapped)
        return read


def search(
    index: faiss.Index,
    vectors: Vectors,
    k: int,
    rows: Rows | None,
    parameters: str,
    order: Rows | None = None,
) -> tuple[Vectors, Rows]:
    """``search_stored`` in a FAISS index.

    Args:
        parameters: as ``tune`` gives them, such as "nprobe=8"; "": the index's own.
    """
    return search_stored(InMemory(index, parameters), vectors, k, rows, order)


def search_stored(stored: Stored, vectors: Vectors, k: int, rows: Rows | None, order: Rows | None = None) -> tuple[Vectors, Rows]:
    """The ``k`` stored vectors of largest inner product with each query, best first.

    An exhaustive index (FAISS's Flat), and a filter that allows few rows, are searched exhaustively: then every tie at the k-th
    place is seen. Where an approximate search finds fewer than ``k`` (HNSW behind a filter, short lists of an IVF), the query is
    searched exhaustively after all.

    Args:
        vectors: queries, shape (n, dim), float32.
        rows: the distinct rows that may be found, int64; None: all.
        order: a rank of each of the stored rows, lower first among equal scores; None: the row numbers.

    Returns:
        Scores, float32, and rows, int64, both of shape (n, min(k, allowed rows)).
    """
    allowed = stored.ntotal if rows is None else len(rows)
    k = min(k, allowed)
    if k <= 0 or len(vectors) == 0:
        return np.empty((len(vectors), max(k, 0)), np.float32), np.empty((len(vectors), max(k, 0)), np.int64)
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    if stored.is_exhaustive or (rows is not None and allowed <= EXHAUSTIVE_ROWS):
        return _all_ties(stored, vectors, k, rows, allowed, order)
    scores, found = _ranked(stored, vectors, stored.approximate(vectors, min(k + _SPARE, allowed), rows), k, order)
    short = np.flatnonzero(found[:, -1] < 0)
    if len(short):
        scores[short], found[short] = _all_ties(stored, vectors[short], k, rows, allowed, order)
    return scores, found


def _all_ties(
    stored: Stored, vectors: Vectors, k: int, rows: Rows | None, allowed: int, order: Rows | None
) -> tuple[Vectors, Rows]:
    """Exhaustive search that goes on until every row with the k-th score has been seen."""
    scores, found = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
    tied, width = np.arange(len(vectors)), min(k + _SPARE, allowed)
    while len(tied):
        values, candidates = stored.exhaustive(vectors[tied], width, rows)
        seen = (values[:, -1] < values[:, k - 1] - _TIE) | (width == allowed)
        done = tied[seen]
        scores[done], found[done] = _ranked(stored, vectors[done], candidates[seen], k, order)
        tied, width = tied[~seen], min(2 * width, allowed)
    return scores, found


def _ranked(stored: Stored, vectors: Vectors, found: Rows, k: int, order: Rows | None) -> tuple[Vectors, Rows]:
    """The first ``k`` of the rows ``found``, shape (n, width), scored from what is stored. -1 stands for none and comes last."""
    pairs = max(1, _RANKED_BYTES // (8 * stored.d))
    queries, width = max(1, pairs // found.shape[1]), min(pairs, found.shape[1])
    scores, best = np.empty((len(found), k), np.float32), np.empty((len(found), k), np.int64)
    for start in range(0, len(found), queries):
        part = slice(start, start + queries)
        rows = np.maximum(found[part], 0)
        values = np.concatenate(
            [inner_products(stored, vectors[part], rows[:, first : first + width]) for first in range(0, rows.shape[1], width)],
            axis=1,
        )
        values[found[part] < 0] = -np.inf
        ranks = rows if order is None else np.asarray(order)[rows]
        places = np.lexsort((ranks, -values), axis=-1)[:, :k]
        scores[part], best[part] = np.take_along_axis(values, places, axis=1), np.take_along_axis(found[part], places, axis=1)
    return scores, best


def inner_products(readable: Readable, vectors: Vectors, rows: Rows) -> Vectors:
    """Inner products of each query with its ``rows``, shape (n, width), summed in double precision."""
    distinct, place = np.unique(rows, return_inverse=True)
    read = readable.reconstruct_batch(distinct).astype(np.float64)[place.reshape(rows.shape)]
    scores: Vectors = np.einsum("nd,nwd->nw", vectors.astype(np.float64), read).astype(np.float32)
    return scores


def approximate(index: faiss.Index, vectors: Vectors, k: int, rows: Rows | None, parameters: str) -> Rows:
    """Rows that the index's own method finds, shape (n, k), -1 where there are fewer.

    The effort (nprobe, efSearch) grows with the share of rows that a filter shuts out. Most rows that a list holds, or that a
    walk through the graph meets, do not count then.
    """
    if rows is None:
        return index.search(vectors, k, params=search_parameters(index, None, parameters))[1]
    if not _takes_selectors(index):
        return exhaustive(index, vectors, k, rows)[1]
    selector = _bitmap(rows, index.ntotal)
    effort = index.ntotal / len(rows)
    return index.search(vectors, k, params=search_parameters(index, selector, parameters, effort))[1]


def exhaustive(
    index: faiss.Index, vectors: Vectors, k: int, rows: Rows | None, mapped: Path | None = None
) -> tuple[Vectors, Rows]:
    """Scores and rows of the best ``k`` of all allowed rows (at least ``k``), whatever the kind of index.

    Args:
        mapped: the file that it is read from: inverted lists are gone through some at a time, and their pages given back.
    """
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexHNSW):
        inner = faiss.downcast_index(inner.storage)
    if isinstance(inner, faiss.IndexFlat):  # with an array it reads these rows alone, where they lie
        return inner.search(vectors, k, params=None if rows is None else _selecting(faiss.IDSelectorArray(rows)))
    if rows is None or len(rows) * _READ_BY_ROW > index.ntotal:
        selector = None if rows is None else _bitmap(rows, index.ntotal)
        if isinstance(inner, _SCANS):
            return inner.search(vectors, k, params=None if selector is None else _selecting(selector))
        if isinstance(inner, _FILTERABLE_LISTS) and mapped is not None:
            return _lists_in_turn(inner, vectors, k, selector, mapped)
        if isinstance(inner, _FILTERABLE_LISTS):
            everything = f"nprobe={inner.nlist}"
            return inner.search(vectors, k, params=search_parameters(inner, selector, everything))
    # Few rows, or a kind that takes no filter: their vectors, decoded.
    rows = np.arange(index.ntotal) if rows is None else rows
    scores, places = faiss.knn(vectors, index.reconstruct_batch(rows), k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, rows[places]


def _lists_in_turn(
    index: faiss.IndexIVF, vectors: Vectors, k: int, selector: faiss.IDSelector | None, mapped: Path
) -> tuple[Vectors, Rows]:
    """What a search of all lists at once finds."""
    near, lists = index.quantizer.search(vectors, index.nlist)
    scores, found = np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
    step = -(-index.nlist // _TURNS)
    for start in range(0, index.nlist, step):
        some, their = (np.ascontiguousarray(each[:, start : start + step]) for each in (lists, near))
        how = faiss.SearchParametersIVF(nprobe=some.shape[1], sel=selector)  # type: ignore[call-arg]  # as in _selecting
        values, rows = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        pointers = map(faiss.swig_ptr, (some, their, values, rows))
        whole = len(vectors), faiss.swig_ptr(vectors), k, *pointers, False, how
        index.search_preassigned_c(*whole)  # type: ignore[attr-defined]  # the wrapper that is declared takes no filter
        drop_pages_of(mapped)
        scores, found = np.concatenate([scores, values], axis=1), np.concatenate([found, rows], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        scores, found = np.take_along_axis(scores, best, axis=1), np.take_along_axis(found, best, axis=1)
    return scores, found


def _selecting(selector: faiss.IDSelector) -> faiss.SearchParameters:
    return faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # keywords, which FAISS adds when it is imported


def _bitmap(rows: Rows, n: int) -> faiss.IDSelectorBitmap:
    bits = np.zeros(n, dtype=bool)
    bits[rows] = True
    return faiss.IDSelectorBitmap(np.packbits(bits, bitorder="little"))  # type: ignore[arg-type,call-arg]  # as above


def is_exhaustive(index: faiss.Index) -> bool:
    """Whether the index compares a query with everything that it holds."""
    return isinstance(faiss.downcast_index(index), _SCANS)


def search_parameters(
    index: faiss.Index, selector: faiss.IDSelector | None, parameters: str, effort: float = 1.0
) -> faiss.SearchParameters | None:
    """FAISS's parameters for one search; the index itself is not changed, so that several threads may search it.

    Args:
        selector: the rows that may be found; None: all. Only for kinds of index that take one.
        parameters: as ``tune`` gives them; "": the index's own.
        effort: what nprobe or efSearch is multiplied by.

    Returns:
        None where there is nothing to say.
    """
    inner = faiss.downcast_index(index)
    chosen = dict(part.split("=") for part in parameters.split(",") if part)
    selected = {} if selector is None else {"sel": selector}
    if isinstance(inner, faiss.IndexPreTransform):
        deeper = search_parameters(inner.index, selector, parameters, effort)
        return None if deeper is None else faiss.SearchParametersPreTransform(index_params=deeper)  # type: ignore[call-arg]
    if isinstance(inner, faiss.IndexRefine):
        coarse = search_parameters(inner.base_index, selector, parameters, effort)
        return faiss.IndexRefineSearchParameters(k_factor=inner.k_factor, base_index_params=coarse)  # type: ignore[call-arg]
    if isinstance(inner, faiss.IndexIVF):
        nprobe = int(chosen.get("nprobe", inner.nprobe)) * effort
        return faiss.SearchParametersIVF(nprobe=min(int(np.ceil(nprobe)), inner.nlist), **selected)  # type: ignore[call-arg]
    if isinstance(inner, faiss.IndexHNSW):
        breadth = int(chosen.get("efSearch", inner.hnsw.efSearch)) * effort
        return faiss.SearchParametersHNSW(  # type: ignore[attr-defined,no-any-return]  # not in FAISS's stubs
            efSearch=min(int(np.ceil(breadth)), MOST_BREADTH), **selected
        )
    return faiss.SearchParameters(**selected) if selected else None


def _takes_selectors(index: faiss.Index) -> bool:
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        return _takes_selectors(inner.index)
    return isinstance(inner, (faiss.IndexHNSW, *_SCANS, *_FILTERABLE_LISTS))
