"""Indexes of every kind find what exact search finds, are built the same twice, and are tuned to the recall asked for."""

import tracemalloc

import faiss
import numpy as np
import pytest

import uae.index.ann
import uae.index.nearest
from uae.index.ann import Reconstructed, build_index, dtype, index_recall, kth_scores, plan, plan_factory, tune
from uae.index.nearest import approximate, search, search_parameters
from uae.io.errors import ConfigError
from uae.io.mapped import drop_pages_of
from uae.release.legs import dense

KINDS = ["Flat", "SQ8", "HNSW8", "HNSW8,SQ8", "IVF16,Flat", "IVF16,SQ8", "IVF16,PQ2x4", "PCA8,IVF16,Flat", "IVF16,SQ8,RFlat",
         "IVF16,PQ8x4,Refine(SQ8)"]  # fmt: skip
K = 5


def unit(rng: np.random.Generator, n: int, dimension: int = 16) -> np.ndarray:
    vectors = rng.normal(size=(n, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return unit(np.random.default_rng(0), 800)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return unit(np.random.default_rng(1), 40)


@pytest.fixture(scope="module")
def indexes(vectors) -> dict[str, faiss.Index]:
    return {kind: build_index(vectors, kind) for kind in KINDS}


def as_stored(index: faiss.Index) -> np.ndarray:
    return index.reconstruct_batch(np.arange(index.ntotal))


def best(scores: np.ndarray, allowed: np.ndarray, k: int) -> np.ndarray:
    """By brute force: rows of the best k, the lower first among equals."""
    return np.array([allowed[np.lexsort((allowed, -row[allowed]))][:k] for row in scores])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 3, 60])
def test_behind_a_selective_filter_every_kind_is_exact(indexes, queries, kind, count):
    allowed = np.sort(np.random.default_rng(count).choice(800, count, replace=False))
    scores, rows = search(indexes[kind], queries, K, allowed, "")
    exact = queries @ as_stored(indexes[kind]).T
    assert rows.tolist() == best(exact, allowed, K).tolist()
    assert scores == pytest.approx(np.take_along_axis(exact, rows, axis=1), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [60, 400])
def test_behind_a_wide_filter_every_kind_finds_k_allowed_rows(indexes, queries, monkeypatch, kind, count):
    monkeypatch.setattr(uae.index.nearest, "EXHAUSTIVE_ROWS", 0)
    allowed = np.sort(np.random.default_rng(count).choice(800, count, replace=False))
    _, rows = search(indexes[kind], queries, K, allowed, "")
    assert np.isin(rows, allowed).all()
    assert all(len(set(found)) == K for found in rows.tolist())
    tried_harder = np.isin(rows, best(queries @ as_stored(indexes[kind]).T, allowed, K)).mean()
    assert tried_harder > (0.8 if count == 60 else 0.4)  # the fewer are allowed, the more of the index is read


def test_a_graph_behind_a_filter_finds_too_little_and_the_rest_is_searched_exhaustively(indexes, queries, monkeypatch):
    monkeypatch.setattr(uae.index.nearest, "EXHAUSTIVE_ROWS", 0)
    monkeypatch.setattr(uae.index.nearest, "MOST_BREADTH", 5)
    allowed = np.array([3, 77, 200, 410, 500, 799])
    assert (approximate(indexes["HNSW8"], queries, K, allowed, "efSearch=5") < 0).any()
    _, rows = search(indexes["HNSW8"], queries, K, allowed, "efSearch=5")
    assert (rows >= 0).all()
    assert np.isin(rows, allowed).all()


def test_lists_too_short_for_k_are_made_up_for(indexes, queries):
    assert (approximate(indexes["IVF16,Flat"], queries, 200, None, "nprobe=1") < 0).any()
    _, rows = search(indexes["IVF16,Flat"], queries, 200, None, "nprobe=1")
    assert all(len(set(found)) == 200 and min(found) >= 0 for found in rows.tolist())


@pytest.mark.parametrize("allowed", [None, np.arange(0, 800, 2)])
def test_ties_are_broken_by_the_given_order_however_many_there_are(vectors, allowed):
    copied = vectors.copy()
    copied[100:700] = copied[100]
    index = build_index(copied, "Flat")
    order = np.random.default_rng(4).permutation(800)
    equal = np.arange(100, 700) if allowed is None else np.arange(100, 700, 2)
    scores, rows = search(index, copied[100:101], 7, allowed, "", order)
    assert rows[0].tolist() == equal[np.argsort(order[equal])][:7].tolist()
    assert len(set(scores[0].tolist())) == 1
    assert search(index, copied[100:101], 7, allowed, "")[1][0].tolist() == equal[:7].tolist()


