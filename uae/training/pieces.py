"""Encoding a batch's texts in pieces of like length: less padding, and no more memory than there is."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from uae.io.compute import memory_budget, weight_bytes

Features = dict[str, Any]  # tensors of the texts' tokens, and what else a module wants
Model = Callable[[Features], Features]

# Texts encoded at once in training. On a CPU more of them are no faster, and padding is (57 batches of COVID-QA: 37 % of tokens).
# On a GPU few of them leave it idle, and many are more than it can hold: a guess, none was at hand.
_PIECE = {"cpu": 16}
_GPU_PIECE = 64

# Texts of a batch whose activations are kept, where the budget holds so many. So a batch of eight times as many texts takes
# hardly more memory (``benchmarks/batch_memory.py``), whatever the model and the machine.
MOST_KEPT = 1024


def piece_size(device: torch.device) -> int:
    """Texts in a piece."""
    return _PIECE.get(device.type, _GPU_PIECE)


def activation_budget(model: torch.nn.Module) -> int:
    """Bytes that activations may take, beside the weights, their gradients and the optimizer's two moments."""
    device = next(model.parameters()).device
    budget = memory_budget(device, 4 * weight_bytes(model))
    # A CPU's allocator takes twice what tensors of many sizes hold: 13.4 GB for a budget of 6.
    return budget // 2 if device.type == "cpu" else budget


class Kept:
    """What the backward pass of one batch will want: bytes by address, and of how many texts."""

    def __init__(self) -> None:
        self.bytes: dict[int, int] = {}
        self.texts = 0

    def has_room(self, budget: float) -> bool:
        return self.texts < MOST_KEPT and sum(self.bytes.values()) < budget

    def counting(self) -> saved_tensors_hooks:
        """Within it, what is saved for the backward pass counts. Weights, which are there anyway, count once."""

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            self.bytes[storage.data_ptr()] = storage.nbytes()
            return tensor

        return saved_tensors_hooks(pack, lambda tensor: tensor)


def encode_in_pieces(
    model: Model,
    features: Features,
    piece: int,
    budget: float,
    kept: Kept | None = None,
    one_by_one: bool = False,
) -> Tensor:
    """Vectors, shape (texts, dim), of texts that are encoded ``piece`` at a time, neighbours in length together.

    A batch is padded to its longest text, so pieces of texts of like length need little padding. Pieces keep their activations
    for the backward pass until these take ``budget`` bytes, or are of ``MOST_KEPT`` texts. Later pieces keep nothing and are
    computed again in the backward pass (Chen et al. 2016, arXiv 1604.06174; of whole texts GradCache, Gao et al. 2021, arXiv
    2101.06983). Vectors and gradients are the same; these pieces take about a third more time.

    Args:
        features: tensors of the texts' tokens, shape (texts, length), among them ``attention_mask``.
        kept: of the batch so far, where more of its texts are encoded in other calls. None: there are none.
        one_by_one: no piece is kept, and the backward pass does one of them after the other, each forward and backward: a model
            that is cut over processes counts on that.
    """
    kept = kept or Kept()
    vectors = []
    mask = features["attention_mask"]
    order = mask.sum(dim=1).argsort(stable=True)
    for rows in order.split(piece):
        cut = dict(features) if len(rows) == len(mask) else of_rows(features, rows)
        if one_by_one:
            vectors.append(checkpoint(_encode, model, cut, torch.ones((), requires_grad=True), use_reentrant=True))
        elif kept.has_room(budget):
            kept.texts += len(rows)
            with kept.counting():
                vectors.append(_encode(model, cut))
        else:
            vectors.append(checkpoint(_encode, model, cut, use_reentrant=False))
    return vectors[0] if len(vectors) == 1 else torch.cat(vectors)[order.argsort()]


def _encode(model: Model, features: Features, _: Tensor | None = None) -> Tensor:
    """The third argument is for ``checkpoint``, which computes no gradients where no argument asks for one."""
    vectors: Tensor = model(dict(features))["sentence_embedding"]  # a model adds to what it is given
    return vectors


def of_rows(features: Features, rows: Tensor) -> Features:
    """Some texts' features, without the columns that only others use: padding may stand at either side."""
    used = features["attention_mask"][rows].any(dim=0)
    return {
        name: value[rows][:, used] if torch.is_tensor(value) and value.ndim == 2 else value for name, value in features.items()
    }
