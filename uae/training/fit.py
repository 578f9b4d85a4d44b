"""Fitting a student to examples with sentence-transformers' trainer. What a kill interrupts, the next call goes on with."""

import functools
import json
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import psutil
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from transformers import EarlyStoppingCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint

from uae.io.compute import memory_budget, pick_device, seed_everything, weight_bytes
from uae.io.files import atomic_path, sha256_bytes, write_text
from uae.io.models import fingerprint
from uae.retrievers.dense import load_encoder
from uae.training.agreement import METRIC, Agreement
from uae.training.batches import DocumentBatchSampler, UtilityCollator
from uae.training.device import trainer_arguments
from uae.training.examples import Example
from uae.training.objectives.rivals import NEEDS_EVIDENCE, OBJECTIVES
from uae.training.objectives.utility_infonce import Masks, utility_infonce
from uae.training.pieces import encode_in_pieces
from uae.training.towers import FrozenVectors, build_student, frozen_documents

# Where full batches would make fewer steps an epoch, they are smaller: one or two, the first still warming up, teach nothing.
_LEAST_STEPS = 6
_LEAST_QUESTIONS = 4  # but a batch has as many, for negatives beside a question's own candidates
# Texts encoded at once in training. On a CPU more of them are no faster, and padding is (57 batches of COVID-QA: 37 % of tokens).
# On a GPU few of them leave it idle, and many are more than it can hold: a guess, none was at hand.
_PIECE = {"cpu": 16}
_GPU_PIECE = 64


