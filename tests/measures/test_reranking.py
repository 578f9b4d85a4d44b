"""The first passages of a ranking in another order, by values or by the sum of two stages; and the weight in that sum."""

import numpy as np
import pytest

from uae.io.errors import ArtefactError
from uae.measures.first_weight import best_first_weight
from uae.measures.reranking import reorder, second_stage_ranking

RANKINGS = {
    "q1": (["pd", "pb", "pe", "pa", "pc"], [0.9, 0.8, 0.6, 0.5, 0.1]),
    "q2": (["pa", "pb"], [0.7, 0.2]),
}
SCORES = {("q1", "pd"): -3.0, ("q1", "pb"): 2.5, ("q1", "pe"): 2.0, ("q2", "pa"): 0.0, ("q2", "pb"): 1.5}


def test_the_top_is_ordered_by_value_and_the_rest_stays():
    values = {("q1", "pd"): -3.0, ("q1", "pb"): 2.5, ("q1", "pe"): -1.0}
    ids, scores = reorder({"q1": RANKINGS["q1"]}, values, 3)["q1"]
    assert ids == ["pb", "pe", "pd", "pa", "pc"]
    # below the top: on from -3 by what the old scores fell since the old third place (0.6 to 0.5 and to 0.1)
    assert scores == pytest.approx([2.5, -1.0, -3.0, -3.1, -3.5])


def test_equal_values_are_ordered_by_id():
    values = dict.fromkeys((("q1", passage_id) for passage_id in RANKINGS["q1"][0]), 1.0)
    assert reorder({"q1": RANKINGS["q1"]}, values, 4)["q1"][0] == ["pa", "pb", "pd", "pe", "pc"]


def test_a_scope_with_fewer_passages_than_the_top():
    values = {("q2", "pa"): 0.0, ("q2", "pb"): 1.0}
    assert reorder({"q2": RANKINGS["q2"], "q3": ([], [])}, values, 20) == {"q2": (["pb", "pa"], [1.0, 0.0]), "q3": ([], [])}


def test_a_passage_without_a_value_is_named():
    with pytest.raises(ArtefactError, match="question q1: 1 of the passages to re-rank have no value, first pb"):
        reorder({"q1": RANKINGS["q1"]}, {("q1", "pd"): 1.0}, 2)


def test_with_no_weight_the_second_stage_decides_alone_among_the_first():
    found = second_stage_ranking(RANKINGS, SCORES, 3, 0.0)
    assert found["q1"][0] == ["pb", "pe", "pd", "pa", "pc"]
    assert found["q2"] == (["pb", "pa"], [1.5, 0.0])


def test_the_first_stages_scores_are_added_with_their_weight():
    found = second_stage_ranking(RANKINGS, SCORES, 3, 5.0)
    assert found["q2"] == (["pa", "pb"], [3.5, 2.5])
    ids, scores = found["q1"]
    assert ids == ["pb", "pe", "pd", "pa", "pc"]
    assert scores == pytest.approx([6.5, 5.0, 1.5, 1.4, 1.0])
    assert second_stage_ranking(RANKINGS, SCORES, 3, 100.0)["q1"][0] == RANKINGS["q1"][0]


def test_below_the_depth_nothing_is_asked_and_nothing_moves():
    assert second_stage_ranking(RANKINGS, {("q1", "pd"): 0.0, ("q2", "pa"): 1.0}, 1, 0.0)["q1"][0] == RANKINGS["q1"][0]
    with pytest.raises(ArtefactError, match="question q1: 1 of the passages to re-rank have no value, first pa"):
        second_stage_ranking(RANKINGS, SCORES, 4, 1.0)


def test_scores_that_differ_by_less_than_single_precision_tie_by_id():
    scores = {("q2", "pa"): 1.0000000, ("q2", "pb"): 1.0000001}
    ranking = {"q2": (["pb", "pa"], [0.5, 0.5])}
    assert second_stage_ranking(ranking, scores, 2, 1.0)["q2"][0] == ["pa", "pb"]


def many(number: int, first_right: int, second_right: int) -> tuple[dict, dict, dict]:
    """Questions of two passages, the first one right. Each stage gives the right one a point more, where it is right."""
    rankings, scores = {}, {}
    for place in range(number):
        right, wrong = (0.6, 0.5) if place % 10 < first_right else (0.5, 0.6)
        rankings[f"q{place}"] = (["pa", "pb"], [right, wrong]) if right > wrong else (["pb", "pa"], [wrong, right])
        scores |= {(f"q{place}", "pa"): 1.0 if place % 7 < second_right else 0.0, (f"q{place}", "pb"): 0.5}
    return rankings, scores, {f"q{place}": ["pa"] for place in range(number)}


def test_the_stage_that_is_right_more_often_counts_more():
    weights = {}
    for first, second in ((9, 4), (6, 6)):
        rankings, scores, evidence = many(140, first, second)
        found = best_first_weight(rankings, scores, 2, evidence)
        assert found.questions == 140
        assert found.first_map == pytest.approx((first + 0.5 * (10 - first)) / 10)
        weights[first, second] = found.weight
        # two independent witnesses of differences 0.1 and 0.5: each counts by the log of its odds
        odds = [np.log(right / (1 - right)) for right in (first / 10, second / 7)]
        assert found.weight == pytest.approx((odds[0] / 0.1) / (odds[1] / 0.5), rel=0.02)
    assert weights[9, 4] > weights[6, 6]


def test_the_likeliest_weight_has_the_better_map_where_the_stages_help_each_other():
    evidence = {"q1": ["pb"], "q2": ["pa"]}  # the second stage is right about q1, the first about q2
    found = best_first_weight(RANKINGS, SCORES, 3, evidence)
    assert (found.map, found.first_map, found.questions) == (1.0, 0.75, 2)


def test_a_second_stage_without_a_say_is_told():
    """It is wrong more often than chance would be: the likeliest weight gives the first stage all that the search allows."""
    rankings, scores, evidence = many(140, 9, 1)
    overruled = best_first_weight(rankings, scores, 2, evidence)
    assert overruled.at_bound
    assert overruled.map == overruled.first_map
    assert not best_first_weight(*many(140, 9, 4)[:2], 2, evidence).at_bound
    assert not best_first_weight(*many(140, 1, 6)[:2], 2, evidence).at_bound  # the first stage has none: that is no fault


def test_a_weight_is_chosen_on_questions_that_can_say_something():
    rankings, scores, evidence = many(140, 8, 5)
    plain = best_first_weight(rankings, scores, 2, evidence)
    more = rankings | {"none": RANKINGS["q2"], "all": RANKINGS["q2"]}
    more_scores = scores | {(q, p): 1.0 for q in ("none", "all") for p in ("pa", "pb")}
    found = best_first_weight(more, more_scores, 2, evidence | {"none": ["pz"], "all": ["pa", "pb"]})
    assert (found.weight, found.questions) == (plain.weight, 140)
    assert best_first_weight({"all": RANKINGS["q2"]}, more_scores, 2, {"all": ["pa", "pb"]}) is None
    assert best_first_weight({"q2": RANKINGS["q2"]}, SCORES, 2, {}) is None
    with pytest.raises(ArtefactError, match="question q1: 1 of the passages"):
        best_first_weight(RANKINGS, SCORES, 4, evidence)
