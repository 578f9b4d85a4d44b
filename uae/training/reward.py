"""A reward model: a small cross-encoder fitted to raw utilities, whose scores then teach the bi-encoder.

A raw utility is one reading of a noisy instrument: the answer's length, the prompt's wording and what the teacher knows by itself
all move it. A model that predicts it from question and passage alone keeps what they have in common over many readings.
FlagEmbedding found direct distillation of such scores to work worse than through a re-ranker trained on them (its issue 553).
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.util import batch_to_device
from sklearn.model_selection import GroupKFold
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PrinterCallback

from uae.io.compute import pick_device, seed_everything
from uae.io.errors import ArtefactError, ModelError
from uae.io.files import atomic_path, read_json, sha256_bytes, write_json
from uae.io.models import fingerprint
from uae.io.tables import read_table, write_table
from uae.io.weights import check_finite, check_report, loading_report, quiet_loading, refuse_pickles, refuse_remote_code
from uae.training.device import trainer_arguments

SCORES = pa.schema(
    [
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("passage_id", pa.string(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),  # nats per token; differences within a question have a meaning
    ]
)
_COLUMNS = ["question_id", "passage_id", "utility", "text", "question", "split", "document"]


@dataclass(frozen=True)
class RewardRecipe:
    """How the reward model is fitted."""

    folds: int
    epochs: int
    batch_size: int  # questions, each with all its judged passages
    learning_rate: float
    warmup: float
    weight_decay: float
    dropout: float


def denoised_utilities(
    table: pd.DataFrame, base_path: Path, reward_path: Path, recipe: RewardRecipe, share: float, device: str, seed: int
) -> tuple[pd.DataFrame, dict]:
    """The table with utilities smoothed by a reward model, in the unit and with the zero of the raw ones.

    ``u' = share (mean u + s - mean s) + (1 - share) u``, means over the question's passages: their order and distances come from
    the scores ``s``, the level from the raw utilities ``u``, whose mean is the steadiest thing known of it. No pair of the train
    split is scored by a model that saw its document: the documents are divided into folds, each scored by a model fitted to the
    others. All other pairs are scored by a model fitted to the whole train split, kept at ``reward_path`` with the scores.

    Nothing is fitted where ``reward_path`` holds the outcome of the same table, base and recipe. A killed run goes on at the fold
    it was in.

    Args:
        table: columns question_id, passage_id, utility, text, question, split, document.
        base_path: the encoder to start from, in the sentence-transformers layout.
        share: 1: the reward model only; 0: the raw utilities.

    Returns:
        the table with other utilities, and the quality of the scores on the train split, out of fold: ``spearman_with_raw``, the
        mean over questions of the rank correlation with raw utilities; ``mse``, the mean squared error of utilities less their
        question's mean, in squared nats; ``variance_explained``, the share of those utilities' variance that the scores explain
        (1: all of it, 0: no better than equal scores). Each is None where it is not defined.

    Raises:
        ArtefactError: the train split has fewer documents than folds, or no question with two passages.
        ModelError: the base cannot be loaded.
    """
    identity = _identity(table, base_path, recipe, seed)
    manifest_path = reward_path / "reward.json"
    if not manifest_path.exists() or read_json(manifest_path)["identity"] != identity:
        _make(table, base_path, reward_path, recipe, device, seed, identity)
    predicted = _centred(_of_rows(table, read_table(reward_path / "scores.parquet", SCORES)), table)
    level = table["utility"] - _centred(table["utility"], table)
    smoothed = share * (level + predicted) + (1 - share) * table["utility"]
    return table.assign(utility=smoothed), read_json(manifest_path)["quality"]


def fit_reward_model(table: pd.DataFrame, base_path: Path, recipe: RewardRecipe, device: str, seed: int) -> CrossEncoder:
    """A cross-encoder whose scores differ, within a question, as the utilities of the table do, in nats per token.

    The level of a score has no meaning: how much a question's passages help on the whole depends on its answer, which the model
    does not see. On CPU the same arguments give the same weights.

    Raises:
        ArtefactError: no question has two passages.
        ModelError: the base cannot be loaded.
    """
    rows = table[table.groupby("question_id")["passage_id"].transform("size") > 1]
    if rows.empty:
        raise ArtefactError("the reward model has nothing to learn from: no question of its part has two labelled passages")
    device = pick_device(device)
    seed_everything(seed)
    model = _open(base_path, device)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = recipe.dropout
    scale = _centred(rows["utility"], rows).std(ddof=0) or 1.0  # the model learns in units of it, whatever the teacher's spread
    with tempfile.TemporaryDirectory() as unused:
        trainer = CrossEncoderTrainer(
            model=model,
            args=_arguments(unused, recipe, device, seed),
            train_dataset=_dataset(rows.assign(utility=rows["utility"] / scale)),
            loss=DifferenceLoss(model),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with torch.no_grad():
        head = _head(model)
        head.weight *= scale
        if head.bias is not None:
            head.bias *= scale
    return model.eval()


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


class DifferenceLoss(torch.nn.Module):
    """Mean over questions of the variance of ``score - utility`` over the question's passages.

    This is half of MarginMSE (Hofstätter et al. 2020, arXiv 2010.02666) over all pairs of a question's passages: differences are
    fitted, levels are free. Unlike a list-wise KL it does not saturate for passages far behind the best, and its minimum is the
    expected difference of utilities, which is what denoising asks for.
    """

    def __init__(self, model: CrossEncoder):
        super().__init__()
        self.model = model

    def forward(self, inputs: list, labels: list[Tensor], prompt: str | None = None, task: str | None = None) -> Tensor:
        questions, passages = inputs
        pairs = [(question, text) for question, texts in zip(questions, passages, strict=True) for text in texts]
        features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
        scores = self.model(features)["scores"].view(-1).float().split([len(texts) for texts in passages])
        return torch.stack([difference_loss(own, utilities) for own, utilities in zip(scores, labels, strict=True)]).mean()


def difference_loss(scores: Tensor, utilities: Tensor) -> Tensor:
    """Of one question, shape (passages,) each, two at least."""
    return (scores - utilities.to(scores)).var()


def quality(table: pd.DataFrame, scores: pd.Series) -> dict:
    """How well scores of the table's rows predict their raw utilities within each question; see ``denoised_utilities``."""
    frame = pd.DataFrame({"question_id": table["question_id"], "raw": table["utility"], "score": scores})
    frame = frame[frame.groupby("question_id")["raw"].transform("size") > 1]
    if frame.empty:
        return dict.fromkeys(("spearman_with_raw", "mse", "variance_explained"))
    by_question = frame.groupby("question_id")[["raw", "score"]].corr(method="spearman")["score"].xs("raw", level=1)
    raw = _centred(frame["raw"], frame)
    error = ((raw - _centred(frame["score"], frame)) ** 2).mean()
    values = {
        "spearman_with_raw": by_question.mean(),  # a question whose passages are all alike has no order, and does not count
        "mse": error,
        "variance_explained": 1 - error / (raw**2).mean() if raw.any() else np.nan,
    }
    return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}


