"""Training on a tiny student: what is learnt, what is kept, and that a seed gives the same result twice."""

from pathlib import Path

import numpy as np
import pytest

from uae.errors import ArtefactError
from uae.files import read_json, write_json
from uae.sources import fingerprint
from uae.tables import CANDIDATES, LABELS, PASSAGES, QUESTIONS, write_table
from uae.teacher.asking import answer_id
from uae.teacher.store import LabelStore
from uae.training.train import train


@pytest.fixture
def labelled(tmp_path) -> Path:
    """Twelve questions over six passages each; the teacher finds the passage of the same number useful."""
    names = ["seal", "fan", "key", "lamp", "door", "coil", "pump", "hose", "rack", "tray", "lock", "vent"]
    questions, passages, pairs, readings = [], [], [], []
    for n, name in enumerate(names):
        place = {"doc_id": f"d{n % 4}", "section": "", "start": 0, "end": 1}
        passages.append(
            place | {"passage_id": f"p{n:02}", "position": n, "text": f"It stands on shelf {n}, beside {names[n - 5]}."}
        )
        questions.append(
            {"question_id": f"q{n:02}", "text": f"Where is the {name}?", "answers": [f"shelf {n}"], "doc_id": f"d{n % 4}"}
            | {"evidence": [], "split": "train" if n < 8 else "validation", "origin": "human", "source": ""}
        )
        common = {"question_id": f"q{n:02}", "answer_id": answer_id(f"shelf {n}"), "template": "t", "teacher": "T"}
        readings.append(common | {"passage_id": "", "nll_sum": 9.0, "n_tokens": 3, "truncated": False})
        for step in range(6):
            other = f"p{(n + step) % 12:02}"
            pairs.append({"question_id": f"q{n:02}", "passage_id": other, "source": "dense", "rank": step + 1, "score": 0.5})
            nll = 1.0 if step == 0 else 9.0
            readings.append(common | {"passage_id": other, "nll_sum": nll, "n_tokens": 3, "truncated": False})
    write_table(tmp_path / "questions.parquet", QUESTIONS, questions)
    write_table(tmp_path / "passages.parquet", PASSAGES, passages)
    write_table(tmp_path / "candidates.parquet", CANDIDATES, pairs)
    store = LabelStore(tmp_path / "labels", 1000)
    with store.writing():
        store.append([{name: row[name] for name in LABELS.names} for row in readings], {"backend": "made up"})
    teacher = {"name": "main", "fingerprint": "T", "method": "answer_likelihood", "grades": [], "weight": 1.0}
    teacher |= {"templates": {"t": {}}, "check_templates": {}}
    write_json(tmp_path / "labels.json", {"teachers": [teacher], "answers_per_question": 1})
    return tmp_path


def run(root: Path, base: Path, out: str, log=lambda metrics, step: None, **changes) -> dict:
    arguments = {
        "epochs": 6, "batch_size": 4, "learning_rate": 3e-3, "warmup": 0.0, "weight_decay": 0.0, "dropout": 0.0,
        "teacher_temperature": 0.5, "aggregation": {"answers": "mean", "templates": "mean", "teachers": "none"},
        "student_temperature": 0.05, "in_batch_negatives": True, "patience": 6,
        "device": "cpu", "seed": 1, "log_metrics": log,
    }  # fmt: skip
    files = ("candidates.parquet", "passages.parquet", "questions.parquet", "labels", "labels.json")
    paths = [root / name for name in files]
    return train(*paths, base, root / out, root / f"{out}.csv", **arguments | changes)


def test_agreement_with_the_teacher_rises_and_the_best_checkpoint_is_kept(labelled, tiny_encoder):
    result = run(labelled, tiny_encoder, "student")
    rows = [line.split(",") for line in (labelled / "student.csv").read_text().splitlines()[1:]]
    scores = [float(score) for _, _, score in rows if score]
    assert result["validation_teacher_ndcg"] > result["validation_teacher_ndcg_before"]
    assert result["validation_teacher_ndcg"] == pytest.approx(max(scores[1:]), abs=1e-4)
    assert scores[0] == pytest.approx(result["validation_teacher_ndcg_before"], abs=1e-4)


def test_same_seed_gives_the_same_weights_and_another_seed_others(labelled, tiny_encoder):
    first = run(labelled, tiny_encoder, "a", epochs=1)["fingerprint"]
    assert run(labelled, tiny_encoder, "b", epochs=1)["fingerprint"] == first == fingerprint(labelled / "b")
    assert run(labelled, tiny_encoder, "c", epochs=1, seed=3)["fingerprint"] != first


def test_metrics_of_every_step_are_logged(labelled, tiny_encoder):
    logged = []
    result = run(labelled, tiny_encoder, "student", lambda metrics, step: logged.append((step, metrics)), epochs=2)
    losses = {step: metrics["loss"] for step, metrics in logged if "loss" in metrics}
    assert sorted(losses) == list(range(1, result["steps"] + 1))
    assert np.isfinite(list(losses.values())).all()
    assert any("eval_teacher_ndcg" in metrics for _, metrics in logged)


def test_aggregation_decides_what_is_learnt(labelled, tiny_encoder):
    """Spread over 0 to 1, the gap between the passages is smaller than in nats: other targets, another loss."""
    losses = []
    for teachers in ("none", "minmax"):
        logged = []
        changes = {"epochs": 1, "aggregation": {"answers": "mean", "templates": "mean", "teachers": teachers}}
        run(labelled, tiny_encoder, teachers, lambda metrics, step, logged=logged: logged.append(metrics), **changes)
        losses.append(next(metrics["loss"] for metrics in logged if "loss" in metrics))
    assert losses[0] != losses[1]


def test_missing_labels_and_empty_split_are_clear_errors(labelled, tiny_encoder):
    manifest = read_json(labelled / "labels.json")
    manifest["teachers"][0]["fingerprint"] = "another"
    write_json(labelled / "labels.json", manifest)
    with pytest.raises(ArtefactError, match="run the label stage again"):
        run(labelled, tiny_encoder, "student")
    assert not (labelled / "student").exists()
