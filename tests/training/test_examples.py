"""Which labelled pairs become what in training."""

import math

import pandas as pd
import pytest

from uae.io.errors import ArtefactError
from uae.training.examples import build_examples, evidence_texts, require_questions
from uae.training.temperature import calibrated_temperature

PAIRS = pd.DataFrame(
    [("q1", "good", 1.0), ("q1", "useless", 0.1), ("q1", "harmful", -0.5), ("q2", "poor", -0.2), ("q2", "worse", -0.9)],
    columns=["question_id", "text", "utility"],
).assign(question=lambda t: t["question_id"] + "?", document="d")


def build(evidence=None, ignored=None, harmful=False, least=None):
    return build_examples(PAIRS, evidence or {}, ignored or {}, harmful, least)


def test_all_pairs_are_candidates_by_default():
    examples = build()
    assert examples["q1"].passages == ("good", "useless", "harmful")
    assert examples["q1"].utilities == (1.0, 0.1, -0.5)
    assert not (examples["q1"].negatives | examples["q1"].evidence | examples["q1"].ignored)


def test_harmful_passages_become_negatives_but_never_the_best_one():
    examples = build(harmful=True)
    assert examples["q1"].negatives == {"harmful"}
    assert math.isnan(examples["q1"].utilities[2])
    assert examples["q2"].negatives == {"worse"}  # nothing helps q2: the least harmful one stays a candidate
    assert examples["q2"].utilities[0] == -0.2


def test_questions_that_nothing_helps_are_left_out_unless_their_evidence_is_known():
    assert set(build(least=0.0)) == {"q1"}
    assert set(build({"q2": frozenset({"poor"})}, least=0.0)) == {"q1", "q2"}


def test_evidence_joins_the_passages_unjudged_and_is_no_negative():
    examples = build({"q1": frozenset({"gold", "harmful"})}, harmful=True)
    assert examples["q1"].passages == ("good", "useless", "harmful", "gold")
    assert math.isnan(examples["q1"].utilities[3])
    assert examples["q1"].negatives == frozenset()
    assert examples["q1"].evidence == {"gold", "harmful"}


def test_what_was_judged_is_never_ignored():
    assert build(ignored={"q1": frozenset({"twin", "useless"})})["q1"].ignored == {"twin"}


def test_evidence_texts_name_only_questions_that_have_some():
    questions = pd.DataFrame({"question_id": ["a", "b"], "evidence": [["p2", "p1"], []]})
    passages = pd.DataFrame({"passage_id": ["p1", "p2"], "text": ["one", "two"]})
    assert evidence_texts(questions, passages) == {"a": {"one", "two"}}


def test_no_question_is_a_clear_error():
    with pytest.raises(ArtefactError, match="validation"):
        require_questions({}, "validation")


def likelihood(pairs: pd.DataFrame, evidence: dict, temperature: float) -> float:
    total = 0.0
    for question_id, rows in pairs.groupby("question_id"):
        weights = [math.exp(utility / temperature) for utility in rows["utility"]]
        gold = [weight for weight, text in zip(weights, rows["text"], strict=True) if text in evidence[question_id]]
        total += math.log(sum(gold) / sum(weights))
    return total


def test_the_calibrated_temperature_makes_the_evidence_likeliest():
    evidence = {"q1": frozenset({"useless"}), "q2": frozenset({"poor"})}
    found = calibrated_temperature(PAIRS, evidence)
    assert all(
        likelihood(PAIRS, evidence, found) >= likelihood(PAIRS, evidence, found * factor) for factor in (0.8, 0.95, 1.05, 1.25)
    )


def test_a_teacher_that_is_always_right_is_trusted_and_one_that_is_always_wrong_is_not():
    right = calibrated_temperature(PAIRS, {"q1": frozenset({"good"}), "q2": frozenset({"poor"})})
    wrong = calibrated_temperature(PAIRS, {"q1": frozenset({"harmful"}), "q2": frozenset({"worse"})})
    assert right < 0.05
    assert wrong > 10


def test_nothing_to_calibrate_on_is_a_clear_error():
    with pytest.raises(ArtefactError, match="calibrate_temperature"):
        calibrated_temperature(PAIRS, {})
