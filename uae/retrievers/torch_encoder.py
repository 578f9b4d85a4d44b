"""The trained encoder itself, served by torch: for models that ONNX Runtime cannot serve."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uae.retrievers.dense import embedding_dimension, encode, load_encoder
from uae.retrievers.protocol import Side, Vectors


class TorchEncoder:
    """Implements ``protocol.Encoder``."""

    def __init__(self, folder: Path, device: str):
        """
        Raises:
            ModelError: as ``load_encoder``.
        """
        self._encoder: Any = load_encoder(folder, device)
        # A tokenizer keeps how it pads and cuts as a state, and encoding may run in another thread.
        self._counting: Any = copy.deepcopy(self._encoder.tokenizer)
        self.dimension = embedding_dimension(self._encoder)

    def encode(self, texts: Sequence[str], kind: Side) -> Vectors:
        return encode(self._encoder, list(texts), kind)

    def token_lengths(self, texts: Sequence[str], kind: Side) -> list[int]:
        prompt, limit = self._encoder.prompts.get(kind) or "", self._encoder.max_seq_length
        found = self._counting([prompt + text for text in texts], truncation=True, max_length=limit)["input_ids"]
        return list(map(len, found))

    def close(self) -> None:
        self._encoder = self._counting = None
