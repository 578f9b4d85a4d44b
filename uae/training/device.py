"""Where sentence-transformers' trainers train, and in which number format: student, second stage and reward model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from sentence_transformers.base.training_args import BaseTrainingArguments

from uae.io.compute import has_bfloat16, pick_device
from uae.io.errors import ConfigError
from uae.training.options import Precision

Arguments = TypeVar("Arguments", bound=BaseTrainingArguments)


def trainer_arguments(kind: type[Arguments], device: str, precision: Precision, **settings: Any) -> Arguments:
    """Arguments of a trainer that works on this device and on no other.

    Args:
        kind: the class of the trainer's arguments.
        device: a name that ``pick_device`` knows.
        precision: of the steps, by autocast; weights and optimizer stay float32. ``auto``: a GPU computes in half precision
            (bfloat16 where it can), a CPU in float32. A CPU without bfloat16 instructions emulates them, slowly.
        settings: the other fields of ``kind``.

    Raises:
        ConfigError: this machine does not have the device, or the device does not have the format.
    """
    place = torch.device(pick_device(device))
    cuda = place.type == "cuda"
    bf16 = precision == "bfloat16" or (precision == "auto" and has_bfloat16(str(place)))
    fp16 = precision == "auto" and cuda and not bf16
    if cuda and bf16 and not has_bfloat16(str(place)):
        raise ConfigError(f"train.precision: {place} does not compute bfloat16; take auto or float32")
    arguments = kind(use_cpu=place.type == "cpu", bf16=bf16, fp16=fp16, report_to="none", **settings)
    if cuda:
        torch.cuda.set_device(place)  # accelerate sends batches to the GPU that is set here
        train_only_on(arguments, place)
    return arguments


@contextmanager
def full_precision(model: torch.nn.Module) -> Iterator[None]:
    """Within it the model computes as it will when it is served, although a trainer made its ``forward`` half precision.

    The trainer (accelerate) hangs an autocasting ``forward`` on the model itself, over that of the class, and no ``autocast``
    around a call switches that off.
    """
    of_trainer = vars(model).pop("forward", None)
    try:
        yield
    finally:
        if of_trainer is not None:
            model.forward = of_trainer


def train_only_on(arguments: BaseTrainingArguments, place: torch.device) -> None:
    """Make the trainer use this one device.

    By itself it begins with the first GPU and spreads each batch over all GPUs that it sees. The in-batch negatives and the
    objective would then be of a part of the batch. No public argument says otherwise, so two private names are set.

    Raises:
        RuntimeError: this version of transformers does not read them.
    """
    arguments._n_gpu = 1
    arguments.__dict__["_setup_devices"] = place  # a cached property
    if arguments.device != place or arguments.n_gpu != 1:
        raise RuntimeError("this version of transformers cannot be told to train on one GPU by _n_gpu and _setup_devices")
