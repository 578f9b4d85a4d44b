"""Training on a tiny student: what is learnt, what is kept, and that a seed gives the same result twice."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformerTrainer
from small_training import AGGREGATION, changed, finds_nothing_useful, run

from uae.io.errors import ArtefactError
from uae.io.files import read_json, write_json
from uae.io.models import fingerprint
from uae.io.tables import CANDIDATES, QUESTIONS, read_table, write_table
from uae.retrievers.dense import encode, load_encoder
from uae.training.agreement import Agreement
from uae.training.objectives import OBJECTIVES
from uae.training.second_stage import PairAgreement


def losses_and_scores(curve: Path) -> tuple[list[float], list[float]]:
    table = pd.read_csv(curve)
    return table["train_loss"].dropna().tolist(), table["validation_ndcg"].dropna().tolist()


def test_the_loss_falls_and_the_best_checkpoint_is_kept(labelled, tiny_encoder):
    """What a handful of made-up questions teach a random encoder helps others by chance only: the validation score may fall."""
    result = run(labelled, tiny_encoder, "student")
    losses, scores = losses_and_scores(labelled / "student.csv")
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert result["validation_ndcg"] == pytest.approx(max(scores[1:]), abs=1e-4)
    assert scores[0] == pytest.approx(result["validation_ndcg_before"], abs=1e-4)


def test_same_seed_gives_the_same_weights_and_another_seed_others(labelled, tiny_encoder):
    first = run(labelled, tiny_encoder, "a", epochs=1)["fingerprint"]
    assert run(labelled, tiny_encoder, "b", epochs=1)["fingerprint"] == first == fingerprint(labelled / "b")
    assert run(labelled, tiny_encoder, "c", epochs=1, seed=3)["fingerprint"] != first


@pytest.fixture
def products(monkeypatch) -> dict[str, set[torch.dtype]]:
    """In which number formats linear layers computed, in steps and in evaluations, of the student and of the second stage."""
    seen, forward = {"steps": set(), "evaluations": set()}, torch.nn.Linear.forward
    evaluating = []

    def noted(self, *args):
        found = forward(self, *args)
        if evaluating or torch.is_grad_enabled():
            seen["evaluations" if evaluating else "steps"].add(found.dtype)
        return found

    monkeypatch.setattr(torch.nn.Linear, "forward", noted)
    for kind in (Agreement, PairAgreement):

        def scores(self, model, of_kind=kind.scores):
            evaluating.append(model)
            try:
                return of_kind(self, model)
            finally:
                evaluating.pop()

        monkeypatch.setattr(kind, "scores", scores)
    return seen


@pytest.mark.parametrize(("precision", "of_steps"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
@pytest.mark.parametrize("towers", ["both", "query"])
def test_steps_are_taken_in_the_format_that_is_named_and_all_else_in_float32(
    labelled, tiny_encoder, products, precision, of_steps, towers
):
    second = changed().second_stage.model_copy(update={"precision": precision, "epochs": 1})
    result = run(
        labelled, tiny_encoder, "student", epochs=2, precision=precision, towers=towers, second_base=tiny_encoder,
        second_stage=second,
    )  # fmt: skip
    assert products == {"steps": {of_steps}, "evaluations": {torch.float32}}
    losses, scores = losses_and_scores(labelled / "student.csv")
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert result["validation_ndcg"] == pytest.approx(max(scores[1:]), abs=1e-4)
    assert {weights.dtype for weights in load_encoder(labelled / "student", "cpu").parameters()} == {torch.float32}


def test_metrics_of_every_step_are_logged(labelled, tiny_encoder):
    logged = []
    result = run(labelled, tiny_encoder, "student", lambda metrics, step: logged.append((step, metrics)), epochs=2)
    losses = {step: metrics["loss"] for step, metrics in logged if "loss" in metrics}
    assert sorted(losses) == list(range(1, result["steps"] + 1))
    assert np.isfinite(list(losses.values())).all()
    assert any("eval_validation_ndcg" in metrics for _, metrics in logged)


def test_aggregation_decides_what_is_learnt(labelled, tiny_encoder):
    """Spread over 0 to 1, the gap between the passages is smaller than in nats: other targets, another loss."""
    losses = []
    for teachers in ("none", "minmax"):
        logged = []
        log = functools.partial(lambda logged, metrics, step: logged.append(metrics), logged)
        run(labelled, tiny_encoder, teachers, log, AGGREGATION | {"teachers": teachers}, epochs=1)
        losses.append(next(metrics["loss"] for metrics in logged if "loss" in metrics))
    assert losses[0] != losses[1]


def test_missing_labels_and_empty_split_are_clear_errors(labelled, tiny_encoder):
    manifest = read_json(labelled / "labels.json")
    manifest["teachers"][0]["fingerprint"] = "another"
    write_json(labelled / "labels.json", manifest)
    with pytest.raises(ArtefactError, match="run the label stage again"):
        run(labelled, tiny_encoder, "student")
    assert not (labelled / "student").exists()


class Killed(Exception):
    pass


def kill_at_the_end(metrics, at):
    if "train_runtime" in metrics:
        raise Killed


def kill_at(step: int):
    def log(metrics, at):
        if "loss" in metrics and at == step:
            raise Killed

    return log


@pytest.fixture
def steps(monkeypatch) -> list:
    """Grows by one with every step that any training takes."""
    taken, step = [], SentenceTransformerTrainer.training_step

    def counted(*args, **kwargs):
        taken.append(step)
        return step(*args, **kwargs)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", counted)
    return taken


def logged_losses(logged: list) -> list:
    return [(at, metrics["loss"], metrics["grad_norm"]) for metrics, at in logged if "loss" in metrics]


@pytest.mark.parametrize("evaluations", [1, 2])
@pytest.mark.parametrize("step", [1, 3, 4])  # an epoch has two steps: before any checkpoint, and after one or more
def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_does(labelled, tiny_encoder, steps, step, evaluations):
    changes = {"epochs": 3, "evaluations_per_epoch": evaluations}
    at_once, in_two = [], []
    whole = run(labelled, tiny_encoder, "whole", lambda *logged: at_once.append(logged), **changes)
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "cut", kill_at(step), **changes)
    assert not (labelled / "cut").exists()
    steps.clear()
    resumed = run(labelled, tiny_encoder, "cut", lambda *logged: in_two.append(logged), **changes)
    kept = step - 1 if evaluations == 2 else 2 * ((step - 1) // 2)  # up to the last checkpoint
    assert len(steps) == 6 - kept  # what was done is not done again
    assert resumed["fingerprint"] == whole["fingerprint"]
    assert (labelled / "cut.csv").read_text() == (labelled / "whole.csv").read_text()
    assert logged_losses(in_two) == logged_losses(at_once)
    assert not list(labelled.glob(".cut.*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2},
        {"epochs": 5, "learning_rate": 0.0, "patience": 1},  # stops early, after two epochs
        {"epochs": 5, "learning_rate": 0.0, "patience": 2, "evaluations_per_epoch": 2},  # after one and a half
        {"epochs": 5, "learning_rate": 0.0, "patience": 1, "evaluations_per_epoch": 4, "batch_size": 2},  # after a half
        {"epochs": 2, "towers": "query"},
    ],
)
def test_a_run_killed_when_it_had_been_trained_takes_no_step(labelled, tiny_encoder, steps, changes):
    at_once, in_two = [], []
    whole = run(labelled, tiny_encoder, "whole", lambda *logged: at_once.append(logged), **changes)
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "cut", kill_at_the_end, **changes)
    assert not (labelled / "cut").exists()
    steps.clear()
    resumed = run(labelled, tiny_encoder, "cut", lambda *logged: in_two.append(logged), **changes)
    assert not steps
    assert logged_losses(in_two) == logged_losses(at_once) != []
    for name in ("fingerprint", "steps", "validation_ndcg"):
        assert resumed[name] == whole[name]
    assert (labelled / "cut.csv").read_text() == (labelled / "whole.csv").read_text()
    assert not list(labelled.glob(".cut.*"))


def test_a_kill_among_the_rivals_costs_no_student_that_was_fitted(labelled, tiny_encoder, monkeypatch):
    rivals = ["infonce", "kl", "margin_mse"]
    terms = {"epochs": 2, "rivals": rivals}
    whole = run(labelled, tiny_encoder, "whole", **terms)
    step = SentenceTransformerTrainer.training_step
    steps = []

    def step_or_die(trainer, *args, **kwargs):
        steps.append(trainer)
        if len(steps) == 9:  # the first of the second rival; each takes four
            raise Killed
        return step(trainer, *args, **kwargs)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", step_or_die)
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "cut", **terms)
    assert not (labelled / "cut-rivals").exists()
    resumed = run(labelled, tiny_encoder, "cut", **terms)
    assert len(steps) == 9 + 4 + 4
    assert resumed["fingerprint"] == whole["fingerprint"]
    for name in rivals:
        assert fingerprint(labelled / "cut-rivals" / name) == fingerprint(labelled / "whole-rivals" / name)
    assert not list(labelled.glob(".cut*"))


def test_checkpoints_of_another_recipe_and_broken_ones_are_not_gone_on_from(labelled, tiny_encoder):
    whole = run(labelled, tiny_encoder, "whole", epochs=2, learning_rate=1e-3)
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "cut", kill_at(3), epochs=2)
    assert run(labelled, tiny_encoder, "cut", epochs=2, learning_rate=1e-3)["fingerprint"] == whole["fingerprint"]
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "torn", kill_at(3), epochs=2, learning_rate=1e-3)
    state = next((labelled / ".torn.checkpoints" / "student").glob("checkpoint-*/trainer_state.json"))
    state.write_text(state.read_text()[:40])
    assert run(labelled, tiny_encoder, "torn", epochs=2, learning_rate=1e-3)["fingerprint"] == whole["fingerprint"]


def test_accumulated_batches_make_one_step(labelled, tiny_encoder):
    assert run(labelled, tiny_encoder, "a", epochs=2)["steps"] == 4
    assert run(labelled, tiny_encoder, "b", epochs=2, gradient_accumulation=2)["steps"] == 2


def test_few_questions_make_smaller_batches_and_not_an_epoch_of_one_step(labelled, tiny_encoder):
    sizes = {questions: changed(batch_size=32).for_questions(questions).batch_size for questions in (8, 26, 60, 191, 192, 900)}
    assert sizes == {8: 4, 26: 4, 60: 10, 191: 31, 192: 32, 900: 32}
    assert changed(batch_size=32, gradient_accumulation=2).for_questions(192).batch_size == 16
    assert changed(batch_size=2).for_questions(8).batch_size == 2
    result = run(labelled, tiny_encoder, "student", epochs=2, batch_size=32)
    assert (result["questions_per_batch"], result["steps"]) == (4, 4)


def test_evidence_is_read_only_when_asked_for(labelled, tiny_encoder):
    """Other evidence: the same student for UAE, another one for those that read it."""
    fingerprints = []
    for evidence in (["p03"], ["p07"]):
        questions = read_table(labelled / "questions.parquet", QUESTIONS)
        questions["evidence"] = [evidence] * len(questions)
        write_table(labelled / "questions.parquet", QUESTIONS, questions)
        fingerprints.append(
            [
                run(labelled, tiny_encoder, "student", epochs=1, **changes)["fingerprint"]
                for changes in ({}, {"evidence_share": 0.5}, {"objective": "infonce"})
            ]
        )
    same = [first == second for first, second in zip(*fingerprints, strict=True)]
    assert same == [True, False, False]


def test_rivals_are_what_training_with_their_objective_gives(labelled, tiny_encoder):
    run(labelled, tiny_encoder, "student", epochs=2, rivals=["infonce"])
    alone = run(labelled, tiny_encoder, "alone", epochs=2, objective="infonce")
    assert fingerprint(labelled / "student-rivals" / "infonce") == alone["fingerprint"]


def test_a_reward_model_changes_what_is_taught(labelled, tiny_encoder):
    raw = run(labelled, tiny_encoder, "raw", epochs=1)
    smoothed = run(labelled, tiny_encoder, "smoothed", epochs=1, reward=0.5)
    assert smoothed["fingerprint"] != raw["fingerprint"]
    assert -1 <= smoothed["reward_model"]["spearman_with_raw"] <= 1
    assert "reward_model" not in raw


def test_every_objective_trains(labelled, tiny_encoder):
    """Each its own way; but with one useful passage a question, which is its evidence, Disj-InfoNCE is InfoNCE."""
    results = {name: run(labelled, tiny_encoder, name, epochs=1, objective=name)["fingerprint"] for name in OBJECTIVES}
    assert results.pop("disj_infonce") == results["infonce"]
    assert len(set(results.values())) == len(results)


@pytest.mark.parametrize("towers", ["query", "adapter"])
def test_cheap_towers_leave_document_vectors_as_they_are(labelled, tiny_encoder, towers):
    run(labelled, tiny_encoder, "student", towers=towers, epochs=3)
    losses, _ = losses_and_scores(labelled / "student.csv")
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    base, student = load_encoder(tiny_encoder, "cpu"), load_encoder(labelled / "student", "cpu")
    texts = ["It stands on shelf 4.", "Where is the fan?"]
    assert np.array_equal(encode(base, texts, "document"), encode(student, texts, "document"))
    assert not np.allclose(encode(base, texts, "query"), encode(student, texts, "query"))


def test_what_the_student_ranks_high_is_put_to_the_teacher(labelled, tiny_encoder):
    """After the first epoch, and the second: candidates that nobody judged, and only those of the train split."""
    asked = []
    answer = finds_nothing_useful(labelled, "student")

    def ask(path):
        asked.append(path)
        answer(path)

    result = run(labelled, tiny_encoder, "student", rounds=2, ask=ask, epochs=3)
    assert result["steps"] == 6
    assert len(asked) == 2
    final = read_table(labelled / "student-refreshed.parquet", CANDIDATES)
    fresh = final[final["source"] == "refreshed"]
    assert len(fresh) > 0
    assert set(fresh["question_id"]) <= {f"q{n:02}" for n in range(8)}
    assert not final.duplicated(["question_id", "passage_id"]).any()
    assert fresh["rank"].max() <= 3


@pytest.mark.parametrize("changes", [{"epochs": 3}, {"epochs": 6, "learning_rate": 0.0, "patience": 1}])
@pytest.mark.parametrize("evaluations", [1, 2])
def test_what_was_refreshed_outlives_a_kill_at_the_end(labelled, tiny_encoder, changes, evaluations):
    terms = changes | {"rounds": 2, "rivals": ["kl"], "evaluations_per_epoch": evaluations}
    run(labelled, tiny_encoder, "whole", ask=finds_nothing_useful(labelled, "whole"), **terms)
    with pytest.raises(Killed):
        run(labelled, tiny_encoder, "cut", kill_at_the_end, ask=finds_nothing_useful(labelled, "cut"), **terms)
    run(labelled, tiny_encoder, "cut", ask=finds_nothing_useful(labelled, "cut"), **terms)
    for name in ("", "-rivals/kl"):
        assert fingerprint(labelled / f"cut{name}") == fingerprint(labelled / f"whole{name}")
    cut, whole = (read_table(labelled / f"{name}-refreshed.parquet", CANDIDATES) for name in ("cut", "whole"))
    pd.testing.assert_frame_equal(cut, whole)


def test_calibration_takes_the_temperature_from_validation_evidence(labelled, tiny_encoder):
    """Here the teacher is always right: the sharpest temperature is the likeliest."""
    assert run(labelled, tiny_encoder, "student", epochs=1)["teacher_temperature"] == 0.5
    assert run(labelled, tiny_encoder, "student", epochs=1, calibrate=True)["teacher_temperature"] < 0.1


def test_training_stops_when_the_validation_score_does_not_rise(labelled, tiny_encoder):
    """With a learning rate of 0 nothing changes, so that no epoch after the first is better."""
    patient = run(labelled, tiny_encoder, "patient", epochs=5, learning_rate=0.0, patience=5)
    hasty = run(labelled, tiny_encoder, "hasty", epochs=5, learning_rate=0.0, patience=1)
    assert (patient["steps"], hasty["steps"]) == (10, 4)
