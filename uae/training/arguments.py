"""The arguments of a run that stops early and goes on after a kill, for the student and the second stage."""

from typing import Any, TypeVar

from sentence_transformers.base.training_args import BaseTrainingArguments

from uae.training.agreement import METRIC
from uae.training.device import trainer_arguments
from uae.training.options import LearningOptions

Arguments = TypeVar("Arguments", bound=BaseTrainingArguments)


def fit_arguments(
    kind: type[Arguments], checkpoints: str, options: LearningOptions, questions: int, device: str, seed: int, **more: Any
) -> Arguments:
    """
    Args:
        kind: the class of the trainer's arguments.
        checkpoints: the folder that they are kept in.
        questions: of the train split.
        more: other fields of ``kind``.

    Raises:
        ConfigError: this machine does not have the device.
    """
    batches = -(-questions // options.batch_size)
    steps_per_epoch = -(-batches // options.gradient_accumulation)
    every = max(1, steps_per_epoch // options.evaluations_per_epoch)
    when: dict[str, Any] = {"strategy": "epoch"}
    if options.evaluations_per_epoch > 1:
        when = {"strategy": "steps", "steps": every}
    return trainer_arguments(
        kind,
        device,
        options.precision,
        output_dir=checkpoints,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        learning_rate=options.learning_rate,
        warmup_steps=options.warmup,
        weight_decay=options.weight_decay,
        seed=seed,
        **{f"{what}_{name}": value for what in ("eval", "save") for name, value in when.items()},
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=METRIC,
        restore_callback_states_from_checkpoint=True,
        logging_steps=1,
        disable_tqdm=False,
        **more,
    )
