"""Weights between the base encoder's and the student's: what is learnt is kept in part, so that less is unlearnt."""

from collections.abc import Mapping

import torch
from torch import Tensor

from uae.io.errors import ModelError


def interpolate(encoder: torch.nn.Module, base: Mapping[str, Tensor], base_share: float) -> None:
    """Move the weights of a trained encoder towards those that it was trained from, in place.

    Each weight becomes ``base_share`` times the base's plus ``1 - base_share`` times its own (WiSE-FT, Wortsman et al. 2022,
    arXiv 2109.01903). The encoder that is served is as large and as fast as before.

    Args:
        base: the base's ``state_dict``. Weights that it lacks, an adapter's for instance, stay as they are.
        base_share: 0: nothing changes. 1: the base's weights.

    Raises:
        ModelError: a weight has another shape in the base.
    """
    # Tied weights have several names, and are mixed once.
    again = {name for name, _ in encoder.named_parameters(remove_duplicate=False)} - {
        name for name, _ in encoder.named_parameters()
    }
    own = encoder.state_dict()
    for name, weight in own.items():
        before = base.get(name)
        if before is None or name in again or not weight.is_floating_point():
            continue
        if before.shape != weight.shape:
            raise ModelError(
                f"{name} has shape {tuple(weight.shape)}, and {tuple(before.shape)} in the base: they cannot be mixed"
            )
        weight.lerp_(before.to(weight), base_share)
