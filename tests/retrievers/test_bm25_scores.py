"""BM25 built through files has the arrays that bm25s builds in memory, to the bit."""

import bm25s
import numpy as np
import pytest
from bm25s.tokenization import Tokenized

from uae.retrievers import bm25_index, bm25_scores
from uae.retrievers.bm25_index import PARAMETERS, Bm25Index, terms
from uae.retrievers.bm25_scores import build_scores


def made_up(texts: int) -> list[list[str]]:
    """Few words in nearly all texts, many in few; some texts hold no word."""
    rng = np.random.default_rng(0)
    return [[f"w{int(word)}" for word in rng.zipf(1.3, rng.integers(0, 40)) if word < 3000] for _ in range(texts)]


def by_bm25s(texts: list[list[str]]) -> bm25s.BM25:
    vocabulary: dict[str, int] = {}
    ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in text] for text in texts]
    index = bm25s.BM25(**PARAMETERS, dtype="float64")
    index.index(Tokenized(ids=ids, vocab=vocabulary), show_progress=False)
    return index


@pytest.mark.parametrize(("words", "entries"), [(1 << 20, 1 << 21), (97, 50), (1, 1)])
def test_the_arrays_are_those_of_bm25s(monkeypatch: pytest.MonkeyPatch, words: int, entries: int) -> None:
    """However many parts the texts and the words are taken in, a part of a single one among them."""
    monkeypatch.setattr(bm25_scores, "_WORDS_AT_ONCE", words)
    monkeypatch.setattr(bm25_scores, "_ENTRIES", entries)
    monkeypatch.setattr(bm25_scores, "_SCORED", 7)
    texts = made_up(300)
    vocabulary: dict[str, int] = {}
    found, wanted = build_scores(texts, vocabulary, PARAMETERS), by_bm25s(texts)
    assert vocabulary | {"": len(vocabulary)} == wanted.vocab_dict
    assert found.texts == wanted.scores["num_docs"]
    for name in ("data", "indices", "indptr"):
        ours = getattr(found, name)
        assert ours.dtype == wanted.scores[name].dtype
        np.testing.assert_array_equal(ours, wanted.scores[name])


def test_a_saved_index_has_the_bytes_of_bm25s(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm25_index, "_SAVED", 100)
    texts = [" ".join(text) for text in made_up(50)]
    Bm25Index.build(texts).save(tmp_path / "ours")
    by_bm25s([terms(text) for text in texts]).save(tmp_path / "theirs", show_progress=False)
    files = sorted(path.name for path in (tmp_path / "theirs").iterdir())
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == files
    for name in files:
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes(), name


def test_texts_without_words_are_no_error() -> None:
    for texts in ([], ["", "..."]):
        index = Bm25Index.build(texts)
        assert (len(index), index.vocabulary, index.scores("ship").tolist()) == (len(texts), 0, [0.0] * len(texts))
