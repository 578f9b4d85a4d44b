"""The passages of an opened release, with their documents: what legs read, what filters let through, what a search gives back."""

import itertools
import json
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from uae.index.filters import DocumentFilter, read_metadata
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes, sha256_parts
from uae.io.mapped_table import MappedTable
from uae.io.tables import scan_table
from uae.release.tables import RELEASE_DOCUMENTS, RELEASE_PASSAGES, map_arrow, read_arrow
from uae.text.neighbours import NONE, neighbour_rows
from uae.text.passage_template import PLAIN, PassageTemplate, sentences_around

_COLUMNS = ("passage_id", "doc_id", "section", "start", "end", "text")
_SLICE = 1000  # passages rendered together: their texts are Python objects for that long only
_HITS = 16  # after so many their pages are given back: the system maps megabytes around each
_WALKED = 16 * _SLICE  # passages of those that are all gone through, after which their pages are given back


class Hit(NamedTuple):
    """A passage that was found."""

    passage_id: str
    doc_id: str
    source: str  # of the document: the file it came from, or its id in a file
    title: str  # the document's
    section: str
    start: int  # offsets into the document's text, in characters
    end: int
    text: str
    score: float  # what it is, ``Release.score`` says of the system
    metadata: dict[str, Any]  # the document's


class Passages:
    """Passages and documents of a release folder. Several threads may use it."""

    def __init__(self, folder: Path, mapped: bool = True):
        """
        Args:
            mapped: their texts lie in temporary files, and what was read of them does not stay; else in memory, as a service
                has them, which may have no disk.

        Raises:
            ArtefactError: a table is missing or damaged, a passage has no document, or metadata are no JSON object. Or the disk
                of temporary files (TMPDIR) cannot take the tables.
        """
        self._mapped: list[MappedTable] = []
        self._hits = 0  # that were given, about: threads may count at once

        def read(name: str, schema: pa.Schema) -> pa.Table:
            if not mapped:
                return read_arrow(folder / name, schema)
            self._mapped.append(map_arrow(folder / name, schema))
            return self._mapped[-1].table

        passages, documents = read("passages.parquet", RELEASE_PASSAGES), read("documents.parquet", RELEASE_DOCUMENTS)
        self._columns = {name: passages[name] for name in _COLUMNS}
        self._titles, self._sources, self._metadata = documents["title"], documents["source"], documents["metadata"]
        _check_metadata(folder / "documents.parquet", self._metadata)
        self._doc_ids = doc_ids = documents["doc_id"].to_pylist()
        positions = pc.index_in(passages["doc_id"], pa.array(doc_ids, passages["doc_id"].type))
        if positions.null_count:
            orphan = passages["doc_id"].filter(pc.is_null(positions))[0].as_py()
            raise ArtefactError(f"{folder}: passages.parquet has passages of document {orphan!r}, documents.parquet has it not")
        self._documents: npt.NDArray[np.int64] = positions.to_numpy().astype(np.int64)
        self._filter = DocumentFilter(doc_ids, documents["source"].to_pylist(), _Texts(self._metadata), self._documents)
        self._positions = passages["position"]
        self._around: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None
        self._read_hashes: dict[str, str] = {}
        # Each row's place in the order of passage_ids. It orders equal scores.
        self.places: npt.NDArray[np.int64] = np.empty(len(passages), dtype=np.int64)
        self.places[pc.sort_indices(passages["passage_id"]).to_numpy()] = np.arange(len(passages))
        self.drop_pages()

    def __len__(self) -> int:
        return len(self._documents)

    def rows(self, filters: Mapping[str, Any]) -> npt.NDArray[np.int64] | None:
        """Rows that a filter (``uae.index.filters``) lets through, ascending; None: all.

        Raises:
            InputError: there is no such document or field, or a condition is malformed.
        """
        return self._filter.rows(filters)

    @property
    def ids(self) -> pd.DataFrame:
        """Columns passage_id and doc_id of every row. No id is a Python object, doc_ids are a category."""
        doc_ids = pd.Categorical.from_codes(self._documents, pd.Index(self._doc_ids, dtype="str"))
        return pd.DataFrame({"passage_id": self._columns["passage_id"].to_pandas(), "doc_id": doc_ids})

    def ids_of(self, rows: Sequence[int]) -> list[str]:
        """The passage_ids of some rows."""
        found: list[str] = self._columns["passage_id"].take(pa.array(rows, pa.int64())).to_pylist()
        return found

    def sources(self) -> Iterator[str]:
        """The source key of every row's document."""
        keys = self._sources.to_pylist()
        return (keys[document] for document in self._documents)

    def hit(self, row: int, score: float) -> Hit:
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        document = int(self._documents[row])
        metadata = read_metadata(values["doc_id"], self._metadata[document].as_py())
        named = {"source": self._sources[document].as_py(), "title": self._titles[document].as_py()}
        self._hits += 1
        if not self._hits % _HITS:
            self.drop_pages()
        return Hit(**values, **named, score=score, metadata=metadata)

    def read(self, template: str, rows: Sequence[int]) -> list[str]:
        """What a leg with this passage template reads of the passages in these rows."""
        return list(self.rendered(PassageTemplate(template), rows))

    def read_all(self, template: str) -> Collection[str]:
        """What a leg with this passage template reads of all passages. It can be gone through, and holds no text itself."""
        return _Read(self, PassageTemplate(template))

    def read_hash(self, template: str) -> str:
        """Hash of what a leg with this passage template reads of all passages: equal to the leg's ``read_texts``."""
        if template not in self._read_hashes:  # legs mostly read the same
            self._read_hashes[template] = sha256_parts(self.read_all(template))
        return self._read_hashes[template]

    def drop_pages(self) -> None:
        """Give back the memory that takes what was read of mapped tables; where they are in memory, nothing."""
        for table in self._mapped:
            table.drop_pages()

    def close(self) -> None:
        """Let go of the tables."""
        self._columns.clear()
        self._mapped.clear()
        del self._titles, self._sources, self._doc_ids, self._metadata, self._filter, self._documents, self._positions
        del self._around, self.places

    def rendered(self, template: PassageTemplate, rows: Sequence[int]) -> Iterator[str]:
        """As ``read``, one by one."""
        for start in range(0, len(rows), _SLICE):
            part = np.asarray(rows[start : start + _SLICE], dtype=np.int64)
            texts = self._columns["text"].take(pa.array(part)).to_pylist()
            if template.template == PLAIN:
                yield from texts
                continue
            sections = self._columns["section"].take(pa.array(part)).to_pylist()
            titles = self._titles.take(pa.array(self._documents[part])).to_pylist()
            around = sentences_around(*self._texts_around(part)) if template.has_neighbours else ()
            yield from map(template.render, titles, sections, texts, *around)

    def _texts_around(self, rows: npt.NDArray[np.int64]) -> tuple[list[str], list[str]]:
        """The texts of the passages before and behind each row; "" where there is none."""
        if self._around is None:  # most templates do not ask
            self._around = neighbour_rows(self._documents, self._positions.to_numpy().astype(np.int64))
        before, after = ([row if row != NONE else None for row in side[rows]] for side in self._around)
        texts = self._columns["text"]
        first, second = (pc.fill_null(texts.take(pa.array(side, pa.int64())), "").to_pylist() for side in (before, after))
        return first, second


