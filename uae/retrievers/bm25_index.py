"""A BM25 index over texts: built by bm25s, kept in a folder, and read back without pickle.

BM25 as in Lucene (Kamphuis et al., ECIR 2020). Case and Unicode's variants of a letter are folded. Stop words and stemmer are
English; they leave words of other scripts as they are.
"""

import importlib.metadata
import logging
import unicodedata
from collections.abc import Iterable
from copy import copy
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt
import regex
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from uae.io.errors import ArtefactError
from uae.io.mapped import drop_pages
from uae.retrievers.bm25_scores import build_scores

# Lucene's own. Passages of one corpus are of about one length, so that b decides little.
PARAMETERS = {"method": "lucene", "k1": 1.2, "b": 0.75}
ANALYSER = "NFKC, case folded; words of any script; bm25s' English stop words; Snowball's English stemmer"
# Words of any script with their marks, which \w would cut at. Chinese and kana have no spaces between words: each character by
# itself, as Lucene's standard analyser has it.
_ALONE = r"[\p{Han}\p{Hiragana}]"
_WORD = regex.compile(rf"(?V1){_ALONE}|[[\p{{L}}\p{{M}}\p{{N}}]--{_ALONE}]+")
_STOP_WORDS = frozenset(STOPWORDS_EN)
_STEMMER = Stemmer.Stemmer("english")
_LIBRARIES = ("bm25s", "PyStemmer", "regex")
# Sums of the same numbers in another order differ in their last bits, and must tie.
_DECIMALS = 9
_LARGE = {"data": "data.csc.index.npy", "indices": "indices.csc.index.npy"}  # arrays with an entry for each word of each text
_SAVED = 1 << 20  # numbers that are written or looked at together
_FILES = ("data.csc.index.npy", "indices.csc.index.npy", "indptr.csc.index.npy", "vocab.index.json", "params.index.json")
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, whatever the program says

Scores = npt.NDArray[np.float64]


class Bm25Index:
    """Scores of all texts for a query. Several threads may ask."""

    def __init__(self, index: bm25s.BM25 | None, texts: int):
        """
        Args:
            index: None: no text holds a word.
            texts: how many there are.
        """
        self._index, self._texts = index, texts

    @classmethod
    def build(cls, texts: Iterable[str]) -> "Bm25Index":
        """Texts are read once, one by one. The index is built and lies in temporary files, which go with it.

        Raises:
            ArtefactError: the disk of temporary files (TMPDIR) cannot take it.
        """
        vocabulary: dict[str, int] = {}
        found = build_scores(map(terms, texts), vocabulary, PARAMETERS)
        if not vocabulary:  # bm25s takes no empty one
            return cls(None, found.texts)
        index = bm25s.BM25(**PARAMETERS, dtype="float64")
        # What ``bm25s.BM25.index`` sets.
        index.scores = {"data": found.data, "indices": found.indices, "indptr": found.indptr, "num_docs": found.texts}
        index.vocab_dict = vocabulary | {"": len(vocabulary)}
        index.unique_token_ids_set = set(index.vocab_dict.values())
        index.nonoccurrence_array = None
        return cls(index, found.texts)

    @classmethod
    def load(cls, folder: Path, texts: int, mapped: bool = False) -> "Bm25Index":
        """An index that ``save`` wrote.

        Args:
            mapped: its lists stay in their files, and what a query reads of them does not stay in memory; else they are in it.

        Raises:
            ArtefactError: the files are no such index, or it is one of more or fewer texts.
        """
        if not any((folder / name).exists() for name in _FILES):
            return cls(None, texts)
        try:
            index = bm25s.BM25.load(folder, show_progress=False, mmap=mapped)
            _check(index, texts)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(f"{folder} holds no BM25 index over {texts} texts ({error}): build it again") from None
        return cls(index, texts)

    def save(self, folder: Path) -> None:
        """Write the index; nothing where no text holds a word."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._index is None:
            return
        small = copy(self._index)
        small.scores = self._index.scores | {name: np.zeros(0) for name in _LARGE}
        small.save(folder, show_progress=False)
        for name, file in _LARGE.items():  # bm25s would have all pages of a mapped array in memory
            _save(self._index.scores[name], folder / file)

    def __len__(self) -> int:
        return self._texts

    @property
    def vocabulary(self) -> int:
        """How many distinct words it knows."""
        return 0 if self._index is None else len(self._index.scores["indptr"]) - 1

    def scores(self, query: str) -> Scores:
        """Of every text, 0 or more, shape (texts,). 0: it shares no word with the query."""
        asked = terms(query)
        if self._index is None or not asked:  # bm25s takes neither
            return np.zeros(self._texts)
        found: Scores = np.asarray(self._index.get_scores(asked), np.float64)
        for name in _LARGE:
            drop_pages(self._index.scores[name])
        return found.round(_DECIMALS, out=found)


def terms(text: str) -> list[str]:
    """The words of a text as the index has them."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return list(_STEMMER.stemWords([word for word in words if word not in _STOP_WORDS]))


def libraries() -> dict[str, str]:
    """What decides the words and the scores, beside this file: library -> version."""
    return {name: importlib.metadata.version(name) for name in _LIBRARIES}


def _save(array: npt.NDArray[Any], path: Path) -> None:
    """As ``np.save``, some of it at a time."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        for start in range(0, len(array), _SAVED):
            array[start : start + _SAVED].tofile(file)
            drop_pages(array)


def _check(index: bm25s.BM25, texts: int) -> None:
    """An index from elsewhere must not lead out of its arrays."""
    data, rows, ends = (index.scores[name] for name in ("data", "indices", "indptr"))
    if index.scores["num_docs"] != texts:
        raise ValueError(f"it is of {index.scores['num_docs']} texts")
    if ends[0] != 0 or ends[-1] != len(data) or len(rows) != len(data) or (np.diff(ends) < 0).any():
        raise ValueError("its lists do not fit together")
    for start in range(0, len(rows), _SAVED):
        some, values = rows[start : start + _SAVED], data[start : start + _SAVED]
        if some.min() < 0 or some.max() >= texts:
            raise ValueError("its lists name texts that there are not")
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError("a score is no number of 0 or more")
        drop_pages(rows)
        drop_pages(data)
    # bm25s gives the empty word a place behind the last list; no query holds it.
    places = [place for word, place in index.vocab_dict.items() if word]
    if any(not isinstance(place, int) or not 0 <= place < len(ends) - 1 for place in places):
        raise ValueError("a word has no list")
