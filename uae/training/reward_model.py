"""The reward model itself: a cross-encoder that predicts how utilities differ within a question."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.util import batch_to_device
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback

from uae.io.compute import pick_device, seed_everything
from uae.io.errors import ArtefactError, ModelError
from uae.io.weights import check_finite, check_report, loading_report, quiet_loading, refuse_pickles, refuse_remote_code
from uae.training.device import trainer_arguments
from uae.training.options import RewardOptions


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
    model = _open(base_path, device)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = options.dropout
    scale = centred(rows["utility"], rows).std(ddof=0) or 1.0  # the model learns in units of it, whatever the teacher's spread
    with tempfile.TemporaryDirectory() as unused:
        trainer = CrossEncoderTrainer(
            model=model,
            args=_arguments(unused, options, device, seed),
            train_dataset=_dataset(rows.assign(utility=rows["utility"] / scale)),
            loss=DifferenceLoss(model),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    with torch.no_grad():
        head = _head(model)
        head.weight.mul_(scale)
        if head.bias is not None:
            head.bias.mul_(scale)
    return model.eval()


class DifferenceLoss(torch.nn.Module):
    """Mean over questions of the variance of ``score - utility`` over the question's passages.

    This is half of MarginMSE (Hofstätter et al. 2020, arXiv 2010.02666) over all pairs of a question's passages: differences are
    fitted, levels are free. Unlike a list-wise KL it does not saturate for passages far behind the best, and its minimum is the
    expected difference of utilities, which is what denoising asks for.
    """

    def __init__(self, model: CrossEncoder):
        super().__init__()
        self.model = model

    def forward(self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None) -> Tensor:
        questions, passages = inputs
        pairs = [(question, text) for question, texts in zip(questions, passages, strict=True) for text in texts]
        features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
        scores = self.model(features)["scores"].view(-1).float().split([len(texts) for texts in passages])
        return torch.stack([difference_loss(own, utilities) for own, utilities in zip(scores, labels, strict=True)]).mean()


def difference_loss(scores: Tensor, utilities: Tensor) -> Tensor:
    """Of one question, shape (passages,) each, two at least."""
    return (scores - utilities.to(scores)).var()


def _open(base_path: Path, device: str) -> CrossEncoder:
    refuse_remote_code(base_path)
    refuse_pickles(base_path)
    logging.disable(logging.WARNING)  # that the head is new, which it has to be, would be said at length for every fold
    try:
        with quiet_loading():
            model: CrossEncoder = CrossEncoder(
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


def _arguments(folder: str, options: RewardOptions, device: str, seed: int) -> CrossEncoderTrainingArguments:
    return trainer_arguments(
        CrossEncoderTrainingArguments,
        device,
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