def test_one_query_with_many_ties_does_not_widen_the_search_of_the_others(vectors, queries, monkeypatch):
    far = vectors[[(queries @ vectors.T).max(axis=0).argmin()]]  # which no other query finds
    copied = np.vstack([vectors, np.repeat(far, 3000, axis=0)])
    index, asked = build_index(copied, "Flat"), np.vstack([queries, far])
    whole, searched = uae.index.nearest.exhaustive, []

    def noted(index, vectors, width, rows, mapped):
        searched.append((len(vectors), width))
        return whole(index, vectors, width, rows, mapped)

    monkeypatch.setattr(uae.index.nearest, "exhaustive", noted)
    _, rows = search(index, asked, K, None, "")
    assert rows.tolist() == best(asked @ copied.T, np.arange(len(copied)), K).tolist()
    assert searched[0] == (41, K + 8)
    assert {count for count, _ in searched[1:]} == {1}
    assert searched[-1][1] > 3000


@pytest.mark.parametrize("kind", ["Flat", "IVF16,SQ8"])
def test_what_is_ranked_is_bounded_in_bytes_however_many_ties_there_are(kind):
    rng = np.random.default_rng(7)
    copied = np.vstack([unit(rng, 100, 64), np.repeat(unit(rng, 1, 64), 3000, axis=0)])
    index, asked = build_index(copied, kind), np.repeat(copied[-1:], 64, axis=0)
    allowed, order = np.arange(50, 3100), rng.permutation(3100)
    tracemalloc.start()
    scores, rows = search(index, asked, K, allowed, "", order)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.tolist() == [np.arange(100, 3100)[np.argsort(order[100:])][:K].tolist()] * 64
    assert len(set(scores.ravel().tolist())) == 1
    assert peak < 40_000_000  # all at once would be 64 * 3000 * 64 * 8 = 98 MB of stored vectors alone


@pytest.mark.parametrize("size", [1, 3 * 8 * 16, 8 * 8 * 16 * 3])
def test_ranking_in_pieces_gives_the_same(indexes, queries, monkeypatch, size):
    for kind, rows in (("Flat", None), ("HNSW8", None), ("IVF16,SQ8", np.arange(0, 800, 3))):
        whole = search(indexes[kind], queries, K, rows, "")
        with monkeypatch.context() as patch:
            patch.setattr(uae.index.nearest, "_RANKED_BYTES", size)
            pieces = search(indexes[kind], queries, K, rows, "")
        assert [part.tolist() for part in pieces] == [part.tolist() for part in whole]


@pytest.mark.parametrize("kind", ["Flat", "HNSW8", "IVF16,SQ8"])
def test_a_query_gets_the_same_alone_and_in_a_batch(indexes, queries, kind):
    scores, rows = search(indexes[kind], queries, K, None, "")
    for number in range(len(queries)):
        alone = search(indexes[kind], queries[number : number + 1], K, None, "")
        assert (alone[0][0].tolist(), alone[1][0].tolist()) == (scores[number].tolist(), rows[number].tolist())


def test_k_is_limited_by_what_there_is(indexes, queries):
    assert search(indexes["Flat"], queries, 1000, None, "")[1].shape == (40, 800)
    assert search(indexes["HNSW8"], queries, K, np.array([], dtype=np.int64), "")[1].shape == (40, 0)
    assert search(indexes["Flat"], queries[:0], K, None, "")[1].shape == (0, K)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_give_the_same_bytes(indexes, vectors, kind):
    before = faiss.omp_get_max_threads()
    again = build_index(vectors, kind)
    assert faiss.serialize_index(again).tobytes() == faiss.serialize_index(indexes[kind]).tobytes()
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("factory", ["Nonsense", "IVF4096,Flat", "IDMap,Flat", "LSH"])
def test_impossible_factory_is_a_clear_error(factory):
    with pytest.raises(ConfigError, match=f"index.factory: FAISS cannot build '{factory}' over 8 vectors: "):
        build_index(np.eye(8, dtype=np.float32), factory)


@pytest.mark.parametrize("kind", ["HNSW8", "IVF16,Flat", "PCA8,IVF16,Flat"])
def test_tuning_takes_the_smallest_effort_that_reaches_the_target(indexes, vectors, queries, kind):
    reference = as_stored(indexes[kind])
    tuned = tune(indexes[kind], reference, queries, K, 0.9)
    name, _, value = tuned.parameters.partition("=")
    assert tuned.reached
    assert 0.9 <= tuned.recall == index_recall(indexes[kind], reference, queries, K, tuned.parameters)
    assert int(value) == 1 or index_recall(indexes[kind], reference, queries, K, f"{name}={int(value) - 1}") < 0.9
    more = tune(indexes[kind], reference, queries, K, 0.99)
    assert int(more.parameters.partition("=")[2]) > int(value)


