"""Hashes of ids, 8 bytes each, where the ids themselves would be too many to hold. Different ids may have one hash."""

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

Hashes = npt.NDArray[np.uint64]


def hashes_of(ids: Collection[str]) -> Hashes:
    return pd.util.hash_array(np.array(list(ids), dtype=object), categorize=False)


def twice(hashes: Sequence[Hashes]) -> Hashes:
    """Those that stand there more than once, each once."""
    ordered = np.concatenate([*hashes, np.zeros(0, np.uint64)])
    ordered.sort()
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
