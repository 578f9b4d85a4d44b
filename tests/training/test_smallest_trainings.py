"""Every count at its smallest legal value: training ends in a student with a finite score, or in one of our errors."""

import numpy as np
import pandas as pd
import pytest
from small_training import changed, finds_nothing_useful, run

from uae.io.errors import ArtefactError
from uae.io.tables import CANDIDATES, QUESTIONS, read_table, write_table
from uae.training.objectives import OBJECTIVES
from uae.training.options import TrainOptions

SMALLEST = {
    "epochs": 1, "batch_size": 1, "gradient_accumulation": 1, "evaluations_per_epoch": 1, "patience": 1,
}  # fmt: skip


def test_these_are_legal():
    TrainOptions.model_validate(changed(rounds=1, top_k=1, **SMALLEST).model_dump())
    TrainOptions.model_validate(changed(reward=1.0, reward_batch_size=1, **SMALLEST).model_dump())


def keep(root, candidates: int = 6, train: int = 8, validation: int = 4, documents: int = 4):
    """So many candidates a question, questions a split and documents; the useful passage is the first candidate."""
    questions = read_table(root / "questions.parquet", QUESTIONS)
    parts = [questions[questions["split"] == split][:number] for split, number in (("train", train), ("validation", validation))]
    kept = pd.concat(parts).reset_index(drop=True)
    kept["doc_id"] = [f"d{number % documents}" for number in range(len(kept))]
    write_table(root / "questions.parquet", QUESTIONS, kept)
    pairs = read_table(root / "candidates.parquet", CANDIDATES)
    pairs = pairs[(pairs["rank"] <= candidates) & pairs["question_id"].isin(set(kept["question_id"]))]
    write_table(root / "candidates.parquet", CANDIDATES, pairs)


def is_sound(root, result: dict, name: str = "student") -> None:
    table = pd.read_csv(root / f"{name}.csv")
    assert np.isfinite(table["train_loss"].dropna()).all()
    assert table["validation_ndcg"].dropna().between(0, 1).all()
    assert table["validation_ndcg"].notna().sum() >= 2  # before, and after each epoch: early stopping has something to go by
    assert 0 <= result["validation_ndcg"] <= 1
    assert (root / name / "modules.json").exists()


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_one_candidate_a_question_and_one_question_a_batch(labelled, tiny_encoder, objective):
    keep(labelled, candidates=1)
    is_sound(labelled, run(labelled, tiny_encoder, "student", objective=objective, **SMALLEST))


@pytest.mark.parametrize(
    "kept", [{"train": 1}, {"validation": 1}, {"train": 1, "validation": 1, "candidates": 2}, {"train": 1, "candidates": 1}]
)
@pytest.mark.parametrize("negatives", [True, False])
def test_one_question_of_a_split(labelled, tiny_encoder, kept, negatives):
    keep(labelled, **kept)
    is_sound(labelled, run(labelled, tiny_encoder, "student", in_batch_negatives=negatives, **SMALLEST))


def test_one_candidate_a_question_is_ranked_among_those_of_the_other_questions(labelled, tiny_encoder):
    """So that early stopping works: with a learning rate of 0 no epoch is better than the first."""
    keep(labelled, candidates=1)
    result = run(labelled, tiny_encoder, "student", epochs=5, learning_rate=0.0, patience=1)
    assert result["steps"] == 4  # two epochs of two steps
    assert 0 < result["validation_ndcg"] < 1


def test_one_passage_in_all_to_validate_by_is_a_clear_error_before_training(labelled, tiny_encoder):
    keep(labelled, candidates=1, validation=1)
    with pytest.raises(ArtefactError, match=r"one passage in all.*candidates\.top_k"):
        run(labelled, tiny_encoder, "student", **SMALLEST)
    assert not (labelled / "student").exists()


def test_one_refreshed_candidate_after_one_epoch(labelled, tiny_encoder):
    keep(labelled, candidates=1)
    terms = SMALLEST | {"epochs": 2, "rounds": 1, "top_k": 1}
    is_sound(labelled, run(labelled, tiny_encoder, "student", ask=finds_nothing_useful(labelled, "student"), **terms))
    final = read_table(labelled / "student-refreshed.parquet", CANDIDATES)
    assert not final.duplicated(["question_id", "passage_id"]).any()


def test_two_folds_of_two_documents(labelled, tiny_encoder):
    keep(labelled, candidates=2, train=2, validation=1, documents=2)
    result = run(labelled, tiny_encoder, "student", reward=1.0, reward_batch_size=1, **SMALLEST)
    is_sound(labelled, result)
    assert all(value is None or np.isfinite(value) for value in result["reward_model"].values())


@pytest.mark.parametrize("kept", [{"candidates": 1}, {"documents": 1}])
def test_a_reward_model_without_pairs_or_folds_is_a_clear_error(labelled, tiny_encoder, kept):
    keep(labelled, **kept)
    with pytest.raises(ArtefactError, match=r"two labelled passages|set fewer folds"):
        run(labelled, tiny_encoder, "student", reward=1.0, **SMALLEST)


@pytest.mark.parametrize("objective", ["utility_infonce", "margin_mse"])
def test_weights_that_training_makes_infinite_are_an_error_that_says_what_to_do(labelled, tiny_encoder, objective):
    with pytest.raises(ArtefactError, match=r"infinite or NaN: take a lower train\.learning_rate"):
        run(labelled, tiny_encoder, "student", objective=objective, learning_rate=1e38, epochs=3)
    assert not (labelled / "student").exists()
