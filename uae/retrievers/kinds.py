"""The kinds of retrievers that this version knows. A new kind is one file of this room and one line here."""

from collections.abc import Callable
from pathlib import Path

from uae.retrievers.cosine import Dense
from uae.retrievers.dense import load_encoder
from uae.retrievers.lexical import Lexical
from uae.retrievers.passage_vectors import PassageVectors
from uae.retrievers.retriever import Retriever
from uae.vectors.store import VectorStore

# kind -> what opens it, given the folder of its model (None: it needs none), a device, and where vectors are kept (None: nowhere)
KINDS: dict[str, Callable[[Path | None, str, VectorStore | None], Retriever]] = {
    "dense": lambda folder, device, vectors: open_dense(_needed(folder), device, vectors),
    "bm25": lambda folder, device, vectors: Lexical(),
}


def open_dense(folder: Path, device: str, vectors: VectorStore | None, dimension: int | None = None) -> Dense:
    """A dense retriever whose passages' vectors are kept.

    Args:
        dimension: the first numbers of its vectors that are used; None: as the model says.

    Raises:
        ModelError: as ``load_encoder``.
    """
    encoder = load_encoder(folder, device)
    encoder.truncate_dim = dimension or encoder.truncate_dim
    return Dense(encoder, PassageVectors(encoder, folder, vectors))


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("a dense retriever needs the folder of its encoder")
    return folder
