"""Encoders with BM25: on which questions their weights are chosen, and what comes of it."""

import pandas as pd

from uae.evaluation.fused import choosing_questions, fused_with_bm25

QUESTIONS = pd.DataFrame(
    [("t", "train", ["b"]), ("v", "validation", ["a"]), ("w", "validation", []), ("x", "test", ["a"])],
    columns=["question_id", "split", "evidence"],
)
DENSE = (["a", "b"], [0.6, 0.4])
WORDS = (["b", "a"], [3.0, 1.5])


def test_no_test_question_chooses_and_a_trained_encoder_is_not_asked_about_what_it_learnt():
    chosen = {encoder: list(table["question_id"]) for encoder, table in choosing_questions(QUESTIONS).items()}
    assert chosen == {"base": ["t", "v"], "uae": ["v"]}
    assert choosing_questions(QUESTIONS[QUESTIONS["split"] == "test"]) == {}


def test_each_encoder_has_its_own_weight():
    everything = dict.fromkeys(("t", "v", "x"), DENSE)
    words = dict.fromkeys(("t", "v", "x"), WORDS)
    # Where "b" is the evidence words help; the base is asked about such a question twice, UAE about the other kind.
    chosen_on = {"base": QUESTIONS[QUESTIONS["question_id"] == "t"], "uae": QUESTIONS[QUESTIONS["question_id"] == "v"]}
    fused, weights = fused_with_bm25({"base": everything, "uae": everything}, words, chosen_on, ["x"])
    assert fused["convex_base"]["x"][0] == ["b", "a"]
    assert fused["convex_uae"]["x"] == DENSE
    assert (weights["convex_base"]["weight"], weights["convex_uae"]["weight"]) == (0.5, 0.0)
    assert weights["convex_base"]["splits"] == ["train", "validation"]
    assert weights["convex_uae"] == {"weight": 0.0, "map": 1.0, "questions": 1, "splits": ["validation"]}
