"""Encoders with BM25: on which questions the untrained one's form is chosen, and what comes of it."""

import pandas as pd

from uae.evaluation.fused import as_released, choosing_questions, strongest_untrained
from uae.measures.fusion import SCORES, Fusion

QUESTIONS = pd.DataFrame(
    [("t", "train", ["b"]), ("v", "validation", ["a"]), ("w", "validation", []), ("x", "test", ["a"])],
    columns=["question_id", "split", "evidence"],
)
DENSE = (["a", "b"], [0.6, 0.4])
WORDS = (["b", "a"], [3.0, 1.5])


def test_no_test_question_chooses():
    assert list(choosing_questions(QUESTIONS)["question_id"]) == ["t", "v"]
    assert choosing_questions(QUESTIONS[QUESTIONS["split"] == "test"]).empty


def test_the_form_is_the_best_on_the_choosing_questions():
    """Where "b" is the evidence, words help: 0.4 + w > 0.6 + w / 2 from a weight of 0.5 on. Where "a" is, they only harm."""
    dense, words = (dict.fromkeys(("t", "v", "x"), ranked) for ranked in (DENSE, WORDS))
    ranked, facts = strongest_untrained(dense, words, QUESTIONS[QUESTIONS["question_id"] == "t"], ["x"])
    assert ranked["x"][0] == ["b", "a"]
    splits = ["train", "validation"]
    assert facts == {"form": SCORES, "weight": 0.5, "map": 1.0, "questions": 1, "splits": splits}
    ranked, facts = strongest_untrained(dense, words, QUESTIONS[QUESTIONS["question_id"] == "v"], ["x"])
    assert ranked == {"x": DENSE}
    assert facts["weight"] == 0.0


def test_the_promoted_system_is_fused_as_its_release_says():
    assert as_released({"x": DENSE}, {"x": WORDS}, Fusion(SCORES, 0.0)) == {"x": DENSE}
    assert as_released({"x": DENSE}, {"x": WORDS}, Fusion(SCORES, 1.0))["x"] == (["b", "a"], [1.4, 1.1])