def test_where_codes_are_too_coarse_the_best_is_taken_and_said_to_miss(indexes, vectors, queries):
    tuned = tune(indexes["IVF16,PQ2x4"], vectors, queries, K, 1.0)
    recalls = [index_recall(indexes["IVF16,PQ2x4"], vectors, queries, K, f"nprobe={n}") for n in (1, 2, 4, 8, 16)]
    assert not tuned.reached
    assert tuned.recall == max(recalls) < 1.0
    assert tuned.parameters == f"nprobe={(1, 2, 4, 8, 16)[recalls.index(max(recalls))]}"


def test_flat_needs_no_tuning_and_other_kinds_need_queries(indexes, vectors, queries):
    assert tune(indexes["Flat"], vectors, queries[:0], K, 0.99) == ("", 1.0, True)
    assert tune(indexes["SQ8"], vectors, queries, K, 1.0) == ("", index_recall(indexes["SQ8"], vectors, queries, K, ""), False)
    with pytest.raises(ConfigError, match="no queries"):
        tune(indexes["HNSW8"], vectors, queries[:0], K, 0.9)


def test_recall_is_by_brute_force_and_equal_passages_are_equally_right(indexes, vectors, queries):
    _, rows = search(indexes["IVF16,Flat"], queries, K, None, "nprobe=2")
    wanted = best(queries @ vectors.T, np.arange(800), K)
    expected = np.mean([len(set(a) & set(b)) / K for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)])
    assert index_recall(indexes["IVF16,Flat"], vectors, queries, K, "nprobe=2") == pytest.approx(expected)
    assert expected < 0.95
    twice = np.vstack([vectors, vectors])
    assert index_recall(build_index(twice, "Flat"), twice, queries, K, "") == 1.0


def test_parameters_reach_the_search_and_leave_the_index_alone(indexes, queries):
    for kind in ("IVF16,Flat", "PCA8,IVF16,Flat"):
        index = indexes[kind]
        before = faiss.extract_index_ivf(index).nprobe
        few, many = (search(index, queries, K, None, f"nprobe={n}")[0] for n in (1, 16))
        assert (many > few).any()
        assert faiss.extract_index_ivf(index).nprobe == before
    index = indexes["IVF16,Flat"]
    assert search_parameters(index, None, "nprobe=4", 100).nprobe == 16
    assert search_parameters(indexes["HNSW8"], None, "efSearch=30", 2).efSearch == 60
    assert search_parameters(indexes["Flat"], None, "") is None


def test_types_of_stored_numbers(indexes, vectors):
    expected = ["float32", "int8", "float32", "int8", "float32", "int8", "pq", "float32", "int8", "pq"]
    assert {kind: dtype(index) for kind, index in indexes.items()} == dict(zip(KINDS, expected, strict=True))
    assert dtype(build_index(vectors, "SQfp16")) == "float16"


def test_an_index_that_was_written_and_read_is_as_good(indexes, queries, tmp_path):
    for kind, index in indexes.items():
        faiss.write_index(index, str(tmp_path / "index"))
        read = faiss.read_index(str(tmp_path / "index"))
        for rows in (None, np.arange(10, 60)):
            assert search(read, queries, K, rows, "")[1].tolist() == search(index, queries, K, rows, "")[1].tolist(), kind


