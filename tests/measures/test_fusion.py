"""Every score is worked out by hand."""

import pytest

from uae.measures.best_fusion import FUSIONS, average_precision, best_fusion
from uae.measures.fusion import RANKS, SCORES, Fusion, aligned, fuse, reciprocal_rank_fusion


def ranked(**lists: list[str]) -> dict:
    """Scores that say nothing, and of another size in every ranking: only places may count."""
    return {question: (ids, [100.0 - len(lists) * n for n in range(len(ids))]) for question, ids in lists.items()}


def test_places_count_and_nothing_else():
    first, second = ranked(q1=["a", "b", "c"], q2=["x"]), ranked(q1=["c", "a", "b"], q2=["x"])
    fused = reciprocal_rank_fusion([first, second])
    assert fused["q1"][0] == ["a", "c", "b"]
    assert fused["q1"][1] == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 63, 1 / 62 + 1 / 63])
    assert fused["q2"] == (["x"], [pytest.approx(2 / 61)])


def test_a_system_that_does_not_rank_a_passage_adds_nothing():
    ids, scores = reciprocal_rank_fusion([ranked(q=["a", "b"]), ranked(q=["c", "b"])], k=1)["q"]
    assert ids == ["b", "a", "c"]
    assert scores == pytest.approx([1 / 3 + 1 / 3, 1 / 2, 1 / 2])


def test_k_says_how_much_the_first_places_count():
    rankings = [ranked(q=["a", "b", "c"]), ranked(q=["c", "b", "a"]), ranked(q=["d", "b", "e"])]
    assert reciprocal_rank_fusion(rankings, k=60)["q"][0][0] == "b"
    assert reciprocal_rank_fusion(rankings, k=0)["q"][0][:2] == ["b", "a"]  # 3/2, then 1 + 1/3
    assert reciprocal_rank_fusion(rankings[:2], k=0)["q"][0] == ["a", "c", "b"]  # 1 + 1/3 twice, then 2/2


def test_ties_by_id_whatever_the_order_of_systems():
    """Sums of three places in another order differ in their last bits."""
    rankings = [ranked(q=["z", "y", "x"]), ranked(q=["y", "x", "z"]), ranked(q=["x", "z", "y"])]
    expected = (["x", "y", "z"], [pytest.approx(1 / 61 + 1 / 62 + 1 / 63)] * 3)
    assert reciprocal_rank_fusion(rankings)["q"] == expected
    assert reciprocal_rank_fusion(rankings[::-1])["q"] == expected


def test_one_system_keeps_its_order_and_an_empty_ranking_stays_empty():
    assert reciprocal_rank_fusion([ranked(q=["b", "a"], r=[])]) == {"q": (["b", "a"], [1 / 61, 1 / 62]), "r": ([], [])}


def test_rankings_of_other_questions_are_an_error():
    with pytest.raises(ValueError, match="same questions"):
        reciprocal_rank_fusion([ranked(q=["a"]), ranked(q=["a"], r=["a"])])
    with pytest.raises(ValueError, match="no rankings"):
        reciprocal_rank_fusion([])


# By scores: cos + weight * bm25 / the question's highest bm25

DENSE = {"q": (["a", "b", "c"], [0.9, 0.5, 0.1]), "r": (["x", "y"], [0.4, 0.3])}
WORDS = {"q": (["c", "b", "a"], [8.0, 4.0, 0.0]), "r": (["x", "y"], [0.0, 0.0])}


def by_scores(dense, lexical, weight):
    return fuse(dense, lexical, Fusion(SCORES, weight))


def test_scaled_lexical_scores_are_added_to_the_cosines():
    fused = by_scores(DENSE, WORDS, 1.0)
    assert fused["q"] == (["c", "b", "a"], [1.1, 1.0, 0.9])
    assert fused["r"] == (["x", "y"], [0.4, 0.3])  # no passage shares a word with the question
    assert by_scores(DENSE, WORDS, 0.0)["q"] == DENSE["q"]
    assert by_scores(DENSE, WORDS, 0.5)["q"] == (["a", "b", "c"], [0.9, 0.75, 0.6])


