"""Building a dense leg: passages encoded and indexed, or an index taken over; and the encoder in the form that serves it."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import faiss

from uae.index.ann import Reconstructed, Tuned, built_with, dtype, plan, tune, write_built
from uae.io.errors import ConfigError, ModelError, UaeError
from uae.io.files import sha256_file, sha256_parts
from uae.io.mapped import drop_pages_of
from uae.io.models import fingerprint
from uae.release.choose_form import Gate, Trial, choose_form, copy_encoder
from uae.release.legs.dense import DenseEntry, IndexEntry, IndexRecall, Probe, ServingEntry, checked_vectors, read_index
from uae.release.legs.protocol import probe_rows
from uae.release.manifest import read_manifest
from uae.release.material import Material
from uae.release.parity import Corpus, lowest_cosine
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.dimension import serve_dimension
from uae.retrievers.document_side import document_fingerprint, encoded_with, route
from uae.retrievers.onnx_encoder import KINDS
from uae.retrievers.passage_vectors import PassageVectors
from uae.retrievers.protocol import Side, Vectors
from uae.retrievers.serving_forms import open_encoder
from uae.retrievers.truncation import count_truncated
from uae.vectors.store import VectorStore

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

log = logging.getLogger(__name__)

_RECALL_AT = 10  # of the approximate index against exact search
# An index is taken over if its probe is at most this much below what it was. Another CPU adds in another order.
_SAME_VECTORS = 1e-3


class IndexRecipe(NamedTuple):
    """Section ``index`` of params.yaml, less ``base``."""

    factory: str
    recall_target: float
    serving: str
    max_recall_loss: float
    min_cosine: float
    memory_mb: int | None = None
    changed_share: float = 0.0
    dimension: int | None = None  # of the trained encoder's vectors, their first numbers; None: all


class DenseBuild(NamedTuple):
    """How a dense leg is to be built."""

    encoder_path: Path
    keeps_encoder: bool  # whether the trained encoder goes into the release, however it is served
    recipe: IndexRecipe
    device: str
    vectors: VectorStore | None = None  # where vectors of passages are kept


class BuiltLeg(NamedTuple):
    entry: DenseEntry
    index_reused: bool  # taken over from an earlier release
    truncated: int  # passages of which the encoder reads only the beginning


class _MadeOf(NamedTuple):
    """What determines an index: two that agree in all of it hold the same vectors in the same way."""

    document_encoder: str
    read_texts: str
    encoded_with: dict[str, str]
    factory: str
    built_with: dict[str, str]


def build_dense(
    release: Path, name: str, how: DenseBuild, material: Material, siblings: Iterable[DenseEntry], previous: Path
) -> BuiltLeg:
    """Write the leg's files into ``release``.

    Args:
        siblings: legs built already. Where one has the index that this leg would have, its file is used.
        previous: an earlier release, or where one may be. An index is taken over from it where it would be the same.
    """
    recipe, folder = how.recipe, release / "legs" / name
    folder.mkdir(parents=True)
    if how.keeps_encoder:
        copy_encoder(how.encoder_path, folder / "encoder")
        if recipe.dimension is not None:
            serve_dimension(folder / "encoder", recipe.dimension)
        how = how._replace(encoder_path=folder / "encoder")
    texts = material.texts
    encoder = load_encoder(how.encoder_path, how.device)
    dimension = encoder.get_embedding_dimension()
    if dimension is None:
        raise ModelError(f"{how.encoder_path} does not say how many numbers its vectors have: it is no encoder of texts")
    if how.keeps_encoder and recipe.dimension is not None and dimension != recipe.dimension:
        raise ConfigError(f"index.dimension: vectors of the student have {dimension} numbers, so it cannot be {recipe.dimension}")
    truncated = count_truncated(encoder, texts, "document")
    if truncated:
        log.warning(
            "leg %s: the encoder reads at most %s tokens and cuts %d of %d passages. What it cuts cannot be found: lower "
            "ingest.passage_words, or take an encoder that reads more",
            name, encoder.max_seq_length, truncated, len(texts),
        )  # fmt: skip
    factory = recipe.factory
    if factory == "auto":
        memory = None if recipe.memory_mb is None else recipe.memory_mb << 20
        factory, _, why = plan(len(texts), dimension, recipe.recall_target, memory, recipe.changed_share)
        log.info("leg %s: %s", name, why)
    made_of = _MadeOf(
        document_fingerprint(how.encoder_path, encoder),
        sha256_parts(texts),
        encoded_with(),
        factory,
        built_with(factory),
    )
    rows = probe_rows(len(texts))
    probed = texts.at(rows)
    path, reused = _place_index(release, folder, made_of, siblings, previous, encoder, rows, probed)
    if not path.exists():
        kept = PassageVectors(encoder, how.encoder_path, how.vectors)
        vectors = checked_vectors(kept(texts, "indexing passages"), len(texts), dimension)
        write_built(vectors, factory, path)
        del vectors  # a mapped file that nobody needs any more
    index = read_index(path, mapped=True)  # a few questions are asked, and memory is for what comes next
    questions = material.questions["text"].tolist()
    asked = checked_vectors(encode(encoder, questions, "query"), len(questions), dimension)
    # Against the vectors that the index gives back: an index taken over has no others. What codes lose is for the gate of
    # promotion to see.
    tuned = tune(index, Reconstructed(index, path), asked, _RECALL_AT, recipe.recall_target)
    drop_pages_of(path)
    corpus = Corpus(material.passages.ids, index, tuned.parameters, path)
    trial = Trial(material.questions, corpus, material.scope, probed)
    gate = Gate(recipe.serving, recipe.max_recall_loss, recipe.min_cosine)
    serving = choose_form(encoder, how.encoder_path, folder, asked, trial, gate, how.device)
    served = open_encoder(folder, serving.backend, how.device, None)
    try:
        probe = Probe(
            served=round(lowest_cosine(served, index, rows, probed), 4),
            trained=round(lowest_cosine(_Trained(encoder), index, rows, probed), 4),
        )
    finally:
        served.close()
    index_entry = _index_entry(path.relative_to(release).as_posix(), made_of, index, recipe, tuned)
    return BuiltLeg(_entry(name, how, encoder, material, made_of, index_entry, serving, probe), reused, truncated)


def _entry(
    name: str,
    how: DenseBuild,
    encoder: "SentenceTransformer",
    material: Material,
    made_of: _MadeOf,
    index: IndexEntry,
    serving: ServingEntry,
    probe: Probe,
) -> DenseEntry:
    return DenseEntry(
        kind="dense",
        folder=f"legs/{name}",
        passage_template=material.read_as.template,
        read_texts=made_of.read_texts,
        encoder=fingerprint(how.encoder_path),
        document_encoder=made_of.document_encoder,
        dimension=encoder.get_embedding_dimension(),
        max_tokens=encoder.max_seq_length,
        prompts=dict(encoder.prompts),
        pooling={kind: _pooling(encoder, kind) for kind in KINDS},
        normalised=True,
        encoded_with=made_of.encoded_with,
        index=index,
        serving=serving,
        probe=probe,
    )


def _index_entry(file: str, made_of: _MadeOf, index: faiss.Index, recipe: IndexRecipe, tuned: Tuned) -> IndexEntry:
    return IndexEntry(
        file=file,
        factory=made_of.factory,
        metric="inner product of unit vectors",
        dtype=dtype(index),
        built_with=made_of.built_with,
        recall_target=recipe.recall_target,
        recall=IndexRecall(at=_RECALL_AT, value=round(tuned.recall, 4)),
        parameters=tuned.parameters,
    )


def _place_index(
    release: Path,
    folder: Path,
    made_of: _MadeOf,
    siblings: Iterable[DenseEntry],
    previous: Path,
    encoder: "SentenceTransformer",
    rows: Sequence[int],
    probed: Sequence[str],
) -> tuple[Path, bool]:
    """Where the leg's index is or will be, and whether it was taken over from an earlier release.

    Args:
        rows: of the passages that an index is tried with.
        probed: what the encoder reads of them.
    """
    for sibling in siblings:
        if _made_of(sibling) == made_of:
            return sibling.index_path(release), False
    path = folder / "index.faiss"
    if _take_over(previous, made_of, path, encoder, rows, probed):
        return path, True
    path.unlink(missing_ok=True)
    return path, False


def _made_of(entry: DenseEntry) -> _MadeOf:
    return _MadeOf(entry.document_encoder, entry.read_texts, entry.encoded_with, entry.index.factory, entry.index.built_with)


def _take_over(
    previous: Path, made_of: _MadeOf, target: Path, encoder: "SentenceTransformer", rows: Sequence[int], probed: Sequence[str]
) -> bool:
    """Copy an index of ``previous`` to ``target``, if it is an intact release that has one made of the same things.

    Names and versions do not tell all: our own code may encode a text in another way today. So a few passages are encoded anew.
    """
    try:
        manifest = read_manifest(previous)
    except UaeError:  # there is none, or it is damaged, or of an unknown format: nothing of it is trusted
        return False
    for entry in manifest.legs.values():
        if not isinstance(entry, DenseEntry) or entry.probe.trained is None or _made_of(entry) != made_of:
            continue
        shutil.copyfile(entry.index_path(Path(previous)), target)
        # Checked once more: another process may have put another release there since.
        if sha256_file(target) != manifest.files[entry.index.file]:
            return False
        found = lowest_cosine(_Trained(encoder), read_index(target, mapped=True), rows, probed)
        return found >= entry.probe.trained - _SAME_VECTORS
    return False


class _Trained:
    """The trained encoder, asked as the served one is."""

    def __init__(self, encoder: "SentenceTransformer"):
        self._encoder = encoder

    def encode(self, texts: Sequence[str], kind: Side) -> Vectors:
        return encode(self._encoder, list(texts), kind)


def _pooling(encoder: "SentenceTransformer", kind: str) -> list[str]:
    """How a route makes one vector of the tokens': mean, cls and so on."""
    found: list[str] = []
    for module in route(encoder, kind):
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            found += [mode] if isinstance(mode, str) else list(mode)
    return found
