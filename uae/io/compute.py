"""Which device and number format the models run on, and how runs are made repeatable."""

import os
import random


def pick_device(name: str) -> str:
    """``auto``: the first GPU that is there, else the CPU."""
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(name: str, device: str):
    """``auto``: bfloat16 where the device computes it natively, else float32.

    A CPU counts as float32: one without bfloat16 instructions emulates them, measured 5 to 7 times slower than float32.
    """
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def memory_budget(device, held: int) -> int:
    """Bytes that activations may take: a quarter of the machine's memory, or half of what ``held`` bytes leave of a GPU's.

    Not of what is free just now: the same machine plans the same batches.
    """
    import psutil
    import torch

    if device.type != "cuda":
        return psutil.virtual_memory().total // 4
    return (torch.cuda.get_device_properties(device).total_memory - held) // 2


def weight_bytes(model) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def hide_loading_bars() -> None:
    """Reading weights takes a second; transformers' bar for it would bury the bars that matter."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
