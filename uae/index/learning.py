"""What inverted lists learn from a sample of vectors, which is the most that is in memory of them.

``faiss.IndexIVF.train`` copies what it draws of the sample for the codes, and keeps what is left of each vector beside that. Here
what is drawn is read anew, and what is left takes its place. So the index learns the same, to the bit:
``tests/index/test_learning.py`` compares them.
"""

import faiss
import numpy as np

from uae.index.stored import Rows, Vectors
from uae.io.mapped import drop_pages

_ENCODER_SEED = 1234  # of ``faiss.fvecs_maybe_subsample``
_AT_ONCE = 1 << 12  # vectors that are read together


def learn_lists(index: faiss.IndexIVF, vectors: Vectors, rows: Rows) -> None:
    """Train an index of inverted lists that holds nothing yet, as ``index.train(vectors[rows])`` does.

    Args:
        vectors: finite, shape (n, dim). They may lie in a mapped file.
        rows: ascending. FAISS draws from them what the lists' centres are learnt from.

    Raises:
        RuntimeError: FAISS cannot train it, as with fewer vectors than lists.
    """
    if index.quantizer_trains_alone != "\0":  # a char; FAISS learns the centres in another way then
        index.train(drawn(vectors, rows))
        return
    sample = drawn(vectors, rows)
    index.train_q1(  # type: ignore[attr-defined]  # not in FAISS's stubs
        len(sample), faiss.swig_ptr(sample), False, index.metric_type
    )
    del sample  # before the next one is read
    if (most := index.train_encoder_num_vectors()) > 0:
        _learn_codes(index, drawn(vectors, rows if len(rows) <= most else rows[_shuffled(len(rows))[:most]]))
    index.is_trained = True


def _learn_codes(index: faiss.IndexIVF, sample: Vectors) -> None:
    lists = None
    if index.by_residual:
        lists = index.quantizer.assign(sample, 1)[:, 0]
        for start in range(0, len(sample), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            sample[part] -= index.quantizer.reconstruct_batch(lists[part])
    index.train_encoder(len(sample), faiss.swig_ptr(sample), None if lists is None else faiss.swig_ptr(lists))


def _shuffled(n: int) -> Rows:
    """The order in which FAISS draws."""
    found = np.empty(n, np.int32)
    faiss.rand_perm(faiss.swig_ptr(found), n, _ENCODER_SEED)  # type: ignore[attr-defined]  # as above
    return found.astype(np.int64)


def drawn(vectors: Vectors, rows: Rows) -> Vectors:
    """A copy of some vectors, float32, shape (rows, dim). A file is read from its beginning to its end, whatever their order."""
    found = np.empty((len(rows), vectors.shape[1]), np.float32)
    order = np.argsort(rows, kind="stable")
    for start in range(0, len(rows), _AT_ONCE):
        part = order[start : start + _AT_ONCE]
        found[part] = vectors[rows[part]]
        drop_pages(vectors)
    return found
