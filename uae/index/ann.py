"""The kind of FAISS index: chosen by the corpus's size and the recall wanted, built the same every time, tuned on queries."""

import importlib.metadata
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from uae.index.learning import drawn, learn_lists
from uae.index.lists import LISTED, write_lists
from uae.index.nearest import MOST_BREADTH, search, search_parameters
from uae.index.stored import Rows, Stored, Vectors
from uae.io.errors import ConfigError
from uae.io.files import disk_errors
from uae.io.mapped import drop_pages, drop_pages_of

__all__ = [
    "Plan", "Reconstructed", "Tuned", "build_index", "built_with", "dtype", "index_recall", "plan", "plan_factory", "search",
    "search_parameters", "tune", "write_built",
]  # fmt: skip

# Up to this many stored numbers (rows times dimension) Flat is fast enough, up to that many HNSW's single-threaded build is
# short enough. From benchmarks/index.py; see docs/decisions.md.
FLAT_NUMBERS = 10_000_000
HNSW_NUMBERS = 80_000_000
SQ8_RECALL = 0.97  # recall@10 that 8-bit codes reach at any effort
OFTEN_CHANGED = 0.1  # of the vectors, from build to build: from there on no graph is built for so many numbers that it takes long
_LINKS = 272  # bytes of a vector's edges in HNSW32: 64 on the lowest level, and its offsets
_ID = 16  # bytes of a vector's number in a list, and of its place
REFINED = 8  # as many times k are compared by the coarse codes before finer ones choose
_ROWS = 1 << 14  # of vectors that are read back from an index together
POINTS_PER_LIST = 64  # that k-means learns a list's centre from; FAISS asks for 39 to 256, and its time grows with them
_SEARCHED = 32  # queries that are asked together: what they read of a mapped index, or of mapped vectors, is in memory meanwhile
TIE = 1e-6  # a row whose score is this near the k-th best is as good
_DTYPES = {
    faiss.ScalarQuantizer.QT_8bit: "int8",
    faiss.ScalarQuantizer.QT_8bit_direct: "int8",
    faiss.ScalarQuantizer.QT_8bit_uniform: "int8",
    faiss.ScalarQuantizer.QT_fp16: "float16",
    faiss.ScalarQuantizer.QT_bf16: "bfloat16",
    faiss.ScalarQuantizer.QT_6bit: "int6",
    faiss.ScalarQuantizer.QT_4bit: "int4",
    faiss.ScalarQuantizer.QT_4bit_uniform: "int4",
}


class Tuned(NamedTuple):
    parameters: str  # such as "nprobe=8"; "" where the kind of index has none
    recall: float
    reached: bool  # whether recall is what was asked for; if not, it is the best that was found


class Plan(NamedTuple):
    """What kind of index, and why."""

    factory: str  # for ``faiss.index_factory``
    bytes: int  # that it holds in memory, about; of a refined kind without the codes that refine, which are read by the row
    why: str  # for a person


