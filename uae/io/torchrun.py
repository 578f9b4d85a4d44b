"""What torchrun tells each process that it starts: how many there are, and which of them this one is. Imports no torch."""

import os
from typing import NamedTuple


class Place(NamedTuple):
    """Of this process among those that work together. Alone: the first of one."""

    rank: int = 0
    processes: int = 1
    local_rank: int = 0  # among those of this machine
    local_processes: int = 1


_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_kept: Place | None = None


def place() -> Place:
    """As torchrun said, also after ``keep``."""
    return _kept or Place(*(int(os.environ.get(name, default)) for name, default in zip(_NAMES, Place(), strict=True)))


def leads() -> bool:
    """Whether this process writes what all of them make. Alone it does."""
    return place().rank == 0


def keep() -> Place:
    """Remember the place, and take it out of the environment.

    What looks there would work together in its own way: accelerate gives each process batches of its own. And processes that
    this one starts, such as a teacher's server, are none of those that torchrun started.
    """
    global _kept
    _kept = place()
    for name in _NAMES:
        os.environ.pop(name, None)
    return _kept
