"""A release: encoder, FAISS index and passages under one fingerprint, opened only if they fit.

manifest.json         what the files must hash to, and the settings that shaped them
encoder/              sentence-transformers layout, safetensors: the encoder as it was trained
serving/              the same encoder for ONNX Runtime (uae.retrievers.onnx_encoder); not there where torch has to serve it
index.faiss           inner product over unit vectors, rows in the order of passages.parquet
passages.parquet      schema PASSAGES
documents.parquet     schema RELEASE_DOCUMENTS
base/                 the encoder before training, as serving/ or encoder/, and its index.faiss if that is another; may be absent

Built by ``uae.release.build``. Opening one imports no torch, unless torch has to serve it.
"""

import json
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from uae.index.filters import DocumentFilter, read_metadata
from uae.index.nearest import search
from uae.io.errors import ArtefactError, InputError
from uae.io.files import read_json, sha256_bytes, sha256_file
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES
from uae.release.parity import lowest_cosine
from uae.retrievers.protocol import Encoder
from uae.retrievers.serving_forms import open_encoder

FORMAT = 2
UAE, BASE = "uae", "base"
RELEASE_DOCUMENTS = pa.schema([DOCUMENTS.field(name) for name in ("doc_id", "source", "title", "version", "metadata")])
# By how much the probe may differ from what it was when the release was built: another CPU adds in another order.
PROBE_TOLERANCE = 0.02
# Weights, settings and tables. Libraries choose how they read a file by its name: no pickle can be among these.
_SUFFIXES = {".faiss", ".jinja", ".json", ".model", ".onnx", ".parquet", ".safetensors", ".txt"}
_TEXT_COLUMNS = ("passage_id", "doc_id", "section", "start", "end", "text")


class Hit(NamedTuple):
    passage_id: str
    doc_id: str
    source: str  # of the document: the file it came from, or its id in a file
    title: str
    section: str
    start: int
    end: int
    text: str
    score: float  # cosine similarity
    metadata: dict  # the document's


def read_manifest(folder: Path) -> dict:
    """Read a release's manifest and check every file against it.

    Raises:
        ArtefactError: a file is missing, was changed, is too many, of a strange kind or leads out of the folder, or the encoder
            is another one than the index was built with.
    """
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ArtefactError(
            f"{folder}: release format {found!r}; this version reads format {FORMAT}. Build the release again (uae index)"
        )
    if seal(manifest) != manifest.get("fingerprint"):
        raise ArtefactError(f"{folder}/manifest.json was changed after it was written: build the release again")
    files = manifest.get("files")
    if not isinstance(files, dict):
        raise ArtefactError(f"{folder}/manifest.json names no files: build the release again")
    for name in files:
        _inside(folder, name)
        if PurePosixPath(name).suffix not in _SUFFIXES:
            raise ArtefactError(
                f"{folder / name} is of no kind that a release holds ({', '.join(sorted(_SUFFIXES))}): do not use it"
            )
    _check_indexes(folder, manifest, files)
    _check_encoder(folder, manifest)
    for name, expected in files.items():
        _check_file(folder / name, expected, manifest)
    # Models are loaded by libraries that look for files themselves: there must be none but those that were hashed.
    there = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink())
    if extra := [name for name in there if name not in files and name != "manifest.json"]:
        raise ArtefactError(f"{folder / extra[0]} is no part of this release: remove it, or build the release again")
    return manifest


def _inside(folder: Path, name: str) -> None:
    plain = PurePosixPath(name)
    leads_out = plain.is_absolute() or ".." in plain.parts or "\\" in name or "\0" in name
    if leads_out or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ArtefactError(f"{folder}/manifest.json names {name!r}, which leads out of the release's folder: do not use it")


def _check_indexes(folder: Path, manifest: Mapping, files: Mapping) -> None:
    """An index is opened by the name that the manifest gives it, so it has to be one of the files that are hashed."""
    for part in (manifest, manifest.get("base")):
        if part is None:
            continue
        index = part.get("index") if isinstance(part, dict) else None
        name = index.get("file") if isinstance(index, dict) else None
        if not isinstance(name, str):
            raise ArtefactError(f"{folder}/manifest.json does not say where an index is: build the release again")
        _inside(folder, name)
        if name not in files:
            raise ArtefactError(f"{folder}/manifest.json has {name!r} for an index, which is none of its files: do not use it")


def _check_encoder(folder: Path, manifest: Mapping) -> None:
    """Before the files are hashed one by one: the message tells more."""
    for link in (path for path in (folder / "encoder").rglob("*") if path.is_symlink()):
        _inside(folder, link.relative_to(folder).as_posix())
    found = fingerprint(folder / "encoder")
    if found != manifest.get("encoder"):
        raise ArtefactError(
            f"{folder}: the encoder is {found[:12]}, but the index was built with {str(manifest.get('encoder'))[:12]}; "
            "vectors of one mean nothing to the other"
        )


