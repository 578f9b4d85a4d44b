"""What a search needs of stored vectors, wherever they lie: in a FAISS index of this process, or in a database."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Readable(Protocol):
    """Stored vectors that can be read back by row. A FAISS index is one, so the names are FAISS's."""

    def reconstruct_batch(self, rows: Rows, /) -> Vectors:
        """The vectors in these rows, shape (rows, d)."""
        ...


class Stored(Readable, Protocol):
    """Stored vectors that can be searched. Rows count from 0, in the order of a release's passages."""

    @property
    def ntotal(self) -> int:
        """How many there are."""
        ...

    @property
    def d(self) -> int:
        """Numbers of each."""
        ...

    @property
    def is_exhaustive(self) -> bool:
        """Whether a search compares a query with everything that may be found."""
        ...

    def exhaustive(self, vectors: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """Scores and rows of the best ``k`` of all allowed rows (at least ``k``) for each query, best first."""
        ...

    def approximate(self, vectors: Vectors, k: int, rows: Rows | None) -> Rows:
        """Rows that the index's own method finds, shape (n, k), -1 where there are fewer."""
        ...
