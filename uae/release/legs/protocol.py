"""What every leg of a release is, whatever its kind. A leg is one retriever with its index over the release's passages."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, field_validator

from uae.index.stored import Stored
from uae.io.errors import ArtefactError, ConfigError
from uae.release.passages import Passages
from uae.retrievers.protocol import Side, Vectors
from uae.text.passage_template import PassageTemplate

Rows = npt.NDArray[np.int64]


class Part(BaseModel):
    """A part of the manifest. An unknown key is an error: this version would not know what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LegEntry(Part):
    """What the manifest says of a leg. Each kind adds what it needs to be opened, and what made its index."""

    kind: str
    folder: str  # that holds its files, relative to the release's; "" in releases of format 2
    passage_template: str  # how title, section and text of a passage become what the leg reads
    read_texts: str  # hash of what the leg has read of each passage, in the passages' order

    @field_validator("passage_template")
    @classmethod
    def _can_be_filled(cls, value: str) -> str:
        try:
            PassageTemplate(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    def check(self, name: str, release: Path, files: Mapping[str, str]) -> None:
        """Look at what hashes alone do not tell. Called before any file is hashed or opened.

        Args:
            name: of the leg.
            release: the release's folder.
            files: name -> hash, of all files that the manifest names.

        Raises:
            ArtefactError: the leg is not whole, or names a file that is not hashed.
        """


class VectorSource(Protocol):
    """Where the vectors of releases lie, if not in their own files."""

    @property
    def where(self) -> str:
        """What messages call it."""
        ...

    def stored(self, release: str, leg: str, entry: Any, passages: Passages) -> Stored:
        """The vectors of one leg, in the order of the passages.

        Args:
            release: its fingerprint.
            entry: the leg's, with what its vectors have to be.

        Raises:
            ArtefactError: it has none of this release, or they are of another encoder or other passages.
            DatabaseError: it does not answer.
        """
        ...


class Opening(NamedTuple):
    """What a leg is opened with."""

    name: str
    release: Path  # its folder
    fingerprint: str  # of the release
    files: Mapping[str, str]  # name -> hash
    passages: Passages
    device: str  # of torch
    threads: int | None  # of ONNX Runtime; None: as many as there are cores
    vectors: VectorSource | None  # None: the release's own files
    mapped: bool  # indexes stay in their files; else those below a size are in memory


class Queries(NamedTuple):
    """What is asked, as legs need it: a lexical leg reads the texts, a dense one their vectors."""

    texts: Sequence[str]
    vectors: Vectors | None  # unit vectors by the dense leg, shape (n, dimension); None: no leg that is asked needs them


class Leg(Protocol):
    """An opened leg. Several threads may use it."""

    def find(self, queries: Queries, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """The best ``k`` passages of each query, best first, equal scores by passage_id.

        Args:
            rows: the rows that may be found, ascending; None: all.

        Returns:
            Scores and rows of the passages, shape (n, min(k, allowed rows)); a row of -1 stands for none.
        """
        ...

    def close(self) -> None:
        """Let go of model and index. Nothing can be asked afterwards."""
        ...


_PROBED = 8  # passages


def refuse_links_out(folder: Path, release: Path) -> None:
    """
    Raises:
        ArtefactError: a link in ``folder`` leads out of the release.
    """
    for link in (path for path in folder.rglob("*") if path.is_symlink()):
        if not link.resolve().is_relative_to(release.resolve()):
            raise ArtefactError(f"{link} leads out of the release's folder: do not use it")


def probe_rows(passages: int) -> list[int]:
    """A few rows, evenly over all of them: what a leg is tried with when it is opened."""
    if not passages:
        return []
    return sorted({round(place * (passages - 1) / (_PROBED - 1)) for place in range(_PROBED)})


class Encoding(Leg, Protocol):
    """A leg that represents texts by vectors."""

    @property
    def dimension(self) -> int: ...

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that it reads of a text; None: it has no limit."""
        ...

    @property
    def backend(self) -> str:
        """What computes its representations: torch, onnx, onnx_int8 or onnx_int8_mixed."""
        ...

    def encode(self, texts: Sequence[str], kind: Side) -> Vectors:
        """Unit vectors of texts, shape (n, dimension).

        Raises:
            ModelError: the model gave too few vectors, vectors of another size, or numbers that are not finite.
        """
        ...

    def token_lengths(self, texts: Sequence[str], kind: Side) -> list[int]:
        """Tokens of each text as the model gets it."""
        ...
