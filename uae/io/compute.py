"""Which device and number format the models run on, and how runs are made repeatable."""

import os
import random
from typing import TYPE_CHECKING

from uae.io.errors import ConfigError

if TYPE_CHECKING:
    import torch


def pick_device(name: str) -> str:
    """The device that a name means on this machine; a GPU of NVIDIA always with its number, which torch wants in places.

    Every part that runs a model asks here: nothing else reads the names auto, cpu, mps, cuda and cuda:N.

    Raises:
        ConfigError: this machine does not have the device, or the name means none.
    """
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return device_among(name, gpus, torch.backends.mps.is_available())


def device_among(name: str, gpus: int, mps: bool) -> str:
    """``pick_device`` on a machine with so many GPUs of NVIDIA, and with or without Apple's.

    ``auto`` is the first GPU that is there, else the CPU. ``cuda`` is the first GPU.
    """
    kind, _, number = name.partition(":")
    if name == "auto":
        return "cuda:0" if gpus else "mps" if mps else "cpu"
    if name == "cpu" or (name == "mps" and mps):
        return name
    if kind == "cuda" and (not number or number.isdecimal()) and int(number or 0) < gpus:
        return f"cuda:{int(number or 0)}"
    here = ["auto", "cpu"] + ["mps"] * mps + ["cuda"] * bool(gpus) + [f"cuda:{number}" for number in range(gpus)]
    raise ConfigError(f"compute.device: this machine has no device {name!r} that torch can use; there is {', '.join(here)}")


def pick_dtype(name: str, device: str) -> "torch.dtype":
    """The number format that a name means on a device of ``pick_device``.

    ``auto`` is bfloat16 where the device computes it natively, else float32.

    A CPU counts as float32: one without bfloat16 instructions emulates them, measured 5 to 7 times slower than float32.
    """
    import torch

    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    return torch.bfloat16 if has_bfloat16(device) else torch.float32


def has_bfloat16(device: str) -> bool:
    """Whether a GPU computes bfloat16 natively. False for a CPU, which may, but need not."""
    import torch

    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def memory_budget(device: "torch.device", held: int) -> int:
    """Bytes that activations may take: a quarter of the machine's memory, or half of what ``held`` bytes leave of a GPU's.

    Not of what is free just now: the same machine plans the same batches.
    """
    import psutil
    import torch

    if device.type != "cuda":
        return psutil.virtual_memory().total // 4
    return (torch.cuda.get_device_properties(device).total_memory - held) // 2


def weight_bytes(model: "torch.nn.Module") -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def hide_loading_bars() -> None:
    """Reading weights takes a second; transformers' bar for it would bury the bars that matter."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def seed_everything(seed: int) -> None:
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
