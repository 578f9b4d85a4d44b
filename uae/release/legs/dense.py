"""A dense leg: a bi-encoder with a FAISS index of its passage vectors. They may be asked for elsewhere (``VectorSource``).

encoder/              sentence-transformers layout, safetensors: the encoder as it was trained. A leg that is never promoted, such
                      as the base, has it only where torch serves it
serving/              the same encoder for ONNX Runtime (``uae.retrievers.onnx_encoder``); absent where torch has to serve it
index.faiss           inner product over unit vectors, rows in the order of passages.parquet; may be another leg's file

Built by ``uae.release.build_dense``. Opening one imports no torch, unless torch has to serve it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import numpy.typing as npt

from uae.index.nearest import InMemory, inner_products, search_stored
from uae.index.stored import Stored
from uae.io.errors import ArtefactError, ModelError
from uae.io.mapped import drop_pages
from uae.io.models import fingerprint
from uae.release.legs.protocol import LegEntry, Opening, Part, Queries, Rows, probe_rows, refuse_links_out
from uae.release.parity import lowest_cosine
from uae.retrievers.protocol import Encoder, Side, Vectors
from uae.retrievers.serving_forms import open_encoder

# The probe may be this much below what it was when the release was built. Another CPU adds in another order.
PROBE_TOLERANCE = 0.02


class IndexRecall(Part):
    at: int  # the k of recall@k
    value: float  # against exact search


class IndexEntry(Part):
    file: str  # relative to the release's folder
    factory: str  # FAISS's factory string
    metric: Literal["inner product of unit vectors"]
    dtype: str  # of a stored number: float32, int8 and so on
    built_with: dict[str, str]  # what else determines the index's bytes; empty in releases of format 2
    recall_target: float
    recall: IndexRecall
    parameters: str  # of a search, such as "nprobe=8"


class ParityEntry(Part):
    cosine: float
    mean_cosine: float
    trained_recall: float | None
    served_recall: float | None
    questions: int


class ServingEntry(Part):
    backend: Literal["torch", "onnx", "onnx_int8", "onnx_int8_mixed"]
    parity: ParityEntry | None  # with the trained encoder; null where torch serves it
    refused: dict[str, str]  # faster forms that were not good enough -> why


class Probe(Part):
    """The lowest cosine of a few passages, encoded anew when the release was built, with their vectors in the index."""

    served: float  # encoded by what serves
    trained: float | None  # encoded by the trained encoder; null in releases of format 2


class DenseEntry(LegEntry):
    """What the manifest says of a dense leg."""

    kind: Literal["dense"]
    encoder: str  # fingerprint of the trained encoder's files
    document_encoder: str  # fingerprint of what determines its passage vectors
    dimension: int
    max_tokens: int | None
    prompts: dict[str, str | None]
    pooling: dict[str, list[str]]  # of queries and documents
    normalised: bool
    encoded_with: dict[str, str]  # libraries and their versions
    index: IndexEntry
    serving: ServingEntry
    probe: Probe

    def encoder_folder(self, release: Path) -> Path:
        """Where the trained encoder lies."""
        return release / self.folder / "encoder"

    def index_path(self, release: Path) -> Path:
        return release / self.index.file

    def check(self, name: str, release: Path, files: Mapping[str, str]) -> None:
        """An index is opened by the name in the manifest: it must be one of the hashed files. And the encoder must be the one
        that the index was built with, which is looked at here because this message says more than a wrong hash."""
        home = f"{self.folder}/" if self.folder else ""
        form = "encoder" if self.serving.backend == "torch" else "serving"
        if not any(file.startswith(f"{home}{form}/") for file in files):
            raise ArtefactError(
                f"{release}/manifest.json names no file of {home}{form}, which leg {name!r} is served by: build the release again"
            )
        if self.index.file not in files:
            raise ArtefactError(
                f"{release}/manifest.json has {self.index.file!r} for the index of leg {name!r}, which is none of its files: "
                "do not use it"
            )
        if self.folder and not (release / self.folder).is_dir():
            raise ArtefactError(f"{release / self.folder} is missing: the release has no leg {name!r} without it. Copy it again")
        if any(file.startswith(f"{home}encoder/") for file in files):
            self._check_encoder(name, release)

    def _check_encoder(self, name: str, release: Path) -> None:
        folder = self.encoder_folder(release)
        refuse_links_out(folder, release)
        try:
            found = fingerprint(folder)
        except ModelError as error:
            raise ArtefactError(f"leg {name!r} of {release} has no encoder: {error}") from None
        if found != self.encoder:
            raise ArtefactError(
                f"{release}: the encoder of leg {name!r} is {found[:12]}, but the index was built with {self.encoder[:12]}; "
                "vectors of one mean nothing to the other"
            )


class DenseLeg:
    """An opened dense leg. Implements ``protocol.Encoding``."""

    def __init__(self, entry: DenseEntry, opening: Opening):
        """
        Raises:
            ArtefactError: encoder, index and passages do not belong together.
        """
        name, passages = opening.name, len(opening.passages)
        path = entry.index_path(opening.release) if opening.vectors is None else opening.vectors.where
        self.entry, self._places = entry, opening.passages.places
        if opening.passages.read_hash(entry.passage_template) != entry.read_texts:
            raise ArtefactError(
                f"leg {name!r} of {opening.release} was made of other passages than passages.parquet holds: build the release "
                "again"
            )
        self.stored: Stored = _stored(entry, opening)
        if self.stored.ntotal != passages:
            raise ArtefactError(f"{path} (leg {name!r}) holds {self.stored.ntotal} vectors, but there are {passages} passages")
        self._encoder: Encoder = open_encoder(
            opening.release / entry.folder, entry.serving.backend, opening.device, opening.threads
        )
        self.dimension = self._encoder.dimension
        try:
            if not self.stored.d == self.dimension == entry.dimension:
                raise ArtefactError(
                    f"{path} holds vectors of {self.stored.d} numbers, but those of encoder {entry.encoder[:12]} (leg {name!r}) "
                    f"have {self.dimension}: build the release again"
                )
            self._probe(opening, f"{path} ({opening.files[entry.index.file][:12]})" if opening.vectors is None else str(path))
        except BaseException:
            self.close()
            raise

    @property
    def max_tokens(self) -> int | None:
        return self.entry.max_tokens

    @property
    def backend(self) -> str:
        return self.entry.serving.backend

    def encode(self, texts: Sequence[str], kind: Side) -> Vectors:
        return checked_vectors(self._encoder.encode(texts, kind), len(texts), self.dimension)

    def token_lengths(self, texts: Sequence[str], kind: Side) -> list[int]:
        return self._encoder.token_lengths(texts, kind)

    def find(self, queries: Queries, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        if queries.vectors is None:
            raise ValueError("a dense leg needs the queries' vectors")
        return self.search(queries.vectors, k, rows)

    def search(self, vectors: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        """As ``find``, by vectors of queries, shape (n, dimension)."""
        return search_stored(self.stored, vectors, k, rows, self._places)

    def score(self, vector: Vectors, rows: Rows) -> npt.NDArray[np.float64]:
        """Cosines of one query's vector, shape (1, dimension), with some rows, as ``find`` gives them; shape (rows,)."""
        return np.asarray(inner_products(self.stored, vector, rows[None, :])[0], np.float64)

    def close(self) -> None:
        self._encoder.close()
        del self.stored

    def _probe(self, opening: Opening, place: str) -> None:
        """Encode a few passages anew: hashes can be made for anything, but only one encoder gives the vectors of the index."""
        if not len(opening.passages):
            return
        entry, rows = self.entry, probe_rows(len(opening.passages))
        found = lowest_cosine(self, self.stored, rows, opening.passages.read(entry.passage_template, rows))
        if not found >= entry.probe.served - PROBE_TOLERANCE:
            raise ArtefactError(
                f"{place} does not hold the vectors of encoder {entry.encoder[:12]} (leg "
                f"{opening.name!r}): encoded anew, passages have a cosine down to {found:.4f} with it, and had "
                f"{entry.probe.served:.4f} when the release was built. Vectors of one model mean nothing to another"
            )


