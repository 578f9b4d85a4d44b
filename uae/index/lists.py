"""Writing inverted lists straight into an index's file: their codes are never in memory, however many vectors there are.

FAISS collects lists in memory, where they take up to twice their size, and writes them then. Its own lists on disk lie in a
second file. Here each code is put where FAISS's file would have it. So the file has the bytes of ``faiss.write_index``:
``tests/index/test_lists.py`` compares them.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from uae.index.stored import Rows, Vectors
from uae.io.files import disk_errors
from uae.io.mapped import drop_pages

# The kinds of index whose lists end their file, and whose codes are made by ``encode_vectors`` alone.
LISTED = (faiss.IndexIVFFlat, faiss.IndexIVFScalarQuantizer, faiss.IndexIVFPQ)
_ROWS = 1 << 16  # whose lists are found together
_FEWEST = 1 << 12  # of them: FAISS multiplies by as many rows at once, and fewer get other last digits
_CODES = 1 << 10  # of vectors that are put into the file together
_DROPPED = 1 << 14  # of vectors: after so many the file's pages are given back, which are of nearly all lists by then
_ID = np.dtype("<i8")


def write_lists(index: faiss.IndexIVF, vectors: Vectors, path: Path) -> None:
    """Write ``index`` with these vectors in it. It has learnt, is of a kind in ``LISTED``, and has no vector yet.

    In memory are 40 bytes of each vector, and 8 of them afterwards.

    Args:
        vectors: shape (n, dim). They may lie in a mapped file.

    Raises:
        ArtefactError: the disk cannot take it.
    """
    lists = np.empty(len(vectors), np.int32)
    for start, end in _blocks(len(vectors)):
        lists[start:end] = index.quantizer.assign(np.ascontiguousarray(vectors[start:end]), 1)[:, 0]
        drop_pages(vectors)
    sizes = np.bincount(lists, minlength=index.nlist)
    ranks = _ranks(lists, sizes)
    index.ntotal = len(vectors)
    index.direct_map.type = faiss.DirectMap.Array  # type: ignore[attr-defined]  # not in FAISS's stubs
    faiss.copy_array_to_vector(lists.astype(np.int64) << 32 | ranks, index.direct_map.array)
    with disk_errors(path):
        faiss.write_index(index, str(path))
        with open(path, "r+b") as file:
            begin = _announce(file, index, sizes)
            each = index.code_size + _ID.itemsize
            os.posix_fallocate(file.fileno(), begin, each * len(vectors))
            found = np.memmap(file, np.uint8, "r+", begin, (each * len(vectors),))
            _put(index, vectors, found, lists, ranks, sizes)
            found.flush()
            drop_pages(found)


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Rows by the block, all but the last of one size, and none of few."""
    start = 0
    while start < n:
        end = start + _ROWS if n - start - _ROWS >= _FEWEST else n
        yield start, end
        start = end


def _ranks(lists: npt.NDArray[np.int32], sizes: Rows) -> Rows:
    """Each vector's place in its list."""
    order = np.argsort(lists, kind="stable")
    ranks = np.empty(len(lists), np.int64)
    ranks[order] = np.arange(len(lists))
    ranks -= (np.cumsum(sizes) - sizes)[lists]
    return ranks


def _announce(file, index: faiss.IndexIVF, sizes: Rows) -> int:  # type: ignore[no-untyped-def]
    """Put the lists' sizes where FAISS said that there are none. Returns where their content begins.

    Raises:
        RuntimeError: this FAISS writes lists in another way.
    """
    kind = struct.pack("<4sQQ", b"ilar", index.nlist, index.code_size)
    nothing = kind + struct.pack("<4sQ", b"sprs", 0)
    file.seek(-len(nothing), os.SEEK_END)
    if file.read() != nothing:
        raise RuntimeError(f"FAISS {faiss.__version__} writes inverted lists in a way that is not known here")
    file.seek(-len(nothing), os.SEEK_END)
    file.truncate()
    file.write(kind)
    filled = np.flatnonzero(sizes)
    if len(filled) > index.nlist // 2:
        said, name = sizes, b"full"
    else:
        said, name = np.stack([filled, sizes[filled]], axis=1).reshape(-1), b"sprs"
    file.write(struct.pack("<4sQ", name, len(said)) + said.astype(_ID).tobytes())
    return int(file.tell())


def _put(
    index: faiss.IndexIVF, vectors: Vectors, found: npt.NDArray[np.uint8], lists: npt.NDArray[np.int32], ranks: Rows, sizes: Rows
) -> None:
    """Each code and each row's number to its place: a list's codes come first, then its numbers."""
    width = index.code_size
    begins = (np.cumsum(sizes) - sizes) * (width + _ID.itemsize)
    for start in range(0, len(vectors), _CODES):
        part = np.ascontiguousarray(vectors[start : start + _CODES])
        own, rank = lists[start : start + _CODES].astype(np.int64), ranks[start : start + _CODES]
        codes = np.empty((len(part), width), np.uint8)
        index.encode_vectors(len(part), faiss.swig_ptr(part), faiss.swig_ptr(own), faiss.swig_ptr(codes))
        found[(begins[own] + rank * width)[:, None] + np.arange(width)] = codes
        numbers = np.arange(start, start + len(part)).astype(_ID).view(np.uint8).reshape(-1, _ID.itemsize)
        found[(begins[own] + sizes[own] * width + rank * _ID.itemsize)[:, None] + np.arange(_ID.itemsize)] = numbers
        if not start % _DROPPED:
            drop_pages(vectors)
            drop_pages(found)