def _check_file(path: Path, expected: str, manifest: Mapping) -> None:
    ours = f"this release of encoder {manifest['encoder'][:12]} was built with {str(expected)[:12]}"
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; {ours}")
    found = sha256_file(path)
    if found != expected:
        raise ArtefactError(f"{path} is {found[:12]}, but {ours}: it is another release's file, or damaged")


def seal(manifest: Mapping) -> str:
    """The fingerprint of a release: a hash of all that its manifest says."""
    body = {name: value for name, value in manifest.items() if name != "fingerprint"}
    return sha256_bytes(json.dumps(body, sort_keys=True))


class _System(NamedTuple):
    encoder: Encoder
    index: faiss.Index
    parameters: str


class Release:
    """An opened release: encodes texts with its own encoder and searches its own index. Several threads may use it."""

    def __init__(self, folder: Path, device: str = "auto", threads: int | None = None):
        """
        Args:
            device: of torch, where torch serves the release.
            threads: of ONNX Runtime, where that does; None: as many as there are cores.

        Raises:
            ArtefactError: the folder's parts do not belong together.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(folder)
        passages, documents = read_arrow(self.folder / "passages.parquet", PASSAGES), self._read_documents()
        self._columns = {name: passages[name] for name in _TEXT_COLUMNS}
        self._titles, self._sources, self._metadata = documents["title"], documents["source"], documents["metadata"]
        _check_metadata(self.folder / "documents.parquet", self._metadata)
        positions = pc.index_in(passages["doc_id"], pa.array(documents["doc_id"].to_pylist(), pa.string()))
        if positions.null_count:
            orphan = passages["doc_id"].filter(pc.is_null(positions))[0].as_py()
            raise ArtefactError(f"{folder}: passages.parquet has passages of document {orphan!r}, documents.parquet has it not")
        self._documents = positions.to_numpy().astype(np.int64)
        doc_ids, sources = documents["doc_id"].to_pylist(), documents["source"].to_pylist()
        self._filter = DocumentFilter(doc_ids, sources, _Texts(self._metadata), self._documents)
        # Each row's place by passage_id: equal scores are ordered by it.
        self._places = np.empty(len(passages), dtype=np.int64)
        self._places[pc.sort_indices(passages["passage_id"]).to_numpy()] = np.arange(len(passages))
        self._systems = {UAE: self._open(UAE, self.folder, self.manifest, device, threads)}
        if (base := self.manifest["base"]) is not None:
            self._systems[BASE] = self._open(BASE, self.folder / "base", base, device, threads)

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def dimension(self) -> int:
        return self.manifest["dimension"]

    @property
    def systems(self) -> tuple[str, ...]:
        """What can be asked: "uae", and "base" if the release holds the encoder before training as well."""
        return tuple(self._systems)

    def encode(self, texts: Sequence[str], kind: str, system: str = UAE) -> np.ndarray:
        """Unit vectors of queries (``kind="query"``) or passages (``kind="document"``), shape (n, dim), float32.

        Raises:
            InputError: a text is no string, or there is no such system.
        """
        return self._system(system).encoder.encode(clean(texts), kind)

    def token_lengths(self, texts: Sequence[str], kind: str) -> list[int]:
        """Tokens of each text as the encoder gets it: with prompt and marks, and cut at ``max_tokens``."""
        return self._systems[UAE].encoder.token_lengths(clean(texts), kind)

    def rows(self, filters: Mapping[str, Any]) -> np.ndarray | None:
        """Rows of the passages that a filter (``uae.index.filters``) lets through, ascending; None: all.

        Raises:
            InputError: there is no such document or field, or a condition is malformed.
        """
        try:
            return self._filter.rows(filters)
        except InputError as error:
            raise InputError(f"{error} in release {self.fingerprint[:12]}") from None

    def find(
        self, vectors: np.ndarray, k: int, rows: np.ndarray | None = None, min_score: float | None = None, system: str = UAE
    ) -> list[list[Hit]]:
        """The best ``k`` passages of each query, best first, equal scores by passage_id.

        Args:
            vectors: of queries, by ``encode`` of the same system, shape (n, dim).
            rows: the rows that may be found, as ``rows`` gives them; None: all.
            min_score: the least score; None: any.
        """
        searched = self._system(system)
        scores, found = search(searched.index, vectors, k, rows, searched.parameters, self._places)
        least = -np.inf if min_score is None else min_score
        return [
            [self._hit(row, score) for row, score in zip(of_one, values, strict=True) if row >= 0 and score >= least]
            for of_one, values in zip(found.tolist(), scores.tolist(), strict=True)
        ]

    def search(self, queries: Sequence[str], k: int, doc_id: str | None = None) -> list[list[Hit]]:
        """The best ``k`` passages of each query, best first; ``doc_id`` limits the search to one document.

        Raises:
            InputError: there is no such document.
        """
        rows = None if doc_id is None else self.rows({"doc_id": doc_id})
        return self.find(self.encode(queries, "query"), k, rows)

    def close(self) -> None:
        """Let go of models, indexes and tables. Nothing can be asked afterwards."""
        for system in self._systems.values():
            system.encoder.close()
        self._systems.clear()
        self._columns.clear()
        del self._titles, self._sources, self._metadata, self._filter, self._documents, self._places

    def _open(self, name: str, folder: Path, part: Mapping, device: str, threads: int | None) -> _System:
        index_path = self.folder / part["index"]["file"]
        index = read_index(index_path)
        passages = len(self._places)
        if index.ntotal != passages:
            raise ArtefactError(f"{index_path} holds {index.ntotal} vectors, but there are {passages} passages")
        encoder = open_encoder(folder, part["serving"]["backend"], device, threads)
        if not index.d == encoder.dimension == part["dimension"]:
            raise ArtefactError(
                f"{index_path} holds vectors of {index.d} numbers, but those of encoder {part['encoder'][:12]} have "
                f"{encoder.dimension}: build the release again"
            )
        self._probe(name, encoder, index, index_path, part)
        return _System(encoder, index, part["index"]["parameters"])

    def _probe(self, name: str, encoder: Encoder, index: faiss.Index, index_path: Path, part: Mapping) -> None:
        """Encode a few passages anew: hashes can be made for anything, but only one encoder gives the vectors of the index."""
        if not len(self._places):
            return
        rows, expected = probe_rows(len(self._places)), part["probe"]
        found = lowest_cosine(encoder, index, rows, [self._columns["text"][row].as_py() for row in rows])
        if not found >= expected - PROBE_TOLERANCE:
            raise ArtefactError(
                f"{index_path} ({self.manifest['files'][part['index']['file']][:12]}) does not hold the vectors of encoder "
                f"{part['encoder'][:12]} ({name}): encoded anew, passages have a cosine down to {found:.4f} with it, and had "
                f"{expected:.4f} when the release was built. Vectors of one model mean nothing to another: build it again"
            )

    def _read_documents(self) -> pa.Table:
        return read_arrow(self.folder / "documents.parquet", RELEASE_DOCUMENTS)

    def _system(self, name: str) -> _System:
        if name not in self._systems:
            raise InputError(f"release {self.fingerprint[:12]} has no system {name!r}; it has {', '.join(self._systems)}")
        return self._systems[name]

    def _hit(self, row: int, score: float) -> Hit:
        values = {name: column[row].as_py() for name, column in self._columns.items()}
        document = int(self._documents[row])
        metadata = read_metadata(values["doc_id"], self._metadata[document].as_py())
        named = {"source": self._sources[document].as_py(), "title": self._titles[document].as_py()}
        return Hit(**values, **named, score=score, metadata=metadata)


def _check_metadata(path: Path, column: pa.ChunkedArray) -> None:
    """Once, when the release is opened: an answer could not be written, or would be no JSON."""
    for text in pc.unique(column).to_pylist():
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


class _Texts(Sequence):
    """A string column as a sequence, without a second copy of it."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, position):
        return self._column[operator.index(position)].as_py()