def check_same_passages(folder: Path, passages: Iterable[pd.DataFrame]) -> None:
    """Check that a release holds these passages and no others: what is measured on them must be what is served.

    Args:
        folder: of the release.
        passages: columns passage_id and text, some rows at a time, in any order. Nothing of them is kept.

    Raises:
        ArtefactError: they differ.
    """
    path = folder / "passages.parquet"
    served = _summed(scan_table(path, RELEASE_PASSAGES, ["passage_id", "text"], _SLICE))
    now = _summed(passages)
    if served != now:
        raise ArtefactError(
            f"{folder} holds other passages ({served[0]}) than the corpus has now ({now[0]}): run the stage index again "
            "(uae index)"
        )


def _summed(parts: Iterable[pd.DataFrame]) -> tuple[int, int]:
    """How many rows there are, and the sum of their hashes, which tells sets of rows apart and no orders of one.

    MSet-Add-Hash (Clarke, Devadas, van Dijk, Gassend and Suh, ASIACRYPT 2003). It is no guard against somebody who looks for two
    sets of one sum: a release's files have hashes of their own for that.
    """
    rows = total = 0
    for part in parts:
        rows += len(part)
        total += sum(
            int(sha256_bytes(passage_id, text), 16) for passage_id, text in zip(part["passage_id"], part["text"], strict=True)
        )
    return rows, total


def _check_metadata(path: Path, column: pa.ChunkedArray) -> None:
    """Once, when the release is opened: later an answer could not be written, or would be no JSON."""
    parts = (pc.unique(column.slice(start, _SLICE)).to_pylist() for start in range(0, len(column), _SLICE))
    for text in itertools.chain.from_iterable(parts):
        try:
            sound = isinstance(json.loads(text, parse_float=_finite, parse_constant=_finite), dict)
        except (TypeError, ValueError, RecursionError):
            sound = False
        if not sound:
            raise ArtefactError(f"{path} has metadata that are no JSON object ({ascii(text)[:60]}): run the ingest stage again")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


class _Read(Collection[str]):
    """What is read of all passages."""

    def __init__(self, passages: Passages, template: PassageTemplate):
        self._passages, self._template = passages, template

    def __len__(self) -> int:
        return len(self._passages)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _WALKED):
            yield from self._passages.rendered(self._template, range(start, min(start + _WALKED, len(self))))
            self._passages.drop_pages()

    def __contains__(self, text: object) -> bool:
        return any(each == text for each in self)


class _Texts(Sequence[str]):
    """A string column as a sequence, without a second copy of it."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, position: int) -> str: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[str]: ...
    def __getitem__(self, position: int | slice) -> str | Sequence[str]:
        if isinstance(position, slice):
            return _Texts(self._column[position])
        text: str = self._column[operator.index(position)].as_py()
        return text