def checked_vectors(vectors: Any, texts: int, dimension: int) -> Vectors:
    """What an encoder gave, if it is one finite vector for each text.

    Raises:
        ModelError: it is not.
    """
    found = np.asarray(vectors)
    if found.shape != (texts, dimension):
        raise ModelError(
            f"the encoder gave an array of shape {found.shape} for {texts} texts, not {(texts, dimension)}: build it again"
        )
    for start in range(0, texts, _CHECKED):
        sound = np.isfinite(found[start : start + _CHECKED]).all(axis=1)
        if not sound.all():
            raise ModelError(
                f"the encoder gave numbers that are not finite, for text {start + int(np.argmin(sound))} of {texts}: its weights "
                "or its serving form are damaged; train or build it again"
            )
        drop_pages(found)
    return found.astype(np.float32, copy=False)


_CHECKED = 1 << 13  # vectors that are looked at together
MAPPED_BYTES = 1 << 30  # of an index's file: from there on it is not read into memory
_MAPPED = faiss.IO_FLAG_MMAP_IFC  # lists, codes and vectors of every kind


def _stored(entry: DenseEntry, opening: Opening) -> Stored:
    if opening.vectors is not None:
        return opening.vectors.stored(opening.fingerprint, opening.name, entry, opening.passages)
    path = entry.index_path(opening.release)
    return InMemory(read_index(path, opening.mapped), entry.index.parameters, path if opening.mapped else None)


def read_index(path: Path, mapped: bool = False) -> faiss.Index:
    """An index of a release. Of a large one lists and codes stay in the file, and are read when a search needs them.

    What is read of them lies in the system's cache of the file, which gives its memory back where it is short. A file that is
    removed or replaced meanwhile stays as it was for who has it open.

    Args:
        mapped: of a small one, too.

    Raises:
        ArtefactError: FAISS does not read it, or its inverted lists lie in another file, anywhere on the disk.
    """
    try:
        mapped = path.exists() and (mapped or path.stat().st_size >= MAPPED_BYTES)
        index = faiss.read_index(str(path), _MAPPED if mapped else 0)
    except RuntimeError as error:
        raise ArtefactError(f"{path} is no index that FAISS reads: {str(error).strip().splitlines()[-1]}") from None
    for part in _parts(index):
        inverted = part.invlists if isinstance(part, faiss.IndexIVF) else None
        lists = None if inverted is None else faiss.downcast_InvertedLists(inverted)
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
