"""Training by several processes, which torchrun starts: each holds the whole batch, and encodes its share of the batch's texts.

Every process draws the same batches and makes the same labels. So masks are those of the whole batch. A passage that two
questions share is one column, whichever process encodes it, and nobody's negative. Vectors are gathered with their gradients,
each process computes the whole loss from them, and the gradients of the weights are summed. Loss and gradients are those of one
process. So are the order of the batches, the number of steps and the checkpoints, which are as good for one as for several.

The trainer is that of one process in each of them. DistributedDataParallel would give each process batches of its own, and could
not encode again in the backward pass what memory does not hold (``pieces``).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from uae.io.compute import pick_device
from uae.io.errors import ConfigError
from uae.io.torchrun import Place, keep, leads, place
from uae.training.agreement import METRIC, Agreement
from uae.training.pieces import Features, of_rows

# Others wait while the leading process validates, or asks a teacher for hours. Where one ends, torchrun ends them all.
_PATIENCE = timedelta(days=30)
_BUCKET = 2**25  # bytes of gradients that are summed at once


def join(device: str) -> str:
    """Join the other processes, where torchrun has started some; else only ``pick_device``. Call it before any model is loaded.

    Args:
        device: a name that ``pick_device`` knows, the same in each process.

    Returns:
        the device of this process: of several GPUs each process takes one.

    Raises:
        ConfigError: the machine has fewer GPUs than processes, or the name is of one GPU.
    """
    own = place()
    if own.processes == 1 or dist.is_initialized():
        return pick_device(device)
    found = device_of(own, device, pick_device(device), torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if found.startswith("cuda"):
        torch.cuda.set_device(found)
    backend = "nccl" if found.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, rank=own.rank, world_size=own.processes)
    keep()
    return found


def device_of(own: Place, name: str, first: str, gpus: int) -> str:
    """The device that a process takes of a machine with so many GPUs.

    Args:
        name: as ``compute.device`` has it.
        first: what ``pick_device`` makes of it.

    Raises:
        ConfigError: see ``join``.
    """
    if first == "cpu":
        return first
    if not first.startswith("cuda"):
        raise ConfigError(f"train.processes: {first} is one device; take 1 process, or set compute.device: cpu")
    if name not in ("auto", "cuda"):
        raise ConfigError(f"compute.device: {own.local_processes} processes cannot share {name}; set cuda, and each takes a GPU")
    if own.local_processes > gpus:
        raise ConfigError(
            f"train.processes: {own.local_processes} on a machine with {gpus} GPUs, and each takes one; start fewer"
        )
    return f"cuda:{own.local_rank}"


def leave() -> None:
    """Part with the others. What follows, one process does as if there were no other."""
    if dist.is_initialized():
        dist.destroy_process_group()


def processes() -> int:
    """How many have joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait_for_all() -> None:
    if processes() > 1:
        dist.barrier()


@contextmanager
def leader_first() -> Iterator[None]:
    """The leading process does what stands within, then the others do, who find what it wrote."""
    if not leads():
        wait_for_all()
    yield
    if leads():
        wait_for_all()


def of_leader(value: float, device: str | torch.device) -> float:
    """The leading process's value, in each."""
    if processes() == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return float(told)


class OfLeader(BaseEvaluator):
    """A score that the leading process finds and tells: all of them stop early, or none does."""

    def __init__(self, evaluator: Agreement):
        super().__init__()  # type: ignore[no-untyped-call]
        self.evaluator, self.primary_metric = evaluator, METRIC

    def __call__(self, model: SentenceTransformer, *args: Any, **kwargs: Any) -> dict[str, float]:  # type: ignore[override]
        # An encoder that is cut over the processes encodes with all of them, or not at all.
        found = self.evaluator(model)[METRIC] if leads() or isinstance(model, FSDPModule) else 0.0
        return {METRIC: of_leader(found, model.device)}


class SharingTrainer(SentenceTransformerTrainer):
    """Sums the gradients of all processes before each step."""

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if processes() > 1 and self.accelerator.sync_gradients:
            sum_gradients(self.model.parameters())
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """By itself it would have the other processes encode for the first, in the steps' number format."""
        if processes() == 1:
            found: dict[str, float] = super().evaluate(*args, **kwargs)
            return found
        assert isinstance(self.evaluator, OfLeader)
        metrics = {f"eval_{METRIC}": self.evaluator(self.model)[METRIC]}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class WritesNothing(TrainerCallback):
    """Of a process that does not lead: the leading one keeps the checkpoints."""

    def _keep_none(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        control.should_save = False

    on_step_end = on_epoch_end = _keep_none


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, which have gradients of the same weights."""
    bucket: list[Tensor] = []
    held = 0
    for gradient in [parameter.grad for parameter in parameters if parameter.grad is not None]:
        if bucket and (held > _BUCKET or gradient.dtype != bucket[0].dtype):
            _sum(bucket)
            bucket, held = [], 0
        bucket.append(gradient)
        held += gradient.nbytes
    if bucket:
        _sum(bucket)


def _sum(gradients: list[Tensor]) -> None:
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    wholes = flat.split([gradient.numel() for gradient in gradients])  # type: ignore[no-untyped-call]
    for gradient, whole in zip(gradients, wholes, strict=True):
        gradient.copy_(whole.view_as(gradient))


def encode_shared(encode: Callable[[Features], Tensor], features: Features, drops: bool, evenly: bool = False) -> Tensor:
    """The vectors of all texts, shape (texts, dim), float32, of which this process encodes its share.

    Texts are dealt out by length, so that every process has about as many tokens. A process that gets none encodes one all the
    same, and its vector counts for nothing: each has gradients of the same weights then.

    Args:
        encode: vectors of the texts of some features, on this process.
        features: of all texts, among them ``attention_mask`` of shape (texts, length).
        drops: whether the model drops units at random.
        evenly: each process encodes as many texts as any other, because none can compute without the others.
    """
    count, rank = processes(), dist.get_rank()
    order = features["attention_mask"].sum(dim=1).argsort(stable=True, descending=True)
    own = order[rank::count]
    each = -(-len(order) // count)
    rows = own if len(own) else order[:1]
    if evenly and len(rows) < each:
        rows = torch.cat([rows, order[:1]])
    with _other_numbers(rank, features["attention_mask"].device, drops):
        vectors = encode(of_rows(features, rows)).float()
    if len(own) < len(rows):  # its gradient is nought, and goes through the same layers
        vectors = torch.cat([vectors[: len(own)], 0 * vectors[len(own) :]])
    missing = each - len(vectors)
    padded = torch.cat([vectors, vectors.new_zeros(missing, vectors.shape[1])]) if missing else vectors
    gathered: Tensor = _Gathered.apply(padded)  # type: ignore[no-untyped-call]
    dealt = gathered.transpose(0, 1).flatten(0, 1)[: len(order)]  # as ``order`` has them
    return dealt[order.argsort()]


class _Gathered(torch.autograd.Function):
    """Of each process's (n, dim): all of them, (processes, n, dim). The gradient of the own part comes back.

    Every process computes the whole loss, so it has the whole gradient of its own vectors.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(processes())]
        dist.all_gather(parts, own.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient[dist.get_rank()]


@contextmanager
def _other_numbers(rank: int, device: torch.device, drops: bool) -> Iterator[None]:
    """Dropout draws other numbers in each process. After it, all draw the same again: an objective may draw, too."""
    if not drops:
        yield
        return
    seed = int(torch.randint(2**62, ()))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed((seed + rank) % 2**63)
        yield