@dataclass(frozen=True)
class Recipe:
    """How a student is fitted: the keys of ``train`` in params.yaml that have to do with it."""

    objective: str
    evidence_share: float
    towers: str
    epochs: int
    batch_size: int  # questions; fewer where there are few: see ``for_questions``
    gradient_accumulation: int
    learning_rate: float
    warmup: float
    weight_decay: float
    dropout: float
    teacher_temperature: float  # nats per token
    student_temperature: float  # of cosine similarities
    in_batch_negatives: bool
    passage_queries: float  # for each question
    evaluations_per_epoch: int
    patience: int

    def for_questions(self, questions: int) -> "Recipe":
        """With smaller batches where so few train questions would make less than six steps an epoch."""
        enough = max(_LEAST_QUESTIONS, questions // (_LEAST_STEPS * self.gradient_accumulation))
        return replace(self, batch_size=min(self.batch_size, enough))

    @property
    def objective_needs_evidence(self) -> bool:
        return self.objective in NEEDS_EVIDENCE

    @property
    def reads_evidence(self) -> bool:
        return self.objective_needs_evidence or self.evidence_share > 0

    @property
    def judged_by_evidence(self) -> float:
        """The share of the evidence in the validation score."""
        return 1.0 if self.objective_needs_evidence else self.evidence_share


@dataclass(frozen=True)
class Fitted:
    steps: int
    before: float  # validation nDCG
    after: float
    seconds: float  # of all steps that this call took, evaluations not counted
    seconds_per_step: float  # the median; 0: it took none
    peak_memory_mb: int  # allocated on the GPU; on a CPU the process's, after a step
    history: list[dict]  # the trainer's log


Log = Callable[[dict[str, float], int], None]


class Refresh(Protocol):
    """Called at the end of an epoch; gives the train examples to go on with."""

    @property
    def terms(self) -> Sequence[int]:
        """What decides, beside the examples before, which ones it gives."""

    def __call__(self, encoder: SentenceTransformer, finished: int, folder: Path) -> Mapping[str, Example]:
        """
        Args:
            finished: the epoch's number, from 1. Called again with the same one, by a run that goes on after a kill, it gives
                the same examples.
            folder: lasts as long as the run's checkpoints.
        """

    def again(self, folder: Path) -> None:
        """Called instead where training had ended before the kill: leaves behind what its calls had left."""


def fit(
    examples: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    student_path: Path,
    checkpoints: Path,
    recipe: Recipe,
    device: str,
    seed: int,
    log_metrics: Log = lambda metrics, step: None,
    refresh: Refresh | None = None,
) -> Fitted:
    """Fit a student, keep the checkpoint that agrees best with the validation examples, save it in sentence-transformers' layout.

    After a kill, a call with the same arguments goes on from the last checkpoint and ends where an uninterrupted run would have
    ended. Where training had ended already, it takes no step. ``log_metrics`` gets those of the steps before the kill again.

    Args:
        examples: of the splits train and validation, by question_id.
        checkpoints: a folder that is kept for such a call; the caller removes it. What another run left there goes first.
        refresh: None: the examples stay as they are.
    """
    device = pick_device(device)
    seed_everything(seed)
    recipe = recipe.for_questions(len(examples["train"]))
    encoder = build_student(load_encoder(base_path, device), recipe.towers)
    _set_dropout(encoder, recipe.dropout)
    evaluator = Agreement(examples["validation"], recipe.teacher_temperature, recipe.judged_by_evidence)
    collator = UtilityCollator(
        preprocess_fn=encoder.preprocess,
        examples=examples["train"],
        in_batch_negatives=recipe.in_batch_negatives,
        passage_queries=recipe.passage_queries,
        prompts_by_kind={kind: encoder.prompts.get(kind) for kind in ("query", "document")},
        passage_vectors=FrozenVectors(encoder) if frozen_documents(encoder) else None,
    )
    _open_checkpoints(checkpoints, identity(examples, base_path, recipe, seed, refresh.terms if refresh else None))
    last = get_last_checkpoint(str(checkpoints))
    before = evaluator(encoder)[METRIC]
    clock = _Clock(device)
    callbacks = [EarlyStoppingCallback(recipe.patience), clock, _Report(log_metrics)]
    epochs = _epochs_if_ended(last)
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
        if refresh is not None:
            refresh.again(checkpoints)
    elif refresh is not None:
        callbacks.append(_Refresh(encoder, collator, functools.partial(refresh, folder=checkpoints)))
    trainer = SentenceTransformerTrainer(
        model=encoder,
        args=_arguments(str(checkpoints), recipe, len(examples["train"]), device, seed),
        train_dataset=_dataset(examples["train"]),
        loss=ObjectiveLoss(encoder, recipe),
        evaluator=evaluator,
        data_collator=collator,
        callbacks=callbacks,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress)
    trainer.train(resume_from_checkpoint=last)
    after = evaluator(encoder)[METRIC]
    with atomic_path(student_path) as partial:
        encoder.save(str(partial), create_model_card=False)
    return Fitted(
        steps=trainer.state.global_step,
        before=before,
        after=after,
        seconds=sum(clock.seconds),
        seconds_per_step=clock.seconds_per_step(),
        peak_memory_mb=clock.peak_memory_mb(),
        history=trainer.state.log_history,
    )


def _set_dropout(encoder: SentenceTransformer, dropout: float) -> None:
    for module in encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout


def identity(
    examples: Mapping[str, Mapping[str, Example]],
    base_path: Path,
    recipe: Recipe,
    seed: int,
    refresh_terms: Sequence[int] | None = None,
) -> str:
    """Hash of all that decides where a run ends."""
    recipe = recipe.for_questions(len(examples["train"]))
    rows = sorted((split, key, repr(_plain(example))) for split, part in examples.items() for key, example in part.items())
    facts = json.dumps(
        [asdict(recipe), seed, fingerprint(base_path), list(refresh_terms) if refresh_terms else False], sort_keys=True
    )
    return sha256_bytes(facts, *(part for row in rows for part in row))[:16]


def _plain(example: Example) -> dict:
    """Sets in a fixed order: their own changes with every process."""
    return {name: sorted(value) if isinstance(value, frozenset) else value for name, value in vars(example).items()}


def checkpoints_beside(student_path: Path) -> Path:
    """Where to keep checkpoints of students that are written to ``student_path``, or with it."""
    return student_path.with_name(f".{student_path.name}.checkpoints")


def _open_checkpoints(folder: Path, run: str) -> None:
    """Leave in the folder the whole checkpoints of this run, which an interrupted call has left, or nothing."""
    stamp = folder / "identity"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != run:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(stamp, run)
    for checkpoint in folder.glob("checkpoint-*"):
        if not _is_complete(checkpoint):
            shutil.rmtree(checkpoint)


def _is_complete(checkpoint: Path) -> bool:
    """The trainer writes its state last. A kill may have cut it short."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return True


def _epochs_if_ended(checkpoint: str | None) -> int | None:
    """After how many whole epochs training had ended with this checkpoint. None: it had not.

    The trainer forgets on resuming that it had stopped early, and would go on. Told that there are no more epochs, it takes the
    best checkpoint's weights and no step.
    """
    if checkpoint is None:
        return None
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    return int(state.epoch) if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"] else None


def _arguments(checkpoints: str, recipe: Recipe, questions: int, device: str, seed: int) -> SentenceTransformerTrainingArguments:
    batches = -(-questions // recipe.batch_size)
    steps_per_epoch = -(-batches // recipe.gradient_accumulation)
    every = max(1, steps_per_epoch // recipe.evaluations_per_epoch)
    when = {"strategy": "epoch"} if recipe.evaluations_per_epoch == 1 else {"strategy": "steps", "steps": every}
    return trainer_arguments(
        SentenceTransformerTrainingArguments,
        device,
        output_dir=checkpoints,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        seed=seed,
        batch_sampler=DocumentBatchSampler,
        **{f"{what}_{name}": value for what in ("eval", "save") for name, value in when.items()},
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        disable_tqdm=False,
    )


class ObjectiveLoss(torch.nn.Module):
    """Encodes a batch of ``UtilityCollator`` and applies the recipe's objective."""

    def __init__(self, model: SentenceTransformer, recipe: Recipe):
        super().__init__()
        self.model = model
        self.temperatures = (recipe.teacher_temperature, recipe.student_temperature)
        self.piece = _PIECE.get(model.device.type, _GPU_PIECE)
        # Beside the weights: their gradients and the optimizer's two moments.
        self.budget = memory_budget(model.device, 4 * weight_bytes(model))
        if model.device.type == "cpu":  # its allocator takes twice what tensors of many sizes hold: 13.4 GB for a budget of 6
            self.budget //= 2
        self.objective = OBJECTIVES[recipe.objective]
        if self.objective is utility_infonce:
            self.objective = functools.partial(utility_infonce, evidence_share=recipe.evidence_share)

    def forward(self, sentence_features: list[dict], labels: torch.Tensor) -> torch.Tensor:
        questions, passages = (
            self._vectors(features, kind) for features, kind in zip(sentence_features, ("query", "document"), strict=True)
        )
        masks = Masks(*(plane > 0 for plane in labels[1:]))
        # In half precision a cosine is off by some thousandths, which the student's temperature makes tenths of a logit.
        with torch.autocast(questions.device.type, enabled=False):
            return self.objective(questions @ passages.T, labels[0], masks, *self.temperatures)

    def _vectors(self, features: dict, kind: str) -> torch.Tensor:
        if set(features) == {"sentence_embedding"}:
            vectors = features["sentence_embedding"]
        else:
            vectors = encode_in_pieces(functools.partial(self.model, task=kind), features, self.piece, self.budget)
        return torch.nn.functional.normalize(vectors.float(), dim=-1)


class _Refresh(TrainerCallback):
    def __init__(self, encoder: SentenceTransformer, collator: UtilityCollator, refresh: Callable):
        self.encoder, self.collator, self.refresh = encoder, collator, refresh

    def on_train_begin(self, args, state, control, **kwargs):
        if finished := int(state.epoch or 0):  # resumed: the examples of the epoch that was interrupted
            self.collator.examples = self.refresh(self.encoder, finished)

    def on_epoch_end(self, args, state, control, **kwargs):
        finished = round(state.epoch)
        if finished < args.num_train_epochs and not control.should_training_stop:
            self.collator.examples = self.refresh(self.encoder, finished)


class _Progress(ProgressCallback):
    """The trainer's bar with its ETA, without a printed dictionary a step: those figures go to the curve and to MLflow."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        pass


class _Report(TrainerCallback):
    def __init__(self, log_metrics: Log):
        self.log_metrics = log_metrics

    def on_train_begin(self, args, state, control, **kwargs):
        for record in state.log_history:  # resumed: the caller logs to a run of its own, whose curve is to be whole
            self._report(record, record["step"])

    def on_log(self, args, state, control, logs=None, **kwargs):
        self._report(logs or {}, state.global_step)

    def _report(self, logs: Mapping, step: int) -> None:
        values = {name: float(value) for name, value in logs.items() if isinstance(value, int | float) and name != "step"}
        self.log_metrics(values, step)


class _Clock(TrainerCallback):
    """Time of a step, with the making of its batch and without evaluations, and memory after it."""

    def __init__(self, device: str):
        self.gpu = torch.device(device) if device.startswith("cuda") else None
        self.seconds: list[float] = []
        self.peak = 0
        self.start = 0.0
        if self.gpu is not None:
            torch.cuda.reset_peak_memory_stats(self.gpu)

    def _mark(self, *args, **kwargs):
        self.start = time.perf_counter()

    # A batch is made before on_step_begin.
    on_epoch_begin = on_evaluate = on_save = _mark

    def on_step_end(self, args, state, control, **kwargs):
        if self.gpu is not None:
            torch.cuda.synchronize(self.gpu)
        self.seconds.append(time.perf_counter() - self.start)
        used = psutil.Process().memory_info().rss if self.gpu is None else torch.cuda.max_memory_allocated(self.gpu)
        self.peak = max(self.peak, used)
        self._mark()

    def seconds_per_step(self) -> float:
        return statistics.median(self.seconds) if self.seconds else 0.0

    def peak_memory_mb(self) -> int:
        return round(self.peak / 2**20)


def _dataset(examples: Mapping[str, Example]) -> Dataset:
    return Dataset.from_list([{"key": key, "document": example.document} for key, example in examples.items()])
