"""What an encoder does, whatever computes it."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

Side = Literal["query", "document"]
Vectors = npt.NDArray[np.float32]


class Encoder(Protocol):
    """Turns texts into unit vectors: the serving form of a bi-encoder, by torch or by ONNX Runtime."""

    dimension: int

    def encode(self, texts: Sequence[str], kind: Side) -> Vectors:
        """Unit vectors, shape (n, dimension)."""
        ...

    def token_lengths(self, texts: Sequence[str], kind: Side) -> list[int]:
        """Tokens of each text as the model gets it: with prompt and marks, and cut where it is too long."""
        ...

    def close(self) -> None:
        """Let go of the model. Nothing can be encoded afterwards."""
        ...