def read_index(path: Path) -> faiss.Index:
    """An index of a release.

    Raises:
        ArtefactError: FAISS does not read it, or its inverted lists lie in another file, anywhere on the disk.
    """
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise ArtefactError(f"{path} is no index that FAISS reads: {str(error).strip().splitlines()[-1]}") from None
    for part in _parts(index):
        lists = faiss.downcast_InvertedLists(part.invlists) if isinstance(part, faiss.IndexIVF) else None
        if isinstance(lists, faiss.OnDiskInvertedLists):
            raise ArtefactError(f"{path} takes its vectors from another file: a release's index has to be whole in itself")
    return index


def _parts(index: faiss.Index) -> Iterator[faiss.Index]:
    """An index, and all those that it is made of."""
    index = faiss.downcast_index(index)
    yield index
    for name in ("index", "base_index", "refine_index", "storage", "quantizer"):
        if isinstance(part := getattr(index, name, None), faiss.Index):
            yield from _parts(part)


def read_arrow(path: Path, schema: pa.Schema) -> pa.Table:
    """A table written by ``uae.io.tables.write_table``, as Arrow holds it: a million rows are no million Python objects.

    Raises:
        ArtefactError: missing, damaged, or of another schema.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist: build the release again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{path} is damaged ({error}): build the release again") from error
    if {field.name: field.type for field in table.schema} != {field.name: field.type for field in schema}:
        raise ArtefactError(f"{path} has not the columns of a release: build the release again")
    return table


def probe_rows(passages: int, count: int = 8) -> list[int]:
    """A few rows, evenly over all of them."""
    return sorted({round(place * (passages - 1) / (count - 1)) for place in range(count)})


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
