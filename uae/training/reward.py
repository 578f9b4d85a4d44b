"""Utilities smoothed by a reward model: a small cross-encoder is fitted to them, and its scores then teach the bi-encoder.

A raw utility is one reading of a noisy instrument: the answer's length, the prompt's wording and what the teacher knows by itself
all move it. A model that predicts it from question and passage alone keeps only what many readings have in common.
FlagEmbedding found direct distillation of such scores to work worse than through a re-ranker trained on them (its issue 553).
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from sentence_transformers import CrossEncoder
from sklearn.model_selection import GroupKFold
from tqdm import tqdm

from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, sha256_bytes, write_json
from uae.io.models import fingerprint
from uae.io.tables import read_table, write_table
from uae.training.options import RewardOptions
from uae.training.reward_model import centred, fit_reward_model

SCORES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),  # nats per token; differences within a question have a meaning
    ]
)
_COLUMNS = ["question_id", "passage_id", "utility", "text", "question", "split", "document"]


def denoised_utilities(
    table: pd.DataFrame, base_path: Path, reward_path: Path, options: RewardOptions, device: str, seed: int
) -> tuple[pd.DataFrame, dict[str, float | None]]:
    """The table with utilities smoothed by a reward model, in the unit and with the zero of the raw ones.

    ``u' = share (mean u + s - mean s) + (1 - share) u``, means over the question's passages. Their order and distances come
    from the scores ``s``. Their level comes from the raw utilities ``u``: it is the mean, which is their steadiest part. No
    pair of the train split is scored by a model that saw its document: the documents are divided into folds, each scored by a
    model fitted to the others. All other pairs are scored by a model fitted to the whole train split, kept at ``reward_path``
    with the scores.

    Nothing is fitted where ``reward_path`` holds the outcome of the same table, base and options. After a kill, the next call
    goes on at the fold that was interrupted.

    Args:
        table: columns question_id, passage_id, utility, text, question, split, document.
        base_path: the encoder to start from, in the sentence-transformers layout.
        options: with a share of 1 the reward model alone counts, with 0 the raw utilities.

    Returns:
        the table with other utilities, and the quality of the scores on the train split, out of fold: ``spearman_with_raw``, the
        mean over questions of the rank correlation with raw utilities; ``mse``, the mean squared error of utilities less their
        question's mean, in squared nats; ``variance_explained``, the share of those utilities' variance that the scores explain
        (1: all of it, 0: no better than equal scores). Each is None where it is not defined.

    Raises:
        ArtefactError: the train split has fewer documents than folds, or no question with two passages.
        ModelError: the base cannot be loaded.
    """
    identity = _identity(table, base_path, options, seed)
    manifest_path = reward_path / "reward.json"
    if not manifest_path.exists() or read_json(manifest_path)["identity"] != identity:
        _make(table, base_path, reward_path, options, device, seed, identity)
    predicted = centred(_of_rows(table, read_table(reward_path / "scores.parquet", SCORES)), table)
    level = table["utility"] - centred(table["utility"], table)
    smoothed = options.share * (level + predicted) + (1 - options.share) * table["utility"]
    return table.assign(utility=smoothed), read_json(manifest_path)["quality"]


def parts(table: pd.DataFrame, folds: int) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """(rows to fit to, rows to score): each fold of the train split, and last the whole of it and all other splits.

    Folds are made of whole documents, about equal in pairs. A question of no document is one by itself.

    Raises:
        ArtefactError: the train split has fewer documents than folds.
    """
    train = table[table["split"] == "train"]
    groups = train["document"].where(train["document"] != "", train["question_id"])
    if groups.nunique() < folds:
        raise ArtefactError(
            f"{folds} folds of the reward model need as many documents with labelled questions in the train split, and there are "
            f"{groups.nunique()}: set fewer folds"
        )
    for seen, scored in GroupKFold(folds).split(train, groups=groups):
        yield train.iloc[seen], train.iloc[scored]
    yield train, table[table["split"] != "train"]


def quality(table: pd.DataFrame, scores: "pd.Series[float]") -> dict[str, float | None]:
    """How well scores of the table's rows predict their raw utilities within each question; see ``denoised_utilities``."""
    frame = pd.DataFrame({"question_id": table["question_id"], "raw": table["utility"], "score": scores})
    frame = frame[frame.groupby("question_id")["raw"].transform("size") > 1]
    if frame.empty:
        return dict.fromkeys(("spearman_with_raw", "mse", "variance_explained"))
    by_question = frame.groupby("question_id")[["raw", "score"]].corr(method="spearman")["score"].xs("raw", level=1)
    raw = centred(frame["raw"], frame)
    error = ((raw - centred(frame["score"], frame)) ** 2).mean()
    values = {
        "spearman_with_raw": by_question.mean(),  # a question whose passages are all alike has no order, and does not count
        "mse": error,
        "variance_explained": 1 - error / (raw**2).mean() if raw.any() else np.nan,
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _make(
    table: pd.DataFrame, base_path: Path, reward_path: Path, options: RewardOptions, device: str, seed: int, identity: str
) -> None:
    folder = _folds_folder(reward_path, identity)
    scored = []
    for number, (seen, rows) in enumerate(tqdm(list(parts(table, options.folds)), desc="reward model", unit="fit")):
        path = folder / f"{number}.parquet"
        last = number == options.folds
        if last or not path.exists():
            model = fit_reward_model(seen, base_path, options, device, seed)
            write_table(path, SCORES, _scored(model, rows))
        scored.append(read_table(path, SCORES))
    train = table[table["split"] == "train"]
    with atomic_path(reward_path) as partial:
        model.save(str(partial), create_model_card=False)
        write_table(partial / "scores.parquet", SCORES, pd.concat(scored))
        facts = {"identity": identity, "quality": quality(train, _of_rows(train, pd.concat(scored[:-1])))}
        write_json(partial / "reward.json", facts)
    shutil.rmtree(folder.parent)


def _folds_folder(reward_path: Path, identity: str) -> Path:
    """Where the scores of finished folds wait for the others. Those of another table or other options are removed."""
    parent = reward_path.with_name(f"{reward_path.name}.folds")
    folder = parent / identity[:16]
    for other in parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _identity(table: pd.DataFrame, base_path: Path, options: RewardOptions, seed: int) -> str:
    facts = options.model_dump(mode="json", exclude={"share"})  # which is of the scores, not of the model
    rows = pd.util.hash_pandas_object(table[_COLUMNS], index=False).to_numpy().tobytes()
    return sha256_bytes(rows, json.dumps([facts, seed, fingerprint(base_path)], sort_keys=True))


def _scored(model: CrossEncoder, rows: pd.DataFrame) -> pd.DataFrame:
    pairs = list(zip(rows["question"], rows["text"], strict=True))
    scores = model.predict(pairs, show_progress_bar=False) if pairs else np.empty(0)
    if not np.isfinite(scores).all():
        raise ArtefactError("the reward model's scores are infinite or NaN: take a lower train.reward.learning_rate")
    return rows[["question_id", "passage_id"]].assign(score=scores.astype(np.float64))


def _of_rows(table: pd.DataFrame, scores: pd.DataFrame) -> "pd.Series[float]":
    """The scores of the table's pairs, in its order."""
    by_pair = scores.set_index(["question_id", "passage_id"])["score"]
    return pd.Series(by_pair.loc[pd.MultiIndex.from_frame(table[["question_id", "passage_id"]])].to_numpy(), index=table.index)
