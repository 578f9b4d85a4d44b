"""The reward model: what it learns of noisy utilities, what each fold sees, and what a killed run leaves."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import CrossEncoder

from uae.io.errors import ArtefactError, ModelError
from uae.io.files import read_json, write_text
from uae.io.tables import read_table
from uae.training import reward
from uae.training.options import RewardOptions
from uae.training.reward import SCORES, denoised_utilities, parts, quality
from uae.training.reward_model import difference_loss, fit_reward_model

OPTIONS = RewardOptions(
    share=1.0, folds=2, epochs=8, batch_size=4, learning_rate=3e-3, warmup=0.1, weight_decay=0.0, dropout=0.0, precision="auto"
)
QUICK = RewardOptions(
    share=1.0, folds=2, epochs=1, batch_size=8, learning_rate=1e-3, warmup=0.0, weight_decay=0.0, dropout=0.1, precision="auto"
)
NAMES = ["seal", "fan", "key", "lamp", "door", "coil", "pump", "hose", "rack", "tray", "lock", "vent"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Two questions in each of 18 documents. A passage with a date helps by 2 nats; readings are off by 1, levels by 3."""
    draw = np.random.default_rng(4)
    rows = []
    for number in range(36):
        level = draw.normal(0, 3)
        for place in range(6):
            helps = place < 2
            name = NAMES[draw.integers(12)]
            text = f"The {name} was 1987 1987 1987." if helps else f"The {name} was not the {NAMES[draw.integers(12)]}."
            rows.append(
                {"question_id": f"q{number:02}", "passage_id": f"p{number:02}-{place}", "text": text}
                | {"question": f"When was the {NAMES[number % 12]} built?", "document": f"d{number // 2:02}"}
                | {"utility": level + 2.0 * helps + draw.normal(), "truth": level + 2.0 * helps}
                | {"split": "train" if number < 30 else "validation"}
            )
    return pd.DataFrame(rows)


def run(table, base: Path, path: Path, options=QUICK, share=1.0, seed=1) -> tuple[pd.DataFrame, dict]:
    return denoised_utilities(table, base, path, options.model_copy(update={"share": share}), "cpu", seed)


def within(values: pd.Series, table: pd.DataFrame) -> pd.Series:
    return values - values.groupby(table["question_id"]).transform("mean")


def test_noise_is_taken_away_out_of_fold_and_on_validation(table, tiny_encoder, tmp_path):
    denoised, measured = run(table, tiny_encoder, tmp_path / "reward", OPTIONS)
    truth = within(table["truth"], table)
    for split in ("train", "validation"):
        own = table["split"] == split
        noise = ((within(table["utility"], table) - truth)[own] ** 2).mean()
        left = ((within(denoised["utility"], table) - truth)[own] ** 2).mean()
        assert left < 0.5 * noise
        assert np.corrcoef(within(denoised["utility"], table)[own], truth[own])[0, 1] > 0.8
    assert 0.4 < measured["spearman_with_raw"] < 1
    assert 0.2 < measured["variance_explained"] < 0.8  # about half of the variance is noise, and cannot be explained
    assert measured["mse"] == pytest.approx(
        (1 - measured["variance_explained"]) * within(table["utility"], table)[:180].var(ddof=0)
    )


def test_levels_stay_those_of_the_raw_utilities_and_the_share_blends(table, tiny_encoder, tmp_path):
    results = {share: run(table, tiny_encoder, tmp_path / "reward", share=share)[0]["utility"] for share in (0.0, 0.25, 1.0)}
    np.testing.assert_allclose(results[0.0], table["utility"])
    np.testing.assert_allclose(results[0.25], 0.75 * table["utility"] + 0.25 * results[1.0])
    means = [values.groupby(table["question_id"]).mean() for values in (results[1.0], table["utility"])]
    np.testing.assert_allclose(*means)
    scores = read_table(tmp_path / "reward" / "scores.parquet", SCORES).set_index("passage_id")["score"]
    score = table["passage_id"].map(scores)
    np.testing.assert_allclose(within(results[1.0], table), within(score, table), atol=1e-12)
    # what is kept at the path is a model that gives these scores, in nats, to whoever loads it
    model = CrossEncoder(str(tmp_path / "reward"), device="cpu", local_files_only=True)
    rows = table[table["split"] == "validation"]
    predicted = model.predict(list(zip(rows["question"], rows["text"], strict=True)))
    np.testing.assert_allclose(predicted, scores[rows["passage_id"]], rtol=1e-5)
    assert (tmp_path / "reward" / "model.safetensors").exists()


def test_folds_are_whole_documents_and_every_pair_is_scored_once(table):
    folds = list(parts(table, 4))
    assert len(folds) == 5
    for seen, scored in folds:
        assert set(seen["split"]) == {"train"}
        assert not set(seen["document"]) & set(scored["document"])
    assert sorted(pair for _, scored in folds for pair in scored["passage_id"]) == sorted(table["passage_id"])
    seen, scored = folds[-1]
    assert len(seen) == 180
    assert set(scored["split"]) == {"validation"}
    sizes = [len(scored) for _, scored in folds[:-1]]
    assert max(sizes) - min(sizes) <= 12  # one document


def test_questions_of_no_document_are_folded_one_by_one(table):
    folds = list(parts(table.assign(document=""), 3))
    assert all(not set(seen["question_id"]) & set(scored["question_id"]) for seen, scored in folds)


class Fake:
    """Stands for a fitted model; remembers what it saw and what it was asked."""

    def __init__(self, seen: pd.DataFrame):
        self.seen, self.asked = set(seen["document"]), []

    def predict(self, pairs, **options):
        self.asked += pairs
        return np.array([float(len(text)) for _, text in pairs])

    def save(self, path, **options):
        write_text(Path(path) / "model", "")


