"""A release, opened: legs, passages and systems under one fingerprint. It opens only if its parts fit."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from uae.io.errors import InputError
from uae.io.mapped import drop_pages_of
from uae.measures.usefulness import Usefulness
from uae.release.legs.dense import DenseEntry, DenseLeg
from uae.release.legs.fused import FusedLegs
from uae.release.legs.kinds import KINDS
from uae.release.legs.lexical import LexicalLeg
from uae.release.legs.protocol import Encoding, Leg, Opening, Queries, Rows, VectorSource
from uae.release.manifest import DENSE, LEXICAL, UAE, read_manifest
from uae.release.passages import Hit, Passages
from uae.release.reranked import RerankedLegs
from uae.release.second_stage import SecondStage
from uae.retrievers.protocol import Side, Vectors

_SLICE = 1000  # passages whose texts are Python objects at once


class Answer(NamedTuple):
    """What was found for a query."""

    hits: list[Hit]  # best first
    useful: bool | None  # whether the first one is likely to help, ``min_score`` aside; None: release or system does not say
    useful_probability: float | None  # of that; 0: nothing was found


class Release:
    """An opened release: encodes texts with its own encoders and searches its own indexes. Several threads may use it."""

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        threads: int | None = None,
        vectors: VectorSource | None = None,
        mapped: bool = False,
    ):
        """
        Args:
            device: of torch, where torch serves the release.
            threads: of ONNX Runtime, where that does; None: as many as there are cores.
            vectors: where the vectors of its passages are asked for; None: in its own indexes.
            mapped: its texts and indexes stay in files, whatever their size: memory does not grow with them. For what looks at a
                release beside other work. Else they are in memory, where a service has them at hand.

        Raises:
            ArtefactError: the folder's parts do not belong together, or ``vectors`` has none of this release. Or ``mapped``, and
                the disk of temporary files (TMPDIR) cannot take the texts.
            DatabaseError: ``vectors`` does not answer.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.passages = Passages(self.folder, mapped)
        self._in_files = [
            entry.index_path(self.folder)
            for entry in self.manifest.legs.values()
            if mapped and vectors is None and isinstance(entry, DenseEntry)
        ]
        self._legs: dict[str, Leg] = {}
        self._second: SecondStage | None = None
        try:
            for name, entry in self.manifest.legs.items():
                opening = Opening(
                    name, self.folder, self.fingerprint, self.manifest.files, self.passages, device, threads, vectors, mapped
                )
                self._legs[name] = KINDS[entry.kind].open(entry, opening)
            if self.manifest.second_stage is not None:
                self._second = SecondStage(self.manifest.second_stage, self.folder, self.passages, device, threads)
        except BaseException:
            self.close()
            raise
        self._systems = {name: self._opened_system(name) for name in self.manifest.systems}
        self.drop_pages()

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def legs(self) -> Mapping[str, Leg]:
        """Its opened legs, by name."""
        return self._legs

    @property
    def systems(self) -> tuple[str, ...]:
        """What can be asked: "uae", its parts, and "base" if the release holds the encoder before training as well."""
        return tuple(self.manifest.systems)

    def score(self, system: str = UAE) -> str:
        """What a system's scores are, as a formula: "cosine", "bm25", "cosine + 0.4 * bm25 / highest bm25".

        Raises:
            InputError: there is no such system.
        """
        self._system(system)
        return self.manifest.score(system)

    def has_vectors(self, system: str = UAE) -> bool:
        """Whether a system needs the vectors of its queries. BM25 alone reads their texts.

        Raises:
            InputError: there is no such system.
        """
        return not isinstance(_first(self._system(system)), LexicalLeg)

    def rerank_depth(self, system: str = UAE) -> int:
        """Passages of a query that its second stage reads; 0: it has none.

        Raises:
            InputError: there is no such system.
        """
        found = self._system(system)
        return found.depth if isinstance(found, RerankedLegs) else 0

    @property
    def passage_count(self) -> int:
        """How many there are."""
        return self.manifest.passages

    @property
    def encoder(self) -> str:
        """Fingerprint of the trained encoder."""
        return self.manifest.dense().encoder

    def texts(self) -> Iterator[str]:
        """Everything that is said of each passage: its document's title, the headings above it, its text."""
        for start in range(0, len(self.passages), _SLICE):
            rows = range(start, min(start + _SLICE, len(self.passages)))
            yield from self.passages.read("{title}\n{section}\n{text}", rows)

    @property
    def data_hash(self) -> str:
        """Of the passages' texts, in their order."""
        return self.manifest.passage_texts

    def dimension(self, system: str = UAE) -> int:
        """Of its vectors."""
        return self._encoding(system).dimension

    def max_tokens(self, system: str = UAE) -> int | None:
        """The most tokens that its encoder reads of a text; None: there is no limit."""
        return self._encoding(system).max_tokens

    def backend(self, system: str = UAE) -> str:
        """What computes its vectors: torch, onnx, onnx_int8 or onnx_int8_mixed."""
        return self._encoding(system).backend

    def encode(self, texts: Sequence[str], kind: Side, system: str = UAE) -> Vectors:
        """Unit vectors of queries (``kind="query"``) or passages (``kind="document"``), shape (n, dimension).

        Raises:
            InputError: a text is no string, there is no such system, or it has no vectors.
            ModelError: the encoder did not give one finite vector for each text.
        """
        return self._encoding(system).encode(clean(texts), kind)

    def token_lengths(self, texts: Sequence[str], kind: Side) -> list[int]:
        """Tokens of each text as the encoder gets it: with prompt and marks, and cut at ``max_tokens``."""
        return self._encoding(UAE).token_lengths(clean(texts), kind)

    def rows(self, filters: Mapping[str, Any]) -> Rows | None:
        """Rows of the passages that a filter (``uae.index.filters``) lets through, ascending; None: all.

        Raises:
            InputError: there is no such document or field, or a condition is malformed.
        """
        try:
            return self.passages.rows(filters)
        except InputError as error:
            raise InputError(f"{error} in release {self.fingerprint[:12]}") from None

    def find(
        self,
        queries: Queries,
        k: int,
        rows: npt.NDArray[np.int64] | None = None,
        min_score: float | None = None,
        system: str = UAE,
    ) -> list[list[Hit]]:
        """The best ``k`` passages of each query, best first, equal scores by passage_id. Arguments as ``answer``."""
        return [answer.hits for answer in self.answer(queries, k, rows, min_score, system)]

    def answer(
        self,
        queries: Queries,
        k: int,
        rows: npt.NDArray[np.int64] | None = None,
        min_score: float | None = None,
        system: str = UAE,
    ) -> list[Answer]:
        """``find``, and whether it is likely that the first passage helps.

        Args:
            queries: texts, and their vectors by ``encode`` of the same system where it has any.
            rows: the rows that may be found, as ``rows`` gives them; None: all.
            min_score: the least score, of the kind that ``score`` names; None: any.
        """
        cleaned = Queries(clean(queries.texts), queries.vectors)
        scores, found = self._system(system).find(cleaned, k, rows)
        least = -np.inf if min_score is None else min_score
        hits = [
            [self.passages.hit(row, score) for row, score in zip(of_one, values, strict=True) if row >= 0 and score >= least]
            for of_one, values in zip(found.tolist(), scores.tolist(), strict=True)
        ]
        entry = self.manifest.useful
        if entry is None or system != UAE:
            return [Answer(of_one, None, None) for of_one in hits]
        likely = [self._likely(cleaned, place, of_one[:1], entry.usefulness) for place, of_one in enumerate(found)]
        return [Answer(one, value >= entry.least_probability, value) for one, value in zip(hits, likely, strict=True)]

    def search(self, queries: Sequence[str], k: int, doc_id: str | None = None, system: str = UAE) -> list[list[Hit]]:
        """The best ``k`` passages of each query, best first; ``doc_id`` limits the search to one document.

        Raises:
            InputError: there is no such document or system.
        """
        rows = None if doc_id is None else self.rows({"doc_id": doc_id})
        vectors = self.encode(queries, "query", system) if self.has_vectors(system) else None
        return self.find(Queries(queries, vectors), k, rows, system=system)

    def drop_pages(self) -> None:
        """Give back the memory that takes what was read of mapped files. What is read again comes from the disk or its cache."""
        self.passages.drop_pages()
        for path in self._in_files:
            drop_pages_of(path)

    def close(self) -> None:
        """Let go of models, indexes and tables. Nothing can be asked afterwards."""
        for leg in self._legs.values():
            leg.close()
        self._legs.clear()
        if self._second is not None:
            self._second.close()
            self._second = None
        self._systems = {}
        self.passages.close()

    def _likely(self, queries: Queries, place: int, first: Rows, usefulness: Usefulness) -> float:
        """That a query's first passage helps; 0 where none was found."""
        dense, lexical, vectors = self._legs[DENSE], self._legs[LEXICAL], queries.vectors
        if vectors is None or not isinstance(dense, DenseLeg) or not isinstance(lexical, LexicalLeg):
            raise ValueError("whether a passage helps is told by both legs, and by the queries' vectors")
        if not len(first) or first[0] < 0:
            return 0.0
        cosine = float(dense.score(vectors[place : place + 1], first)[0])
        return round(usefulness.probability(cosine, float(lexical.all_scores(queries.texts[place])[first[0]])), 4)

    def _opened_system(self, name: str) -> Leg:
        legs = [self._legs[leg] for leg in self.manifest.systems[name].legs]
        dense = [leg for leg in legs if isinstance(leg, DenseLeg)]
        lexical = [leg for leg in legs if isinstance(leg, LexicalLeg)]
        first = legs[0]
        if dense and lexical:
            places = self.passages.places
            first = FusedLegs(dense[0], lexical[0], self.manifest.fusion(name), len(self.passages), places)
        rerank = self.manifest.systems[name].rerank
        if rerank is None or self._second is None:  # the manifest has both or neither
            return first
        return RerankedLegs(first, self._second, rerank.depth, rerank.weight, self.passages.places)

    def _system(self, name: str) -> Leg:
        if name not in self._systems:
            raise InputError(f"release {self.fingerprint[:12]} has no system {name!r}; it has {', '.join(self._systems)}")
        return self._systems[name]

    def _encoding(self, name: str) -> Encoding:
        system = _first(self._system(name))
        found = system.dense if isinstance(system, FusedLegs) else system
        if not isinstance(found, DenseLeg):
            raise InputError(f"system {name!r} of release {self.fingerprint[:12]} finds words: it has no vectors")
        return found


def _first(system: Leg) -> Leg:
    """What is asked before the second stage."""
    return system.first if isinstance(system, RerankedLegs) else system


def clean(texts: Sequence[str]) -> list[str]:
    """The texts as a tokenizer takes them: half of a surrogate pair, which JSON can bring in, becomes U+FFFD.

    Raises:
        InputError: one is no string.
    """
    if isinstance(texts, str):
        raise InputError("expected a list of texts, not one text")
    cleaned = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"text {number} is no string but {type(text).__name__}")
        try:
            text.encode("utf-8")
            cleaned.append(text)
        except UnicodeEncodeError:
            cleaned.append(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return cleaned
