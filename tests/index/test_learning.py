"""What inverted lists learn from the vectors that FAISS would draw is what FAISS learns, to the bit."""

import faiss
import numpy as np
import pytest

from uae.index import ann, learning
from uae.index.learning import learn_lists


def unit(n, dimension):
    rows = np.random.default_rng(0).standard_normal((n, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def untrained(dimension, factory):
    index = faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = 13_000  # few lists, so that the test is fast
    return index


# 101,000 are more than the codes of SQ8 and of PQ are learnt from.
@pytest.mark.parametrize("sample", [102_000, 500], ids=["some of it for codes", "all of it for codes"])
@pytest.mark.parametrize("factory", ["IVF8,SQ8", "IVF8,Flat", "IVF8,PQ2x4"])
def test_the_index_learns_what_faiss_learns_from_the_sample(monkeypatch, factory, sample):
    monkeypatch.setattr(learning, "_AT_ONCE", 1000)
    given = unit(103_000, 4)
    before = given.copy()
    by_faiss, ours = untrained(4, factory), untrained(4, factory)
    rows = np.sort(np.random.default_rng(1).permutation(len(given))[:sample])
    by_faiss.train(given[rows])
    learn_lists(ours, given, rows)
    assert ours.is_trained
    np.testing.assert_array_equal(faiss.serialize_index(ours), faiss.serialize_index(by_faiss))
    np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize("codes", ["SQ8", "PQ2x4"])
def test_codes_of_few_lists_learn_from_more_vectors_than_the_lists(codes):
    given = unit(2000, 4)
    by_faiss = faiss.index_factory(4, f"IVF8,{codes}", faiss.METRIC_INNER_PRODUCT)
    by_faiss.cp.max_points_per_centroid = ann.POINTS_PER_LIST
    assert len(given) > by_faiss.nlist * ann.POINTS_PER_LIST
    by_faiss.train(given)
    np.testing.assert_array_equal(faiss.serialize_index(ann._learnt(given, f"IVF8,{codes}")), faiss.serialize_index(by_faiss))


def test_fewer_vectors_than_lists_are_an_error():
    with pytest.raises(RuntimeError, match="training points"):
        learn_lists(untrained(4, "IVF8,Flat"), unit(7, 4), np.arange(7))
