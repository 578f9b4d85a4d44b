"""Attention over token trees, as an attention function of transformers. Whole prompts pass through it as through "sdpa".

Trees lie end to end in one row without padding. Each tree's trunk attends to itself causally, each branch to the trunk and to its
own nodes, by torch's scaled_dot_product_attention: no call computes scores between trees or between branches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from uae.teacher.engines.tree import Tree

NAME = "uae_tree"


class _Branch(NamedTuple):
    start: int
    stop: int
    mask: torch.Tensor  # (stop - start, trunk + stop - start), additive


class _Tree(NamedTuple):
    start: int
    trunk: int  # its end
    branches: list[_Branch]


# None: whole prompts, which attend as models usually do. Each thread that reads has its own.
_layout: ContextVar[list[_Tree] | None] = ContextVar("layout", default=None)


@contextmanager
def reading_trees(trees: Sequence[Tree], dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Have models of this thread attend as ``trees`` say, laid end to end in one row; afterwards as before."""
    token = _layout.set(_place(trees, dtype, device))
    try:
        yield
    finally:
        _layout.reset(token)


def _place(trees: Sequence[Tree], dtype: torch.dtype, device: torch.device) -> list[_Tree]:
    placed, start = [], 0
    for tree in trees:
        branches = [_Branch(start + b.start, start + b.stop, _mask(b.sees, tree.trunk, dtype).to(device)) for b in tree.branches]
        placed.append(_Tree(start, start + tree.trunk, branches))
        start += len(tree.tokens)
    return placed


def _mask(sees: npt.NDArray[np.bool_], trunk: int, dtype: torch.dtype) -> torch.Tensor:
    mask = torch.zeros((len(sees), trunk + len(sees)), dtype=dtype)
    mask[:, trunk:].masked_fill_(~torch.from_numpy(sees), -torch.inf)
    return mask


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its shapes change with every batch
def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Query of shape (1, heads, n, head size), key and value of (1, groups, n, ...), to an output of (1, n, heads, ...).

    Raises:
        ValueError: the model asks for more than plain attention.
    """
    layout = _layout.get()
    if layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    if extra := [name for name in ("softcap", "s_aux", "position_bias") if kwargs.get(name) is not None]:
        raise ValueError(f"its attention has {extra[0]}")
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    output = query.new_empty((*query.shape[:-1], value.shape[-1]))
    for start, trunk, branches in layout:
        on = slice(start, trunk)
        if trunk > start:
            output[:, :, on] = scaled_dot_product_attention(
                query[:, :, on], key[:, :, on], value[:, :, on], is_causal=True, scale=scaling
            )
        for branch in branches:
            here = slice(branch.start, branch.stop)
            output[:, :, here] = scaled_dot_product_attention(
                query[:, :, here],
                torch.cat([key[:, :, on], key[:, :, here]], 2),
                torch.cat([value[:, :, on], value[:, :, here]], 2),
                attn_mask=branch.mask,
                scale=scaling,
            )
    return output.transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)  # of whole prompts; trees bring their own
