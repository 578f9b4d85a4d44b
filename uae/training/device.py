"""The arguments of sentence-transformers' trainers that say on which device to train, for the student and the reward model."""

from typing import Any, TypeVar

import torch
from sentence_transformers.base.training_args import BaseTrainingArguments

from uae.io.compute import has_bfloat16, pick_device

Arguments = TypeVar("Arguments", bound=BaseTrainingArguments)


def trainer_arguments(kind: type[Arguments], device: str, **settings: Any) -> Arguments:
    """Arguments of a trainer that works on this device and on no other. A GPU computes in half precision, a CPU does not.

    Args:
        kind: the class of the trainer's arguments.
        device: a name that ``pick_device`` knows.
        settings: the other fields of ``kind``.

    Raises:
        ConfigError: this machine does not have the device.
    """
    place = torch.device(pick_device(device))
    bf16 = has_bfloat16(str(place))
    cuda = place.type == "cuda"
    arguments = kind(use_cpu=place.type == "cpu", bf16=bf16, fp16=cuda and not bf16, report_to="none", **settings)
    if cuda:
        torch.cuda.set_device(place)  # accelerate sends batches to the GPU that is set here
        train_only_on(arguments, place)
    return arguments


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
