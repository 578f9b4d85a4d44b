"""BM25's scores of all texts, built through files: memory does not grow with the number of texts or of words.

bm25s builds the same arrays in memory: 28 bytes for each different word of each text, and all words at once as Python objects.
The formula is bm25s' own, and so are the arrays, to the bit: ``tests/retrievers/test_bm25_scores.py`` compares them.

Words of a part of the texts are counted together. The counts go into one file for each range of words. Each range is then put
in order by itself: a bucket sort on disk, in time that grows with the number of words.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from bm25s.scoring import _select_idf_scorer, _select_tfc_scorer

from uae.io.files import disk_error

_WORDS_AT_ONCE = 1 << 20  # of texts, that are counted together
_ENTRIES = 1 << 20  # of the arrays, that are put in order together
_SCORED = 1 << 17  # of them, that are scored together
_COUNT = np.dtype([("word", np.int32), ("text", np.int32), ("times", np.int32)])

Numbers = npt.NDArray[Any]


class Scores(NamedTuple):
    """A sparse matrix by columns: of each word, the texts that hold it, ascending, and their scores. It lies in mapped files."""

    data: npt.NDArray[np.float64]  # shape (entries,)
    indices: npt.NDArray[np.int32]  # shape (entries,): rows of texts
    indptr: npt.NDArray[np.int64]  # shape (words + 1,): where each word's entries begin
    texts: int


def build_scores(texts: Iterable[Sequence[str]], vocabulary: dict[str, int], parameters: Mapping[str, Any]) -> Scores:
    """Count and score the words of texts, which are read once, one by one.

    Args:
        texts: the words of each.
        vocabulary: word -> its number, in the order in which the words first occur; it is filled. Nothing else is kept of a word.
        parameters: ``method``, ``k1`` and ``b``, as bm25s takes them.

    Raises:
        ArtefactError: the disk of temporary files (TMPDIR) cannot take them: 24 bytes for each different word of each text.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="uae-bm25-") as folder:
            return _built(Path(folder), texts, vocabulary, parameters)
    except OSError as error:
        raise disk_error(Path(tempfile.gettempdir()), error) from error


def _built(folder: Path, texts: Iterable[Sequence[str]], vocabulary: dict[str, int], parameters: Mapping[str, Any]) -> Scores:
    lengths = array("i")
    holders = np.zeros(0, np.int64)  # of each word: how many texts hold it
    with open(folder / "counts", "wb") as counts:
        for first, ends, words in _parts(texts, vocabulary, lengths):
            part = _counted(first, ends, words)
            found = np.bincount(part["word"], minlength=len(vocabulary))
            found[: len(holders)] += holders
            holders = found
            part.tofile(counts)
    n_texts = len(lengths)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(holders)])
    if not indptr[-1]:
        return Scores(np.zeros(0), np.zeros(0, np.int32), indptr, n_texts)
    score = _Formula(np.frombuffer(lengths, np.int32), holders, parameters)
    with open(folder / "data", "wb") as data, open(folder / "indices", "wb") as indices:
        for part in _in_order(folder, indptr):
            for start in range(0, len(part), _SCORED):
                score(part[start : start + _SCORED]).tofile(data)
            np.ascontiguousarray(part["text"]).tofile(indices)
    return Scores(_mapped(folder / "data", np.float64), _mapped(folder / "indices", np.int32), indptr, n_texts)


def _parts(
    texts: Iterable[Sequence[str]], vocabulary: dict[str, int], lengths: "array[int]"
) -> Iterator[tuple[int, list[int], "array[int]"]]:
    """Some texts at a time: the number of the first, where each one's words end, and the words' numbers."""
    first, ends, numbers = 0, list[int](), array("i")
    for words in texts:
        numbers.extend(vocabulary.setdefault(word, len(vocabulary)) for word in words)
        ends.append(len(numbers))
        lengths.append(len(words))
        if len(numbers) >= _WORDS_AT_ONCE:
            yield first, ends, numbers
            first, ends, numbers = len(lengths), [], array("i")
    yield first, ends, numbers


def _counted(first: int, ends: list[int], words: "array[int]") -> Numbers:
    """How often each text holds each of its words: by text, then by word, shape (entries,) of ``_COUNT``."""
    lengths = np.diff(np.array([0, *ends], np.int64)).astype(np.int64)
    rows = np.repeat(np.arange(first, first + len(ends), dtype=np.int64), lengths)
    keys, times = np.unique(rows << 32 | np.frombuffer(words, np.int32), return_counts=True)
    part = np.empty(len(keys), _COUNT)
    part["word"], part["text"], part["times"] = keys & 0xFFFFFFFF, keys >> 32, times
    return part


def _in_order(folder: Path, indptr: Numbers) -> Iterator[Numbers]:
    """All counts by word, then by text, a range of words at a time."""
    bucket = indptr[:-1] // _ENTRIES  # of each word; one word's entries are never parted
    buckets = np.unique(bucket)
    bucket = np.searchsorted(buckets, bucket)
    for part in _read(folder / "counts"):
        of = bucket[part["word"]]
        order = np.argsort(of, kind="stable")
        edges = np.searchsorted(of[order], np.arange(len(buckets) + 1))
        for number in np.flatnonzero(np.diff(edges)):
            with open(folder / f"bucket-{number}", "ab") as file:
                part[order[edges[number] : edges[number + 1]]].tofile(file)
    (folder / "counts").unlink()
    for path in [folder / f"bucket-{number}" for number in range(len(buckets))]:
        part = np.fromfile(path, _COUNT)
        path.unlink()
        yield part[np.argsort(part["word"], kind="stable")]  # texts came in their order


def _read(path: Path) -> Iterator[Numbers]:
    with open(path, "rb") as file:
        while len(part := np.fromfile(file, _COUNT, _WORDS_AT_ONCE)):
            yield part


class _Formula:
    """bm25s' own terms, over arrays."""

    def __init__(self, lengths: Numbers, holders: Numbers, parameters: Mapping[str, Any]):
        self._lengths, self._parameters = lengths, parameters
        self._average = lengths.sum(dtype=np.int64) / np.float64(len(lengths))
        self._tfc = _select_tfc_scorer(parameters["method"])
        idf = _select_idf_scorer(parameters["method"])
        different, places = np.unique(holders, return_inverse=True)
        self._idf = np.array([idf(int(each), N=len(lengths)) if each else 0.0 for each in different])[places]

    def __call__(self, part: Numbers) -> npt.NDArray[np.float64]:
        tfc = self._tfc(
            tf_array=part["times"].astype(np.float64), l_d=self._lengths[part["text"]], l_avg=self._average,
            k1=self._parameters["k1"], b=self._parameters["b"], delta=None,
        )  # fmt: skip
        found: npt.NDArray[np.float64] = self._idf[part["word"]] * tfc
        return found


def _mapped(path: Path, kind: Any) -> Numbers:
    """The file may be removed then: it goes with the array."""
    return np.asarray(np.memmap(path, dtype=kind, mode="r"))
