"""A lexical leg: BM25 over what the release's passages say.

data.csc.index.npy, indices.csc.index.npy, indptr.csc.index.npy, vocab.index.json, params.index.json
                      the index as bm25s writes it (``uae.retrievers.bm25_index``); none of them where no passage holds a word

Rows have the order of passages.parquet. Built by ``uae.release.build_lexical``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from uae.io.errors import ArtefactError
from uae.measures.ranking import best_first
from uae.release.legs.protocol import LegEntry, Opening, Queries, Rows, probe_rows
from uae.retrievers.bm25_index import ANALYSER, PARAMETERS, Bm25Index
from uae.retrievers.protocol import Vectors

# A probe is a sum of a few numbers of double precision.
_PROBE_TOLERANCE = 1e-6


class LexicalEntry(LegEntry):
    """What the manifest says of a lexical leg."""

    kind: Literal["bm25"]
    parameters: dict[str, str | float]  # method, k1 and b
    analyser: str  # how a text becomes words
    built_with: dict[str, str]  # libraries and their versions
    vocabulary: int = Field(ge=0)  # distinct words
    probe: list[float]  # what a few passages score for their own text

    def check(self, name: str, release: Path, files: Mapping[str, str]) -> None:
        if self.analyser != ANALYSER or self.parameters != PARAMETERS:
            raise ArtefactError(
                f"{release}: leg {name!r} has its words from another analyser ({self.analyser}; {self.parameters}), which this "
                "version does not have: build the release again (uae index)"
            )
        if self.vocabulary and not any(file.startswith(f"{self.folder}/") for file in files):
            raise ArtefactError(
                f"{release}/manifest.json names no file of {self.folder}, the index of leg {name!r}: do not use it"
            )
        if self.vocabulary and not (release / self.folder).is_dir():
            raise ArtefactError(f"{release / self.folder} is missing: the release has no leg {name!r} without it. Copy it again")


class LexicalLeg:
    """An opened lexical leg. Implements ``protocol.Leg``. Several threads may use it."""

    def __init__(self, entry: LexicalEntry, opening: Opening):
        """
        Raises:
            ArtefactError: index and passages do not belong together.
        """
        passages, folder = opening.passages, opening.release / entry.folder
        if passages.read_hash(entry.passage_template) != entry.read_texts:
            raise ArtefactError(
                f"{folder} (leg {opening.name!r}) was built over other passages than {opening.release / 'passages.parquet'} "
                "holds: copy the release again as a whole"
            )
        self._index = Bm25Index.load(folder, len(passages), opening.mapped)
        self._places = passages.places
        rows = probe_rows(len(passages))
        found = probe(self._index, passages.read(entry.passage_template, rows), rows)
        if self._index.vocabulary != entry.vocabulary or not np.allclose(found, entry.probe, rtol=_PROBE_TOLERANCE, atol=0):
            raise ArtefactError(
                f"{folder} (leg {opening.name!r}) does not hold the words of its passages as they are read here: their own texts "
                f"score {found} and scored {entry.probe} when the release was built. Build the release again (uae index)"
            )

    def find(self, queries: Queries, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """As ``protocol.Leg.find``. A passage that shares no word with a query is not found."""
        k = min(k, len(self._index) if rows is None else len(rows))
        scores, found = np.full((len(queries.texts), k), -np.inf, np.float32), np.full((len(queries.texts), k), -1, np.int64)
        for place, text in enumerate(queries.texts):
            values = self.all_scores(text)
            allowed = np.flatnonzero(values > 0) if rows is None else rows[values[rows] > 0]
            best = allowed[best_first(values[allowed], self._places[allowed], k)]
            scores[place, : len(best)], found[place, : len(best)] = values[best], best
        return scores, found

    def all_scores(self, text: str) -> npt.NDArray[np.float64]:
        """Of every passage, 0 or more, shape (passages,)."""
        return self._index.scores(text)

    def close(self) -> None:
        del self._index


def probe(index: Bm25Index, texts: list[str], rows: list[int]) -> list[float]:
    """What the passages of some rows score for their own texts. Another way to find words gives other numbers."""
    return [float(index.scores(text)[row]) for text, row in zip(texts, rows, strict=True)]
