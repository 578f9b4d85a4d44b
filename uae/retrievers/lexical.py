"""BM25, the retriever that knows words and nothing else: what an encoder has to beat, and one half of the hybrid."""

import logging
import unicodedata
from collections.abc import Iterator

import bm25s
import numpy as np
import numpy.typing as npt
import pandas as pd
import regex
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from uae.measures.ranking import Ranking, best_first, check_scope, places, rows_by_document
from uae.retrievers.retriever import rankings

# Lucene's own. Passages of one corpus are of about one length, so that b decides little.
_K1, _B = 1.2, 0.75
# Words of any script with their marks, which \w would cut at. Chinese and kana have no spaces between words: each character by
# itself, as Lucene's standard analyser has it.
_ALONE = r"[\p{Han}\p{Hiragana}]"
_WORD = regex.compile(rf"(?V1){_ALONE}|[[\p{{L}}\p{{M}}\p{{N}}]--{_ALONE}]+")
_STOP_WORDS = frozenset(STOPWORDS_EN)
_STEMMER = Stemmer.Stemmer("english")
logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, whatever the program says


class Bm25:
    """An index over ``passages``, of the schema PASSAGES. Word statistics are taken over all of them, whatever is searched.

    BM25 as in Lucene (Kamphuis et al., ECIR 2020), by bm25s. Case and Unicode's variants of a letter are folded; stop words and
    stemmer are English, and leave words of other scripts as they are.
    """

    def __init__(self, passages: pd.DataFrame):
        terms = [_terms(text) for text in passages["text"]]
        self._index = bm25s.BM25(k1=_K1, b=_B, method="lucene", dtype="float64")
        if any(terms):
            self._index.index(terms, show_progress=False)
        else:
            self._index = None
        self._ids = passages["passage_id"].to_numpy()
        self._by_id = places(self._ids)
        self._everywhere = np.arange(len(self._ids))
        self._rows = rows_by_document(passages)

    def search(self, text: str, doc_id: str | None, depth: int | None) -> tuple[list[str], list[float]]:
        """The best ``depth`` passages (None: all) of one document (None: of all), and their scores, ties by id.

        A passage that shares no word with ``text`` has score 0 and is ranked as well, at the end.
        """
        rows = self._everywhere if doc_id is None else self._rows.get(doc_id, self._everywhere[:0])
        # Rounded: sums of the same numbers in another order differ in their last bits, and must tie.
        scores = np.round(self._scores(_terms(text))[rows], 9)
        best = best_first(scores, self._by_id[rows], depth)
        return self._ids[rows[best]].tolist(), scores[best].tolist()

    def _scores(self, terms: list[str]) -> npt.NDArray[np.float64]:
        if self._index is None or not terms:  # bm25s takes neither
            return np.zeros(len(self._ids))
        return np.asarray(self._index.get_scores(terms), np.float64)


class Lexical:
    """Implements ``retriever.Retriever`` by BM25. It needs no model: its statistics are those of the passages it is given."""

    def rank(
        self, questions: pd.DataFrame, passages: pd.DataFrame, scope: str, depth: int | None, progress: str = ""
    ) -> Iterator[Ranking]:
        """How rare a word is, is counted over all ``passages``, in scope ``document`` too: the few passages of one document say
        little about it."""
        check_scope(questions, scope)
        index = Bm25(passages)
        for question_id, text, doc_id in zip(questions["question_id"], questions["text"], questions["doc_id"], strict=True):
            yield Ranking(question_id, *index.search(text, doc_id if scope == "document" else None, depth))


def rank_bm25(
    questions: pd.DataFrame, passages: pd.DataFrame, scope: str, depth: int | None
) -> dict[str, tuple[list[str], list[float]]]:
    """The rankings of ``Lexical``. Arguments and errors as ``retriever.Retriever.rank``."""
    return rankings(Lexical(), questions, passages, scope, depth)


def _terms(text: str) -> list[str]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return list(_STEMMER.stemWords([word for word in words if word not in _STOP_WORDS]))
