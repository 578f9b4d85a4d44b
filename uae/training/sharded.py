"""Training an encoder of which no process holds all: weights, gradients and the optimizer's moments are cut over the processes.

PyTorch's ``fully_shard`` cuts them (FSDP2; Zhao et al. 2023, arXiv 2304.11277). A layer's weights are gathered while it computes,
and each process keeps the sum of the gradients of its own part. So every process takes part in every encoding, evaluations
among them. Checkpoints and the student are written whole, by the leading process, as one process would write them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from uae.io.errors import ConfigError
from uae.io.torchrun import leads
from uae.training.processes import SharingTrainer, processes, wait_for_all


def shard(encoder: SentenceTransformer, device: str) -> None:
    """Cut the weights of an encoder over all processes, in place: a layer at a time, and what is left as one.

    Args:
        encoder: on the CPU, the same in each process. No more than a layer of it is whole on the device at once.
        device: of this process.

    Raises:
        ConfigError: there is one process.
    """
    if processes() == 1:
        raise ConfigError(
            "train.sharded cuts weights over several processes, and there is one: set train.processes, or train.sharded: false"
        )
    mesh = init_device_mesh(torch.device(device).type, (processes(),))
    for layers in [module for module in encoder.modules() if isinstance(module, torch.nn.ModuleList)]:
        for layer in layers:
            fully_shard(layer, mesh=mesh)
    fully_shard(encoder, mesh=mesh)
    for module in encoder.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # each process has a part of the batch's gradient: they add up
            module.set_force_sum_reduction_for_comms(True)
            # Its buffers are made when they are first used, which must not be in the inference mode of an evaluation.
            module.unshard()
            module.reshard()


def is_sharded(model: torch.nn.Module) -> bool:
    return isinstance(model, FSDPModule)


def whole_weights(encoder: SentenceTransformer) -> dict[str, Tensor]:
    """All weights, on the CPU; of a process that does not lead nothing. Every process has to call it."""
    told = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return {name: value for name, value in get_model_state_dict(encoder, options=told).items() if torch.is_tensor(value)}


def take_weights(encoder: SentenceTransformer, weights: dict[str, Any]) -> None:
    """Give a cut encoder whole weights, which the leading process has. Every process has to call it."""
    told = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(encoder, weights, options=told)


def whole_state(optimizer: Optimizer) -> dict[str, Any]:
    """The ``state_dict`` of an optimizer of whole weights, on the CPU. Every process has to call it."""
    found: dict[str, Any] = optimizer.state_dict()
    found["state"] = {
        number: {name: _whole(value) for name, value in state.items()} for number, state in sorted(found["state"].items())
    }
    return found


def cut_state(state_dict: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The inverse of ``whole_state``, for an optimizer of cut weights. Every process has to call it, with the same state."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    cut = {}
    for number, state in sorted(state_dict["state"].items()):
        like = weights[number]
        cut[number] = {name: _cut(value, like) for name, value in state.items()}
    return state_dict | {"state": cut}


def _whole(value: Any) -> Any:
    if not isinstance(value, DTensor):
        return value
    whole: Tensor = value.full_tensor()
    return whole.cpu() if leads() else None


def _cut(value: Any, like: Tensor) -> Any:
    """A moment is cut as its weight is; a number of steps is no moment."""
    if isinstance(like, DTensor) and torch.is_tensor(value) and value.shape == like.shape:
        return distribute_tensor(value, like.device_mesh, like.placements)
    return value


class _Told:
    """In an optimizer's place, where the trainer reads or writes its state."""

    def __init__(self, state: dict[str, Any]):
        self.state = state

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state


class ShardingTrainer(SharingTrainer):
    """Writes whole checkpoints of a cut encoder, and takes them up.

    Args:
        whole: the encoder once more, whole and on the CPU, through which the leading process reads and writes.
    """

    def __init__(self, *args: Any, whole: SentenceTransformer, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.fp16:
            raise ConfigError("train.sharded needs bfloat16 or float32 steps, and this GPU has half precision alone: float32")
        self._whole_encoder, self._optimizer_state = whole, dict[str, Any]()

    def whole(self) -> SentenceTransformer:
        """The encoder with its present weights, in the leading process. Every process has to call it."""
        weights = whole_weights(self.model)
        if leads():
            self._whole_encoder.load_state_dict(weights)
        return self._whole_encoder

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """The gradients of each part are summed where they are made."""
        return super(SharingTrainer, self).training_step(*args, **kwargs)

    def _clip_grad_norm(self, model: torch.nn.Module) -> Tensor:
        """Of all parts together."""
        norm: Tensor = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.whole()
        self._optimizer_state = whole_state(cast(Optimizer, self.optimizer))
        if leads():
            super()._save_checkpoint(model, trial)
        wait_for_all()
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        if best.exists():
            self.state.best_model_checkpoint = str(best)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        cut, self.model = self.model, self._whole_encoder
        try:
            super()._save(*args, **kwargs)
        finally:
            self.model = cut

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._in_place_of_the_optimizer(_Told(self._optimizer_state)):
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_from_checkpoint(self, checkpoint_path: str, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        cut, self.model = self.model, self._whole_encoder
        try:
            if leads():
                super()._load_from_checkpoint(checkpoint_path, *args, **kwargs)
        finally:
            self.model = cut
        take_weights(cut, dict(self._whole_encoder.state_dict()) if leads() else {})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        told = _Told({})
        with self._in_place_of_the_optimizer(told) as own:
            super()._load_optimizer_and_scheduler(checkpoint)
        if told.state:
            own.load_state_dict(cut_state(told.state, own))

    @contextmanager
    def _in_place_of_the_optimizer(self, told: _Told) -> Iterator[Optimizer]:
        own = self.optimizer
        assert own is not None
        self.optimizer = cast(Optimizer, told)
        try:
            yield own
        finally:
            self.optimizer = own
