"""The kinds of retrievers that this version knows. A new kind is one file of this room and one line here."""

from collections.abc import Callable
from pathlib import Path

from uae.retrievers.cosine import Dense
from uae.retrievers.dense import load_encoder
from uae.retrievers.lexical import Lexical
from uae.retrievers.retriever import Retriever

# kind -> what opens it, given the folder of its model (None: it needs none) and a device
KINDS: dict[str, Callable[[Path | None, str], Retriever]] = {
    "dense": lambda folder, device: Dense(load_encoder(_needed(folder), device)),
    "bm25": lambda folder, device: Lexical(),
}


def _needed(folder: Path | None) -> Path:
    if folder is None:
        raise ValueError("a dense retriever needs the folder of its encoder")
    return folder
