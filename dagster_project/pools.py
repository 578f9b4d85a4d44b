"""The pools in which steps take their turns. How many steps of a pool run at once, of all runs together, is Dagster's setting."""

ACCELERATOR = "accelerator"  # steps that load models: each needs the GPU, or the memory, for itself
CPU = "cpu"  # all others
_LOADS_MODELS = {"candidates", "label", "train", "fuse", "index", "evaluate", "promote"}


def pool_of(stage: str) -> str:
    return ACCELERATOR if stage in _LOADS_MODELS else CPU