def test_the_scale_of_the_lexical_scores_does_not_matter():
    tenfold = {question: (ids, [10 * score for score in scores]) for question, (ids, scores) in WORDS.items()}
    assert by_scores(DENSE, tenfold, 0.7) == by_scores(DENSE, WORDS, 0.7)


def test_ties_of_fused_scores_are_broken_by_id():
    assert by_scores({"q": (["b", "a"], [0.6, 0.1])}, {"q": (["a", "b"], [2.0, 0.0])}, 0.5)["q"] == (["a", "b"], [0.6, 0.6])


@pytest.mark.parametrize("form", [SCORES, RANKS])
def test_rankings_of_other_passages_cannot_be_fused(form):
    with pytest.raises(ValueError, match="same passages"):
        fuse({"q": (["a"], [0.5])}, {"q": (["b"], [1.0])}, Fusion(form, 0.5))
    with pytest.raises(ValueError, match="same questions"):
        fuse(DENSE, {"q": WORDS["q"]}, Fusion(form, 0.5))


def test_by_places_a_passage_without_a_common_word_has_no_place():
    """The dense places are a, b, c; the lexical ones c, b: a shares no word with the question."""
    ids, scores = fuse(DENSE, WORDS, Fusion(RANKS, 2.0))["q"]
    assert (ids, scores) == (["c", "b", "a"], [pytest.approx(v, abs=1e-8) for v in (1 / 63 + 2 / 61, 1 / 62 + 2 / 62, 1 / 61)])


def chosen(dense, lexical, evidence):
    return best_fusion(aligned(dense, lexical), average_precision(evidence))


def test_what_is_not_judged_takes_its_part_in_the_sum():
    """BM25 is scaled by the highest score of all passages, judged or not: 0.3 + 0.1 w is as much as 0.5 from a weight of 2 on."""
    dense, lexical = {"q": (["b", "a", "u"], [0.5, 0.3, 0.1])}, {"q": (["u", "a", "b"], [10.0, 1.0, 0.0])}
    quality = average_precision({"q": ["a"]})
    found = best_fusion(aligned(dense, lexical), quality, judged={"q": {"a", "b"}})
    assert found.fusion == Fusion(SCORES, 2.0)
    assert (found.quality, found.questions) == (1.0, 1)


def test_the_best_fusion_is_the_first_of_the_best():
    """The evidence c is first from a weight of 0.8 on: 0.1 + w > 0.9. At 0.8 itself it ties with a, and a stands first."""
    found = chosen({"q": DENSE["q"]}, {"q": WORDS["q"]}, {"q": ["c"]})
    assert found[:3] == (Fusion(SCORES, 1.0), 1.0, 1)
    assert [fusion for fusion, _ in found.tried] == list(FUSIONS)
    assert chosen({"q": DENSE["q"]}, {"q": WORDS["q"]}, {"q": ["a"]})[:3] == (Fusion(SCORES, 0.0), 1.0, 1)
    assert chosen(DENSE, WORDS, {"q": ["c"], "r": ["y"]}).quality == pytest.approx(0.75)
    assert FUSIONS[0].weight == 0.0  # an encoder that words only harm stays alone
    with pytest.raises(ValueError, match="no rankings"):
        best_fusion({}, average_precision({}))


def test_places_are_chosen_where_they_are_better():
    """One cosine far above the rest outweighs every word score; its place counts no more than any other first place."""
    dense = {"q": (["a", "b", "c"], [9.0, 0.2, 0.1])}
    words = {"q": (["b", "c", "a"], [5.0, 1.0, 0.0])}
    assert chosen(dense, words, {"q": ["b"]}).fusion.form == RANKS