def plan(n: int, dimension: int, recall_target: float, memory: int | None = None, changed_share: float = 0.0) -> Plan:
    """The kind of index for ``n`` vectors: the fastest that reaches the recall, fits the memory and is built soon enough.

    Flat, while a search through everything is cheap beside encoding the query. Then HNSW, the fastest at a given recall.
    Inverted lists, where one thread would build a graph for too long, or too often; with 8-bit codes if ``recall_target`` allows
    that. Product codes refined by 8-bit ones, where those do not fit: the 8-bit ones are read by the row, and may stay on disk.

    Args:
        memory: bytes that the index may hold; None: any number.
        changed_share: of the vectors, that differ from one build to the next. An index is built anew each time.
    """
    lists = list_count(n)
    fast = "it is the fastest at a given recall"
    kinds = [("Flat", 4 * dimension, "a search through everything is cheap at this size")] * (n * dimension <= FLAT_NUMBERS)
    kinds += [("HNSW32", 4 * dimension + _LINKS, fast)] * (n * dimension <= HNSW_NUMBERS and changed_share < OFTEN_CHANGED)
    if recall_target > SQ8_RECALL:
        kinds += [(f"IVF{lists},Flat", 4 * dimension + _ID, f"8-bit codes reach a recall@10 of {SQ8_RECALL} and no more")]
    kinds += [(f"IVF{lists},SQ8", dimension + _ID, "lists are built soon, and 8-bit codes take a quarter of the memory")]
    if dimension % 4 == 0:
        refined = f"IVF{lists},PQ{dimension // 4},Refine(SQ8)"
        kinds += [(refined, dimension // 4 + _ID, "what is compared is product codes; 8-bit ones, read by the row, refine")]
    fitting = [at for at, (_, each, _) in enumerate(kinds) if memory is None or n * each <= memory]
    chosen = fitting[0] if fitting else len(kinds) - 1
    factory, each, why = kinds[chosen]
    left_out = [f"{other} takes {n * bytes_each / 1e6:.0f} MB" for other, bytes_each, _ in kinds[:chosen]]
    said = [f"{n} vectors of {dimension} numbers: {factory}, because {why}"]
    if changed_share >= OFTEN_CHANGED and n * dimension > FLAT_NUMBERS:
        said += [f"{changed_share:.1%} change from build to build, and one thread builds a graph for long"]
    if left_out and memory is not None:
        said += [f"of {memory / 1e6:.0f} MB allowed, {', '.join(left_out)}"]
    if memory is not None and n * each > memory:
        said += [f"nothing is smaller: it takes {n * each / 1e6:.0f} MB"]
    return Plan(factory, n * each, "; ".join(said))


def plan_factory(factory: str, n: int, dimension: int, recall_target: float, memory: int | None = None) -> str:
    """The FAISS factory string for ``n`` vectors: "auto" is decided by ``plan``, anything else stays as it is."""
    return factory if factory != "auto" else plan(n, dimension, recall_target, memory).factory


def list_count(n: int) -> int:
    """Inverted lists for ``n`` vectors: the power of two next to 2 sqrt(n), where finding lists takes as long as reading them."""
    return 1 << round(math.log2(2 * math.sqrt(n)))


def build_index(vectors: Vectors, factory: str) -> faiss.Index:
    """A FAISS index of unit vectors, shape (n, dim), by ``faiss.index_factory``; the same bytes from the same vectors.

    A release's fingerprint and DVC's cache rest on the bytes. K-means has a fixed seed, and gives the same with any number of
    threads. One thread builds a graph, because with several threads its edges depend on which comes first. One thread also
    builds what begins with a rotation (PCA, OPQ): its last digits depend on the number of threads.

    Raises:
        ConfigError: FAISS does not know ``factory``, or cannot build it over so few vectors. Or the index would not give back
            its vectors, which the checks of a release and filters need.
    """
    with _told(factory, len(vectors)):
        index = _learnt(vectors, factory)
        _fill(index, vectors, factory)
    return index


def write_built(vectors: Vectors, factory: str, path: Path) -> None:
    """Write what ``build_index`` would give. Of inverted lists neither vectors nor codes are in memory.

    Args:
        vectors: shape (n, dim). They may lie in a mapped file.

    Raises:
        ConfigError: as ``build_index``.
        ArtefactError: the disk cannot take it.
    """
    with _told(factory, len(vectors)):
        index = _learnt(vectors, factory)
        lists = index if isinstance(index, faiss.IndexIVF) and type(index) in LISTED else None
        if lists is None:
            _fill(index, vectors, factory)
    if lists is not None:
        write_lists(lists, vectors, path)
        return
    with disk_errors(path):
        faiss.write_index(index, str(path))


def _learnt(vectors: Vectors, factory: str) -> faiss.Index:
    """An index without vectors that has learnt from these."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    lists = faiss.try_extract_index_ivf(index)
    rows = np.arange(len(vectors))
    if lists is not None:
        lists.cp.max_points_per_centroid = POINTS_PER_LIST
        # Codes may learn from more than few lists do: ranges that a sample does not show are cut off.
        rows = _sample(len(vectors), max(lists.nlist * POINTS_PER_LIST, lists.train_encoder_num_vectors()))
    if isinstance(index, faiss.IndexRefine):
        index.k_factor = REFINED
    with _threads(_threads_for(index, factory)):
        if isinstance(index, faiss.IndexIVF) and type(index) in LISTED:
            learn_lists(index, vectors, rows)
        else:
            index.train(vectors if len(rows) == len(vectors) else drawn(vectors, rows))
    return index


def _sample(n: int, most: int) -> Rows:
    """Up to ``most`` of ``n`` rows, by chance, in their order.

    FAISS would draw as many, and read them all over the file. Each read brings a neighbourhood that is not needed, and soon
    forgotten where memory is short. Over ten million vectors in 8 GB it had read 300 GB and was not done.
    """
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def _fill(index: faiss.Index, vectors: Vectors, factory: str) -> None:
    with _threads(_threads_for(index, factory)):
        index.add(vectors)
    lists = faiss.try_extract_index_ivf(index)
    if lists is not None:
        lists.make_direct_map()
    if len(vectors):
        index.reconstruct(0)


def _threads_for(index: faiss.Index, factory: str) -> int | None:
    """One, where bytes depend on how many there are; None: any number."""
    return 1 if "HNSW" in factory or "NSG" in factory or isinstance(index, faiss.IndexPreTransform) else None


@contextmanager
def _told(factory: str, vectors: int) -> Iterator[None]:
    """FAISS's errors as one of params.yaml."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"index.factory: FAISS cannot build {factory!r} over {vectors} vectors: {reason}") from None


class Reconstructed:
    """What an index, or a table, gives back of its vectors, read when it is asked for. It stands where an array of them would."""

    def __init__(self, index: faiss.Index | Stored, mapped: Path | None = None):
        """
        Args:
            mapped: the file that the index is read from, whose pages are given back after each block; None: it is in memory.
        """
        self._index, self._mapped = index, mapped
        self.shape = (index.ntotal, index.d)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Rows) -> Vectors:
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        read: Vectors = self._index.reconstruct_batch(np.ascontiguousarray(wanted.reshape(-1), dtype=np.int64))
        if self._mapped is not None:
            drop_pages_of(self._mapped)
        return read.reshape(*wanted.shape, self.shape[1])


def built_with(factory: str) -> dict[str, str]:
    """What determines an index's bytes besides vectors and ``factory``. If one of these differs, the index differs."""
    settings = {"faiss-cpu": importlib.metadata.version("faiss-cpu")}
    if "Refine" in factory or "RFlat" in factory:
        settings["refined"] = str(REFINED)
    return settings | {"points_per_list": f"{POINTS_PER_LIST}, in order"} if "IVF" in factory else settings


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def dtype(index: faiss.Index) -> str:
    """How a number is stored: float32, float16, int8, pq and so on."""
    inner = faiss.downcast_index(index)
    if isinstance(inner, (faiss.IndexPreTransform, faiss.IndexRefine)):
        return dtype(inner.index if isinstance(inner, faiss.IndexPreTransform) else inner.base_index)
    if isinstance(inner, faiss.IndexHNSW):
        return dtype(inner.storage)
    if isinstance(inner, (faiss.IndexFlat, faiss.IndexIVFFlat)):
        return "float32"
    if isinstance(inner, (faiss.IndexScalarQuantizer, faiss.IndexIVFScalarQuantizer)):
        return _DTYPES.get(inner.sq.qtype, type(inner).__name__)
    return "pq" if hasattr(inner, "pq") else type(inner).__name__


def index_recall(
    index: faiss.Index,
    vectors: Vectors | Reconstructed,
    queries: Vectors,
    k: int,
    parameters: str,
    mapped: Path | None = None,
) -> float:
    """Recall@k against exact search: the mean share of the first ``k`` that are as near as the exact ``k``.

    A row counts if its exact score is at least that of the exact k-th row. So any of several equal passages is right.

    Args:
        vectors: what was indexed, unit vectors of shape (n, dim), in the index's order.
        queries: unit vectors, shape (m, dim).
        mapped: the file that the index is read from; None: it is in memory.
    """
    return recall_above(index, vectors, queries, kth_scores(vectors, queries, k), k, parameters, mapped)


def kth_scores(vectors: Vectors | Reconstructed, queries: Vectors, k: int) -> Vectors:
    """Each query's exact k-th best score (the worst, where there are fewer than ``k`` vectors), shape (m,).

    Vectors are gone through block by block, and of each block the best are kept.
    """
    best = np.empty((len(queries), 0), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS):
        block = np.ascontiguousarray(vectors[start : start + _ROWS])
        scores = faiss.knn(queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT)[0]
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :k]
        drop_pages(block)
    return best[:, -1]


