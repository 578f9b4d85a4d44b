"""The reward model itself: a cross-encoder that predicts how utilities differ within a question."""

import tempfile
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch import Tensor
from transformers import PrinterCallback

from uae.io.compute import pick_device, seed_everything
from uae.io.errors import ArtefactError
from uae.retrievers.cross_encoder import load_cross_encoder
from uae.training.device import trainer_arguments
from uae.training.options import RewardOptions
from uae.training.pairs_loss import PairsLoss, set_dropout


def fit_reward_model(table: pd.DataFrame, base_path: Path, options: RewardOptions, device: str, seed: int) -> CrossEncoder:
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
    model = load_cross_encoder(base_path, device, head_may_be_new=True)
    set_dropout(model, options.dropout)
    scale = centred(rows["utility"], rows).std(ddof=0) or 1.0  # the model learns in units of it, whatever the teacher's spread
    with tempfile.TemporaryDirectory() as unused:
        trainer = CrossEncoderTrainer(
            model=model,
            args=_arguments(unused, options, device, seed),
            train_dataset=_dataset(rows.assign(utility=rows["utility"] / scale)),
            loss=PairsLoss(model, difference_loss),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with torch.no_grad():
        head = _head(model)
        head.weight.mul_(scale)
        if head.bias is not None:
            head.bias.mul_(scale)
    return model.eval()


def difference_loss(scores: Tensor, utilities: Tensor) -> Tensor:
    """The variance of ``score - utility`` over one question's passages, shape (passages,) each, two at least.

    This is half of MarginMSE (Hofstätter et al. 2020, arXiv 2010.02666) over all pairs of a question's passages: differences are
    fitted, levels are free. Unlike a list-wise KL it does not saturate for passages far behind the best, and its minimum is the
    expected difference of utilities, which is what denoising asks for.
    """
    return (scores - utilities.to(scores)).var()


def _head(model: CrossEncoder) -> torch.nn.Linear:
    """The layer that gives the score."""
    return [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 1][-1]


def _arguments(folder: str, options: RewardOptions, device: str, seed: int) -> CrossEncoderTrainingArguments:
    return trainer_arguments(
        CrossEncoderTrainingArguments,
        device,
        options.precision,
        output_dir=folder,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
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


def centred(values: "pd.Series[float]", table: pd.DataFrame) -> "pd.Series[float]":
    """Less their question's mean."""
    return values - values.groupby(table["question_id"].to_numpy()).transform("mean")