def _make(
    table: pd.DataFrame, base_path: Path, reward_path: Path, recipe: RewardRecipe, device: str, seed: int, identity: str
) -> None:
    folder = _folds_folder(reward_path, identity)
    scored = []
    for number, (seen, rows) in enumerate(tqdm(list(parts(table, recipe.folds)), desc="reward model", unit="fit")):
        path = folder / f"{number}.parquet"
        last = number == recipe.folds
        if last or not path.exists():
            model = fit_reward_model(seen, base_path, recipe, device, seed)
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
    """Where the scores of finished folds wait for the others. Those of another table or recipe are removed."""
    parent = reward_path.with_name(f"{reward_path.name}.folds")
    folder = parent / identity[:16]
    for other in parent.glob("*"):
        if other != folder:
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _identity(table: pd.DataFrame, base_path: Path, recipe: RewardRecipe, seed: int) -> str:
    rows = pd.util.hash_pandas_object(table[_COLUMNS], index=False).to_numpy().tobytes()
    return sha256_bytes(rows, json.dumps([asdict(recipe), seed, fingerprint(base_path)], sort_keys=True))


def _open(base_path: Path, device: str) -> CrossEncoder:
    refuse_remote_code(base_path)
    refuse_pickles(base_path)
    logging.disable(logging.WARNING)  # that the head is new, which it has to be, would be said at length for every fold
    try:
        with quiet_loading():
            model = CrossEncoder(
                str(base_path),
                num_labels=1,
                activation_fn=torch.nn.Identity(),  # scores are nats, not probabilities
                device=device,
                model_kwargs={"use_safetensors": True, "ignore_mismatched_sizes": True},
                local_files_only=True,
            )
    except Exception as error:  # transformers, safetensors and the modules raise a dozen kinds
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise ModelError(f"{base_path} cannot be loaded as a reward model: {reason}") from error
    finally:
        logging.disable(logging.NOTSET)
    body = next(part for part in model.modules() if isinstance(part, PreTrainedModel))
    own = f"{body.base_model_prefix}."

    def is_head(name: str) -> bool:  # fitted here: the encoder has none, and its pooler may be missing
        return not name.startswith(own) or name.startswith(f"{own}pooler.")

    check_report(loading_report(body, base_path), str(base_path), is_head)
    check_finite(model, str(base_path))
    return model


def _head(model: CrossEncoder) -> torch.nn.Linear:
    """The layer that gives the score."""
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 1][-1]


def _arguments(folder: str, recipe: RewardRecipe, device: str, seed: int) -> CrossEncoderTrainingArguments:
    return trainer_arguments(
        CrossEncoderTrainingArguments,
        device,
        output_dir=folder,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )


def _dataset(rows: pd.DataFrame) -> Dataset:
    groups = rows.groupby("question_id", sort=False)
    return Dataset.from_list(
        [
            {"question": own["question"].iloc[0], "passages": own["text"].tolist(), "label": own["utility"].tolist()}
            for _, own in groups
        ]
    )


def _scored(model: CrossEncoder, rows: pd.DataFrame) -> pd.DataFrame:
    pairs = list(zip(rows["question"], rows["text"], strict=True))
    scores = model.predict(pairs, show_progress_bar=False) if pairs else np.empty(0)
    return rows[["question_id", "passage_id"]].assign(score=scores.astype(np.float64))


def _of_rows(table: pd.DataFrame, scores: pd.DataFrame) -> pd.Series:
    """The scores of the table's pairs, in its order."""
    by_pair = scores.set_index(["question_id", "passage_id"])["score"]
    return pd.Series(by_pair.loc[pd.MultiIndex.from_frame(table[["question_id", "passage_id"]])].to_numpy(), index=table.index)


def _centred(values: pd.Series, table: pd.DataFrame) -> pd.Series:
    """Less their question's mean."""
    return values - values.groupby(table["question_id"].to_numpy()).transform("mean")