def test_the_plan_goes_by_size_and_recall():
    assert plan_factory("IVF9,PQ4", 10, 384, 0.9) == "IVF9,PQ4"
    plans = [plan_factory("auto", n, 384, 0.95) for n in (100, 100_000, 1_000_000)]
    assert plans == ["Flat", "HNSW32", "IVF2048,SQ8"]
    assert plan_factory("auto", 1_000_000, 384, 0.999) == "IVF2048,Flat"
    assert plan_factory("auto", 100_000, 64, 0.95) == "Flat"  # small vectors: little to read


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapped_index_does_what_one_in_memory_does(indexes, queries, tmp_path, kind):
    path, allowed = tmp_path / "index.faiss", np.arange(0, 800, 3)
    faiss.write_index(indexes[kind], str(path))
    mapped = dense.read_index(path, mapped=True)
    for rows in (None, allowed):
        found, expected = (search(index, queries, K, rows, "") for index in (mapped, indexes[kind]))
        assert [part.tolist() for part in found] == [part.tolist() for part in expected]
    assert np.array_equal(as_stored(mapped), as_stored(indexes[kind]))
    drop_pages_of(path)
    assert np.array_equal(as_stored(mapped), as_stored(indexes[kind]))
    path.unlink()  # as a release that is replaced under a running service
    assert np.array_equal(as_stored(mapped), as_stored(indexes[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_corpus_is_indexed_as_one_that_was_always_so(indexes, vectors, queries, kind):
    """A refresh builds anew: what went leaves nothing, rows count from 0, and no state of an earlier build is left."""
    changed = np.vstack([vectors[200:], unit(np.random.default_rng(9), 100)])
    index = build_index(changed, kind)
    build_index(vectors, kind)
    assert faiss.serialize_index(build_index(changed, kind)).tobytes() == faiss.serialize_index(index).tobytes()
    allowed = np.array([3, 650, 699])
    exact = queries @ as_stored(index).T
    assert search(index, queries, K, allowed, "")[1].tolist() == best(exact, allowed, K).tolist()
    scores = as_stored(index)[allowed] @ changed.T
    assert (scores[np.arange(3), allowed] > np.quantile(scores, 0.95, axis=1)).all()


def test_refining_finds_more_than_the_coarse_codes_alone(indexes, vectors, queries):
    coarse, refined = build_index(vectors, "IVF16,PQ8x4"), indexes["IVF16,PQ8x4,Refine(SQ8)"]
    recalls = [index_recall(index, vectors, queries, K, "nprobe=16") for index in (coarse, refined)]
    assert recalls[1] > recalls[0] + 0.1
    tuned = tune(refined, vectors, queries, K, 0.9)
    assert tuned.reached
    assert tuned.parameters.startswith("nprobe=")


@pytest.mark.parametrize("block", [1, 7, 800, 1 << 16])
def test_exact_scores_are_the_same_block_by_block(indexes, vectors, queries, monkeypatch, block):
    whole = np.sort(queries @ vectors.T, axis=1)[:, -K]
    monkeypatch.setattr(uae.index.ann, "_ROWS", block)
    for held in (vectors, Reconstructed(indexes["Flat"])):
        assert kth_scores(held, queries, K) == pytest.approx(whole, abs=1e-6)
        assert kth_scores(held[:3], queries, K) == pytest.approx((queries @ vectors[:3].T).min(axis=1), abs=1e-6)


def test_the_plan_goes_by_size_recall_memory_and_change_and_says_why():
    assert plan(1000, 384, 0.95).factory == "Flat"
    assert plan(100_000, 384, 0.95).factory == "HNSW32"
    often = plan(100_000, 384, 0.95, changed_share=0.2)
    assert (often.factory, "20.0% change" in often.why) == ("IVF512,SQ8", True)
    assert plan(100_000, 384, 0.99, changed_share=0.2).factory == "IVF512,Flat"
    small = plan(100_000, 384, 0.95, memory=100_000_000)
    assert (small.factory, small.bytes <= 100_000_000) == ("IVF512,SQ8", True)
    assert "of 100 MB allowed, HNSW32 takes 181 MB" in small.why
    smaller = plan(100_000, 384, 0.95, memory=20_000_000)
    assert (smaller.factory, smaller.bytes <= 20_000_000) == ("IVF512,PQ96,Refine(SQ8)", True)
    none = plan(100_000, 384, 0.95, memory=1_000_000)
    assert "nothing is smaller: it takes 11 MB" in none.why
    assert plan(10_000_000, 384, 0.95, memory=8_000_000_000).factory == "IVF8192,SQ8"


@pytest.mark.parametrize("kind", ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ2x4"])
@pytest.mark.parametrize("rows", [None, np.arange(3, 800, 5)])
def test_a_mapped_index_is_searched_a_few_lists_at_a_time(vectors, queries, tmp_path, monkeypatch, kind, rows):
    index, path = build_index(vectors, kind), tmp_path / "index.faiss"
    faiss.write_index(index, str(path))
    mapped = dense.read_index(path, mapped=True)
    monkeypatch.setattr(uae.index.nearest, "_TURNS", 5)  # lists do not divide by it
    scores, found = uae.index.nearest.exhaustive(mapped, queries, 30, rows, path)
    expected = uae.index.nearest.exhaustive(index, queries, 30, rows)
    assert np.array_equal(scores, expected[0])
    above = scores > scores[:, -1:]  # of those that tie for the last place any may be found
    assert above.any()
    assert all(set(o[a]) == set(t[a]) for o, t, a in zip(found, expected[1], above, strict=True))
