"""Fitting a student to examples with sentence-transformers' trainer. After a kill, the next call goes on from a checkpoint."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from datasets import Dataset
from sentence_transformers import SentenceTransformerTrainingArguments
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from uae.io.compute import pick_device, seed_everything
from uae.io.files import atomic_path
from uae.io.torchrun import leads
from uae.retrievers.dense import load_encoder
from uae.retrievers.passage_vectors import PassageVectors
from uae.training.agreement import METRIC, Agreement
from uae.training.arguments import fit_arguments
from uae.training.batches import DocumentBatchSampler, UtilityCollator
from uae.training.callbacks import Bar, Clock, Log, RefreshCallback, Report
from uae.training.checkpoints import epochs_if_ended, identity, open_checkpoints
from uae.training.examples import Example
from uae.training.interpolation import interpolate
from uae.training.lexical import LexicalPart
from uae.training.loss import ObjectiveLoss
from uae.training.options import FitOptions
from uae.training.pairs_loss import set_dropout
from uae.training.processes import OfLeader, SharingTrainer, WritesNothing, wait_for_all
from uae.training.refresh import Refresher
from uae.training.sharded import ShardingTrainer, shard
from uae.training.towers import FrozenVectors, build_student, frozen_documents
from uae.vectors.store import VectorStore


@dataclass(frozen=True)
class Fitted:
    """What a run of ``fit`` was like."""

    steps: int
    before: float  # validation nDCG
    after: float
    seconds: float  # of all steps that this call took, evaluations not counted
    seconds_per_step: float  # the median; 0: it took none
    peak_memory_mb: int  # allocated on the GPU; on a CPU the process's, after a step
    history: list[dict[str, float]]  # the trainer's log
    by_dimension: dict[int, float]  # validation nDCG of vectors cut to each of the dimensions that it was trained at


def _log_nothing(metrics: dict[str, float], step: int) -> None:
    pass


def fit(
    examples: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    student_path: Path,
    checkpoints: Path,
    options: FitOptions,
    teacher_temperature: float,
    device: str,
    seed: int,
    log_metrics: Log = _log_nothing,
    refresher: Refresher | None = None,
    vectors: VectorStore | None = None,
    added: LexicalPart | None = None,
) -> Fitted:
    """Fit a student, keep the checkpoint that agrees best with the validation examples, save it in sentence-transformers' layout.

    After a kill, a call with the same arguments goes on from the last checkpoint and ends where an uninterrupted run would have
    ended. Where training had ended already, it takes no step. ``log_metrics`` gets the metrics of the steps before the kill
    again.

    Several processes that have joined (``processes.join``) make this call with the same arguments. They end with what one
    process ends with. The leading one alone writes and logs.

    Args:
        examples: of the splits train and validation, by question_id.
        checkpoints: a folder that is kept for such a call; the caller removes it. What another run left there goes first.
        teacher_temperature: nats per token.
        refresher: None: the examples stay as they are.
        vectors: where the passages' vectors are kept that ``options.towers`` leaves as the base has them.
        added: to the cosines, in the objective and in the validation score, with ``options.lexical_weight``. None: nothing.

    Raises:
        ArtefactError: the validation examples cannot tell two students apart, or training made the weights infinite.
        ConfigError: this machine does not have the device.
        ModelError: the base cannot be loaded.
        ValueError: ``added`` has another weight than ``options.lexical_weight``.
    """
    if (added.weight if added else 0.0) != options.lexical_weight:
        raise ValueError("what is added to the cosines and options.lexical_weight do not belong together")
    device = pick_device(device)
    seed_everything(seed)
    options = options.for_questions(len(examples["train"]))
    objective = options.chosen_objective()
    encoder = build_student(load_encoder(base_path, "cpu" if options.sharded else device), options.towers)
    set_dropout(encoder, options.dropout)
    if options.sharded:
        shard(encoder, device)
    frozen = None
    if frozen_documents(encoder):
        stay = PassageVectors(encoder, base_path, vectors)
        frozen = FrozenVectors(encoder, encoded=stay)
        refresher = refresher and replace(refresher, passage_vectors=stay)
    evaluator = OfLeader(Agreement(examples["validation"], teacher_temperature, objective.evidence_in_target, frozen, added))
    collator = UtilityCollator(
        preprocess_fn=encoder.preprocess,
        examples=examples["train"],
        in_batch_negatives=options.in_batch_negatives,
        passage_queries=options.passage_queries,
        prompts_by_kind={side: encoder.prompts.get(side) for side in ("query", "document")},
        added=added,
        passage_vectors=frozen,
    )
    run = identity(examples, base_path, options, teacher_temperature, seed, refresher.terms if refresher else None, added)
    if leads():
        open_checkpoints(checkpoints, run)
    wait_for_all()
    last: str | None = get_last_checkpoint(str(checkpoints))  # type: ignore[no-untyped-call]
    before = evaluator(encoder)[METRIC]
    clock = Clock(device)
    callbacks: list[TrainerCallback] = [EarlyStoppingCallback(options.patience), clock]
    if leads():
        callbacks.append(Report(log_metrics))
    elif not options.sharded:
        callbacks.append(WritesNothing())
    kind: Callable[..., SharingTrainer] = SharingTrainer
    if options.sharded:
        kind = functools.partial(ShardingTrainer, whole=build_student(load_encoder(base_path, "cpu"), options.towers))
    epochs = epochs_if_ended(last)
    if epochs is not None:
        options = options.model_copy(update={"epochs": epochs})
        if refresher is not None:
            refresher.again(checkpoints)
    elif refresher is not None:
        callbacks.append(RefreshCallback(encoder, collator, refresher, checkpoints))
    trainer = kind(
        model=encoder,
        args=fit_arguments(
            SentenceTransformerTrainingArguments,
            str(checkpoints),
            options,
            len(examples["train"]),
            device,
            seed,
            batch_sampler=DocumentBatchSampler,
        ),
        train_dataset=_dataset(examples["train"]),
        loss=ObjectiveLoss(encoder, objective, teacher_temperature, options.student_temperature, options.matryoshka.weighted()),
        evaluator=evaluator,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(ProgressCallback)
    if leads():
        trainer.add_callback(Bar)
    trainer.train(resume_from_checkpoint=last)
    if options.base_share:
        before_training = build_student(load_encoder(base_path, "cpu" if options.sharded else device), options.towers)
        if options.sharded:
            shard(before_training, device)
        interpolate(encoder, before_training.state_dict(), options.base_share)
    after = evaluator(encoder)[METRIC]
    by_dimension = {}
    for dimension in options.matryoshka.dimensions:
        with encoder.truncate_embeddings(dimension):
            by_dimension[dimension] = evaluator(encoder)[METRIC]
    student = trainer.whole() if isinstance(trainer, ShardingTrainer) else encoder
    if leads():
        with atomic_path(student_path) as partial:
            student.save(str(partial), create_model_card=False)
    wait_for_all()  # the caller may remove the checkpoints now
    return Fitted(
        steps=trainer.state.global_step,
        before=before,
        after=after,
        seconds=sum(clock.seconds),
        seconds_per_step=clock.seconds_per_step(),
        peak_memory_mb=clock.peak_memory_mb(),
        history=trainer.state.log_history,
        by_dimension=by_dimension,
    )


def _dataset(examples: Mapping[str, Example]) -> Dataset:
    return Dataset.from_list([{"key": key, "document": example.document} for key, example in examples.items()])
