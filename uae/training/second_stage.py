"""The second stage: a cross-encoder fitted to utilities, which re-ranks what a retriever finds first. No LLM is asked.

The reward model (``reward_model``) is the same kind of model with another aim: it has to give utilities back, so differences are
fitted. Here the order counts, and most of all its head, so the loss is list-wise.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from datasets import Dataset
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from torch import Tensor
from transformers import EarlyStoppingCallback, ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from uae.io.compute import pick_device, seed_everything
from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, write_json
from uae.io.models import fingerprint
from uae.retrievers.cross_encoder import TRAINED, TorchCrossEncoder, load_cross_encoder
from uae.training.agreement import METRIC, Agreement
from uae.training.arguments import fit_arguments
from uae.training.batches import label_rows
from uae.training.callbacks import Bar, Clock
from uae.training.checkpoints import checkpoints_beside, epochs_if_ended, identity, open_checkpoints
from uae.training.examples import Example
from uae.training.objectives.contract import Masks, ScoredBatch
from uae.training.objectives.utility_infonce import UtilityInfoNCE
from uae.training.options import SecondStageOptions
from uae.training.pairs_loss import OneQuestion, PairsLoss, set_dropout

STAMP = "second_stage.json"  # in the folder of a second stage, beside the model


def fit(
    examples: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    folder: Path,
    options: SecondStageOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
) -> dict[str, Any]:
    """Fit a cross-encoder to examples. Keep the checkpoint that agrees best with the validation examples.

    The loss is Utility-Modulated InfoNCE of the scores of a question's own passages, with a student's temperature of 1: the
    cross-entropy of ``softmax(utility / teacher_temperature)`` with ``softmax(score)``. So a difference of scores is a difference
    of log-probabilities, in nats.

    Nothing is fitted where ``folder`` holds the outcome of the same call. After a kill, such a call goes on from a checkpoint.

    Args:
        examples: of the splits train and validation, by question_id (``TrainingData.by_split``).
        base_path: a cross-encoder with one score, or an encoder, which gets a new head.
        folder: gets the model (``encoder``, sentence-transformers layout) and ``second_stage.json``.
        teacher_temperature: nats per token.

    Returns:
        what ``second_stage.json`` holds: ``fingerprint`` of the model, ``questions`` and ``pairs`` by split, ``steps``,
        ``seconds``, and the validation nDCG before and after.

    Raises:
        ArtefactError: there is nothing to learn or to stop by, or training made the weights infinite.
        ModelError: the base cannot be loaded.
    """
    examples = dict(examples) | {"train": {key: one for key, one in examples["train"].items() if len(one.passages) > 1}}
    if not examples["train"]:
        raise ArtefactError("the second stage has nothing to learn from: no train question has two labelled passages")
    run = identity(examples, base_path, options, teacher_temperature, seed)
    if (known := read_second_stage(folder)) is not None and known["identity"] == run:
        return known
    device = pick_device(device)
    seed_everything(seed)
    model = load_cross_encoder(base_path, device, head_may_be_new=True)
    set_dropout(model, options.dropout)
    checkpoints = checkpoints_beside(folder)
    open_checkpoints(checkpoints, run)
    evaluator = PairAgreement(examples["validation"], teacher_temperature, evidence_share=0.0)
    before, clock = evaluator(model)[METRIC], Clock(device)  # type: ignore[arg-type]  # see PairAgreement
    trainer = _trainer(model, examples["train"], evaluator, options, teacher_temperature, checkpoints, device, seed, clock)
    trainer.train(resume_from_checkpoint=_last(checkpoints))
    facts = {
        "identity": run,
        "questions": {split: len(part) for split, part in examples.items()},
        "pairs": {split: sum(len(one.passages) for one in part.values()) for split, part in examples.items()},
        "steps": trainer.state.global_step,
        "seconds": round(sum(clock.seconds), 1),
        "validation_ndcg_before": round(before, 4),
        "validation_ndcg": round(evaluator(model)[METRIC], 4),  # type: ignore[arg-type]
    }
    with atomic_path(folder) as partial:
        model.save(str(partial / TRAINED), create_model_card=False)
        facts["fingerprint"] = fingerprint(partial / TRAINED)
        write_json(partial / STAMP, facts)
    shutil.rmtree(checkpoints)
    return facts


def read_second_stage(folder: Path) -> dict[str, Any] | None:
    """What ``fit`` wrote of the model in the folder; None: there is none, or another model lies there now."""
    if not (folder / STAMP).exists():
        return None
    facts: dict[str, Any] = read_json(folder / STAMP)
    return facts if (folder / TRAINED).is_dir() and fingerprint(folder / TRAINED) == facts["fingerprint"] else None


class PairAgreement(Agreement):
    """``Agreement`` of a cross-encoder, which is what its methods take here in place of an encoder."""

    def scores(self, model: CrossEncoder) -> dict[str, npt.NDArray[np.float32]]:  # type: ignore[override]
        """question_id -> score of each of its passages."""
        if not all(bool(torch.isfinite(weights).all()) for weights in model.parameters()):
            raise ArtefactError(
                "training has made weights of the second stage infinite or NaN: take a lower train.second_stage.learning_rate or "
                "a longer train.second_stage.warmup"
            )
        pairs = [(self.examples[key].question, text) for key, texts in self.judged.items() for text in texts]
        ends = np.cumsum([len(texts) for texts in self.judged.values()])
        return dict(zip(self.judged, np.split(TorchCrossEncoder(model).scores(pairs), ends[:-1]), strict=True))


def list_wise(teacher_temperature: float, targets: Sequence[tuple[Tensor, Masks]]) -> OneQuestion:
    """The loss of one question, given its scores and its number among ``targets``."""
    objective = UtilityInfoNCE(evidence_share=0.0)

    def of_question(scores: Tensor, number: Tensor) -> Tensor:
        utilities, masks = targets[int(number)]
        place = scores.device
        return objective(
            ScoredBatch(
                scores=scores[None],
                utilities=utilities.to(place),
                masks=Masks(*(mask.to(place) for mask in masks)),
                teacher_temperature=teacher_temperature,
                student_temperature=1.0,
            )
        )

    return of_question


def _trainer(
    model: CrossEncoder,
    examples: Mapping[str, Example],
    evaluator: PairAgreement,
    options: SecondStageOptions,
    teacher_temperature: float,
    checkpoints: Path,
    device: str,
    seed: int,
    clock: Clock,
) -> CrossEncoderTrainer:
    options = options.for_questions(len(examples))
    if (epochs := epochs_if_ended(_last(checkpoints))) is not None:
        options = options.model_copy(update={"epochs": epochs})
    rows = list(examples.values())
    targets = [label_rows([row], list(row.passages), in_batch_negatives=False) for row in rows]
    trainer = CrossEncoderTrainer(
        model=model,
        args=fit_arguments(CrossEncoderTrainingArguments, str(checkpoints), options, len(rows), device, seed),
        train_dataset=Dataset.from_list(
            [{"question": row.question, "passages": list(row.passages), "label": number} for number, row in enumerate(rows)]
        ),
        loss=PairsLoss(model, list_wise(teacher_temperature, targets)),
        evaluator=evaluator,
        callbacks=[EarlyStoppingCallback(options.patience), clock],
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(Bar)
    return trainer


def _last(checkpoints: Path) -> str | None:
    found: str | None = get_last_checkpoint(str(checkpoints))  # type: ignore[no-untyped-call]
    return found
