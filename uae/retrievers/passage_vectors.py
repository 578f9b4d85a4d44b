"""Vectors of passages by an encoder of torch, from the vector store where it has them.

What is kept is known by the document fingerprint and the libraries that computed it. So the base encoder and students that keep
its document vectors share theirs. An encoder served by ONNX Runtime gives slightly other vectors: it would need a fingerprint of
its own. Questions are not kept: they are few, and their side is what training changes.
"""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from uae.io.files import sha256_bytes
from uae.retrievers.dense import encode
from uae.retrievers.protocol import Vectors
from uae.vectors.store import VectorStore

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


class PassageVectors:
    """Vectors of passages, as ``encode`` gives them.

    Args:
        folder: of the encoder's model.
        store: None: everything is computed, and nothing is kept.
    """

    def __init__(self, encoder: "SentenceTransformer", folder: Path, store: VectorStore | None):
        self._encoder, self._folder, self._store = encoder, folder, store
        self._fingerprint: str | None = None

    def __call__(self, texts: Collection[str], progress: str = "") -> Vectors:
        """Unit vectors in the order of ``texts``, shape (n, dim), float32. Many of a store lie in a mapped file.

        Raises:
            ModelError: a vector holds NaN or an infinite number.
            ArtefactError: the disk cannot take what was computed.
            ExecutionError: what the store spreads its computing over does not work (``uae.execution.ray``).
        """
        if self._store is None:
            return encode(self._encoder, list(texts), "document", progress)
        from uae.retrievers.document_side import document_fingerprint
        from uae.retrievers.truncation import count_tokens

        self._fingerprint = self._fingerprint or document_fingerprint(self._folder, self._encoder)
        with self._computing(self._fingerprint) as compute:
            return self._store.vectors_of(
                store_key(self._fingerprint),
                texts,
                lambda missing: compute(missing, progress),
                lambda missing: count_tokens(self._encoder, missing, "document"),
            )

    def _computing(self, fingerprint: str) -> AbstractContextManager[Callable[[list[str], str], Vectors]]:
        """What computes vectors that the store lacks: the encoder here, or workers that have it."""
        if self._store is None or self._store.execution is None:
            return nullcontext(lambda missing, progress: encode(self._encoder, missing, "document", progress))
        from uae.retrievers.spread_encoding import SpreadEncoder

        return SpreadEncoder(self._store.execution, self._encoder, self._folder, fingerprint)


def store_key(document_fingerprint: str) -> str:
    """What the store knows an encoder by.

    Args:
        document_fingerprint: as ``document_side.document_fingerprint`` gives it, and as a release's manifest has it.
    """
    from uae.retrievers.document_side import encoded_with

    return sha256_bytes(document_fingerprint, *(f"{name} {version}" for name, version in sorted(encoded_with().items())))[:32]