def fakes(monkeypatch, fails_at: int | None = None) -> list[Fake]:
    models: list[Fake] = []

    def fit(rows, *arguments):
        if len(models) == fails_at:
            raise KeyboardInterrupt
        models.append(Fake(rows))
        return models[-1]

    monkeypatch.setattr(reward, "fit_reward_model", fit)
    return models


def test_no_train_pair_is_scored_by_a_model_that_saw_its_document(table, tiny_encoder, tmp_path, monkeypatch):
    models = fakes(monkeypatch)
    marked = table.assign(text=table["document"] + " " + table["text"])
    run(marked, tiny_encoder, tmp_path / "reward", QUICK.model_copy(update={"folds": 3}))
    assert len(models) == 4
    for model in models:
        assert not model.seen & {text.split()[0] for _, text in model.asked}
    train = set(table.loc[table["split"] == "train", "document"])
    assert [len(model.seen) for model in models] == [10, 10, 10, 15]
    assert models[-1].seen == train


def test_same_seed_same_weights_and_another_seed_others(table, tiny_encoder):
    first, second, third = (fit_reward_model(table, tiny_encoder, QUICK, "cpu", seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_nothing_is_fitted_again_until_something_changes(table, tiny_encoder, tmp_path, monkeypatch):
    models = fakes(monkeypatch)
    path = tmp_path / "reward"
    first = run(table, tiny_encoder, path)
    second = run(table, tiny_encoder, path)
    assert len(models) == 3
    pd.testing.assert_frame_equal(first[0], second[0])
    assert first[1] == second[1]
    run(table, tiny_encoder, path, share=0.5)
    assert len(models) == 3
    changed = table.copy()
    changed.loc[3, "utility"] += 1e-6
    for arguments in ({"table": changed}, {"seed": 2}, {"options": QUICK.model_copy(update={"folds": 5})}):
        before = len(models)
        run(**{"table": table, "base": tiny_encoder, "path": path} | arguments)
        assert len(models) == before + arguments.get("options", QUICK).folds + 1


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_killed_run_leaves_the_old_model_and_goes_on_where_it_was(table, tiny_encoder, tmp_path, monkeypatch, fails_at):
    path = tmp_path / "reward"
    fakes(monkeypatch)
    run(table, tiny_encoder, path, seed=7)
    old = read_json(path / "reward.json")
    fakes(monkeypatch, fails_at)
    with pytest.raises(KeyboardInterrupt):
        run(table, tiny_encoder, path)
    assert read_json(path / "reward.json") == old
    models = fakes(monkeypatch)
    resumed = run(table, tiny_encoder, path)
    assert len(models) == 3 - fails_at
    pd.testing.assert_frame_equal(resumed[0], run(table, tiny_encoder, tmp_path / "uninterrupted")[0])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["reward", "uninterrupted"]


def test_folds_of_another_table_are_not_taken(table, tiny_encoder, tmp_path, monkeypatch):
    fakes(monkeypatch, fails_at=1)
    with pytest.raises(KeyboardInterrupt):
        run(table, tiny_encoder, tmp_path / "reward", seed=7)
    models = fakes(monkeypatch)
    run(table, tiny_encoder, tmp_path / "reward")
    assert len(models) == 3


def test_the_unit_of_the_utilities_does_not_matter(table, tiny_encoder):
    pairs = [(table["question"][0], text) for text in table["text"][:6]]
    small, large = (
        fit_reward_model(table.assign(utility=table["utility"] * factor), tiny_encoder, QUICK, "cpu", 1).predict(pairs)
        for factor in (1, 8)
    )
    np.testing.assert_allclose(large, 8 * small, rtol=1e-4)


def test_loss_is_half_of_margin_mse_over_all_pairs():
    torch.manual_seed(0)
    scores, utilities = torch.randn(2, 5, dtype=torch.float64)
    margins = (scores[:, None] - scores) - (utilities[:, None] - utilities)
    assert difference_loss(scores, utilities).item() == pytest.approx(0.5 * (margins**2).sum().item() / (5 * 4))
    assert difference_loss(scores + 3, utilities).item() == pytest.approx(difference_loss(scores, utilities).item())
    assert difference_loss(utilities - 1, utilities).item() == pytest.approx(0)


def test_quality_worked_out_by_hand():
    frame = pd.DataFrame({"question_id": ["a", "a", "a", "b", "b", "c"], "utility": [0.0, 1.0, 2.0, 5.0, 3.0, 9.0]})
    # a: the same order; b: the opposite one; c has no order. Errors of a: 0; of b: 1 + 1 about its mean, doubled by the sign.
    found = quality(frame, pd.Series([10.0, 11.0, 12.0, 3.0, 5.0, 0.0]))
    assert found["spearman_with_raw"] == pytest.approx(0)
    assert found["mse"] == pytest.approx((0 + 4 + 4) / 5)
    assert found["variance_explained"] == pytest.approx(1 - 8 / (2 + 2))
    alone = quality(frame[5:], pd.Series([1.0], index=[5]))
    assert alone == {"spearman_with_raw": None, "mse": None, "variance_explained": None}


def test_what_cannot_be_fitted_is_a_clear_error(table, tiny_encoder, tmp_path):
    with pytest.raises(ArtefactError, match="there are 1: set fewer folds"):
        run(table[table["document"].isin(["d00", "d17"])], tiny_encoder, tmp_path / "reward")
    with pytest.raises(ArtefactError, match="no question of its part has two"):
        run(table.drop_duplicates("question_id"), tiny_encoder, tmp_path / "reward")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be loaded"):
        run(table, tmp_path, tmp_path / "reward")
    assert not (tmp_path / "reward").exists()