def recall_above(
    index: faiss.Index,
    vectors: Vectors | Reconstructed,
    queries: Vectors,
    kth: Vectors,
    k: int,
    parameters: str,
    mapped: Path | None = None,
) -> float:
    """``index_recall``, with the exact ``kth_scores`` at hand: they are what takes the time."""
    reached = []
    for start in range(0, len(queries), _SEARCHED):
        part = slice(start, start + _SEARCHED)
        _, found = search(index, queries[part], k, None, parameters)
        scores = np.einsum("nd,nkd->nk", queries[part], vectors[found])
        reached.append(scores >= kth[part, None] - TIE)
        if isinstance(vectors, np.ndarray):
            drop_pages(vectors)
        if mapped is not None:
            drop_pages_of(mapped)
    return float(np.concatenate(reached).mean())


def tune(index: faiss.Index, vectors: Vectors | Reconstructed, queries: Vectors, k: int, recall_target: float) -> Tuned:
    """The smallest nprobe (IVF) or efSearch (HNSW) whose ``index_recall`` on the queries is at least ``recall_target``.

    The effort is doubled until the target is reached, then halved in between. Where it never is, because the codes are too
    coarse, the smallest effort with the best recall is taken. Other kinds of index have nothing to tune.

    Raises:
        ConfigError: there is no query to tune with.
    """
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexFlat):
        return Tuned("", 1.0, True)
    if len(queries) == 0:
        raise ConfigError("index.factory: no queries to measure the index's recall with; choose Flat, which needs none")
    kth = kth_scores(vectors, queries, k)
    name, least, most = _effort(inner, k)

    def recall(value: int | None) -> float:
        return recall_above(index, vectors, queries, kth, k, "" if value is None else f"{name}={value}")

    if name is None:
        found = recall(None)
        return Tuned("", found, found >= recall_target)
    value, found = smallest(recall, least, most, recall_target)
    return Tuned(f"{name}={value}", found, found >= recall_target)


def _effort(index: faiss.Index, k: int) -> tuple[str | None, int, int]:
    """Name, least and largest value of what trades recall for time."""
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexPreTransform):
        return _effort(inner.index, k)
    if isinstance(inner, faiss.IndexRefine):
        return _effort(inner.base_index, k)
    if isinstance(inner, faiss.IndexIVF):
        return "nprobe", 1, inner.nlist
    if isinstance(inner, faiss.IndexHNSW):
        return "efSearch", k, max(k, min(inner.ntotal, MOST_BREADTH))
    return None, 0, 0


def smallest(recall: Callable[[int], float], least: int, most: int, target: float) -> tuple[int, float]:
    """The smallest value from ``least`` to ``most`` with the target's recall, which grows with the value, and that recall."""
    seen = {least: recall(least)}
    low, high = least, least
    while seen[high] < target and high < most:
        low, high = high, min(2 * high, most)
        seen[high] = recall(high)
    if seen[high] < target:
        best = max(seen.values())
        value = min(value for value, found in seen.items() if found == best)
        return value, best
    while high - low > 1:
        middle = (low + high) // 2
        seen[middle] = recall(middle)
        low, high = (low, middle) if seen[middle] >= target else (middle, high)
    return high, seen[high]
