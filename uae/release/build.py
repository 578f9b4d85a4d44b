"""Building a release: passages encoded and indexed, the encoder brought into the form that serves it, all under one fingerprint.

The vectors in the index are those of the encoder as it was trained. What serves queries is the first of ``_ORDER`` that does what
the trained encoder does, measured on real questions.
"""

import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import faiss
import numpy as np
import pandas as pd

from uae.index.ann import build_index, dtype, plan_factory, tune
from uae.io.errors import ConfigError, ModelError, UaeError
from uae.io.files import atomic_path, sha256_bytes, sha256_file
from uae.io.models import fingerprint
from uae.io.tables import DOCUMENTS, PASSAGES, QUESTIONS, read_table, write_table
from uae.release.open import BASE, FORMAT, RELEASE_DOCUMENTS, probe_rows, read_manifest, seal
from uae.release.parity import Corpus, Parity, is_within, lowest_cosine, measure_parity
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.document_side import document_fingerprint, route
from uae.retrievers.onnx_encoder import KINDS
from uae.retrievers.onnx_export import export_encoder, quantise
from uae.retrievers.serving_forms import open_encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# The fastest first, as measured; see docs/decisions.md.
_ORDER = ("onnx_int8", "onnx", "torch")
_ENOUGH = 200  # questions with evidence: with fewer of them in validation, training's are asked as well
_MOST = 1000  # questions that are asked at all
_RECALL_AT = 10  # of the approximate index against exact search
_ENCODING_LIBRARIES = ("sentence-transformers", "transformers")
# What ``uae.io.models.fingerprint`` covers. The rest of a model's folder (a card, other formats) determines no vector.
_ENCODER_FILES = {".safetensors", ".json", ".txt", ".model", ".jinja"}


class IndexRecipe(NamedTuple):
    """Section ``index`` of params.yaml, less ``base``."""

    factory: str
    recall_target: float
    serving: str
    max_recall_loss: float
    min_cosine: float


class _Corpus(NamedTuple):
    passages: pd.DataFrame  # as PASSAGES
    questions: pd.DataFrame  # as QUESTIONS: what parity is measured on
    scope: str


def build_release(
    documents_path: Path,
    passages_path: Path,
    questions_path: Path | None,
    encoder_path: Path,
    base_path: Path | None,
    release_path: Path,
    recipe: IndexRecipe,
    scope: str,
    passage_words: int,
    device: str,
    previous_path: Path | None = None,
) -> dict:
    """Encode all passages, index them, choose what serves the encoder, and write the release folder atomically.

    An index is taken over from an earlier release, and no passage encoded, where both would hold the same vectors: the same
    document side of the encoder (only queries were retrained), the same passage texts in the same order, the same kind of index.

    Args:
        questions_path: those of training and validation say how well the serving encoder and an approximate index do; None (or
            no such question): passages stand in for them, and only vectors are compared.
        base_path: the encoder before training, to be shown beside the trained one; None: the release has none.
        passage_words: what the passages were cut to; the release keeps it.
        previous_path: the earlier release; None: the one at ``release_path``, if there is one.

    Returns:
        The manifest, and ``index_reused``. That is no part of the manifest: a release is the same however its index came about.

    Raises:
        ConfigError: FAISS does not know the factory, or the one way of serving that is allowed fails its gate.
    """
    passages = read_table(passages_path, PASSAGES)
    corpus = _Corpus(passages, _parity_questions(questions_path, passages), scope)
    previous = release_path if previous_path is None else previous_path
    with atomic_path(release_path) as partial:
        partial.mkdir()
        _copy_encoder(encoder_path, partial / "encoder")
        part, reused = _system(partial, partial, encoder_path, None, previous, corpus, recipe, device)
        base = None
        if base_path is not None:
            (partial / BASE).mkdir()
            base, _ = _system(partial, partial / BASE, base_path, part, previous, corpus, recipe, device)
        write_table(partial / "passages.parquet", PASSAGES, passages)
        documents = read_table(documents_path, DOCUMENTS)[RELEASE_DOCUMENTS.names]
        write_table(partial / "documents.parquet", RELEASE_DOCUMENTS, documents)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = {
            "format": FORMAT,
            **part,
            "metric": "inner product of unit vectors",
            "chunking": {"passage_words": passage_words},
            "passages": len(passages),
            "base": base,
            "files": {path.relative_to(partial).as_posix(): sha256_file(path) for path in files},
        }
        manifest["fingerprint"] = seal(manifest)
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest | {"index_reused": reused}


def _system(
    root: Path,
    folder: Path,
    encoder_path: Path,
    sibling: dict | None,
    previous: Path,
    corpus: _Corpus,
    recipe: IndexRecipe,
    device: str,
) -> tuple[dict, bool]:
    """Index and serving encoder of one system in ``folder``: what the manifest says of it, and whether its index was taken over.

    Args:
        root: the release's folder, which is ``folder`` or holds it.
        sibling: the manifest's part of the system whose index, at ``root``, is shared where it would be the same.
    """
    texts = corpus.passages["text"].tolist()
    encoder = load_encoder(encoder_path, device)
    factory = plan_factory(recipe.factory, len(texts), encoder.get_embedding_dimension(), recipe.recall_target)
    makes_the_index = {
        "document_encoder": document_fingerprint(encoder_path, encoder),
        "passage_texts": sha256_bytes(*texts),
        "factory": factory,
        "encoded_with": {name: importlib.metadata.version(name) for name in _ENCODING_LIBRARIES},
    }
    path, reused = folder / "index.faiss", False
    if sibling is not None and _made_of(sibling) == makes_the_index:
        path = root / "index.faiss"
    else:
        reused = _take_over(previous, folder.relative_to(root), makes_the_index, path)
        if not reused:
            vectors = encode(encoder, texts, "document", "indexing passages")
            faiss.write_index(build_index(vectors, factory), str(path))
    index = faiss.read_index(str(path))
    asked = encode(encoder, corpus.questions["text"].tolist(), "query")
    # Against the vectors that the index gives back, for an index taken over has no others. What codes lose is for the gate
    # of promotion to see.
    stored = index.reconstruct_batch(np.arange(index.ntotal))
    tuned = tune(index, stored, asked, _RECALL_AT, recipe.recall_target)
    ids, docs = (corpus.passages[name].to_numpy() for name in ("passage_id", "doc_id"))
    searched = Corpus(ids, docs, index, tuned.parameters)
    serving = _choose(encoder, encoder_path, folder, asked, corpus, searched, recipe, device)
    rows = probe_rows(len(texts))
    served = open_encoder(folder, serving["backend"], device, None)
    return {
        "encoder": fingerprint(encoder_path),
        "document_encoder": makes_the_index["document_encoder"],
        "dimension": encoder.get_embedding_dimension(),
        "max_tokens": encoder.max_seq_length,
        "prompts": dict(encoder.prompts),
        "pooling": {kind: _pooling(encoder, kind) for kind in KINDS},
        "normalised": True,
        "passage_texts": makes_the_index["passage_texts"],
        "encoded_with": makes_the_index["encoded_with"],
        "index": {
            "file": path.relative_to(root).as_posix(),
            "factory": factory,
            "dtype": dtype(index),
            "recall_target": recipe.recall_target,
            "recall": {"at": _RECALL_AT, "value": round(tuned.recall, 4)},
            "parameters": tuned.parameters,
        },
        "serving": serving,
        "probe": round(lowest_cosine(served, index, rows, [texts[row] for row in rows]), 4),
    }, reused


def _made_of(part: dict) -> dict:
    """What makes the index of a system, by its part of a manifest."""
    made_of = {name: part[name] for name in ("document_encoder", "passage_texts", "encoded_with")}
    return made_of | {"factory": part["index"]["factory"]}


def _take_over(previous: Path, inner: Path, makes_the_index: dict, target: Path) -> bool:
    """Copy an index of ``previous`` to ``target``, if it is an intact release that has one made of the same things.

    Args:
        inner: the system's folder in a release. The base's index may have been the release's own, and the other way round.
    """
    try:
        manifest = read_manifest(previous)
    except UaeError:  # there is none, or it is damaged, or of another format: nothing of it is trusted
        return False
    own, other = (manifest["base"], manifest) if inner.name == BASE else (manifest, manifest["base"])
    for part in (own, other):
        if part is not None and _made_of(part) == makes_the_index:
            name = part["index"]["file"]
            shutil.copyfile(Path(previous) / name, target)
            # Checked once more: another process may have put another release there since.
            return sha256_file(target) == manifest["files"][name]
    return False


def _choose(
    encoder: "SentenceTransformer",
    encoder_path: Path,
    folder: Path,
    trained: np.ndarray,
    corpus: _Corpus,
    searched: Corpus,
    recipe: IndexRecipe,
    device: str,
) -> dict:
    """Put the first serving encoder that passes its gate into ``folder``: the manifest's ``serving``.

    Args:
        trained: the questions' vectors by ``encoder``, shape (n, dim).
    """
    wanted = _ORDER if recipe.serving == "auto" else (recipe.serving,)
    questions, refused = corpus.questions, {}
    asked, texts = questions["text"].tolist(), corpus.passages["text"].tolist()
    probed = [texts[row] for row in probe_rows(len(texts))]
    # Not what the index gives back: what its codes lose is no fault of the encoder that serves.
    documents = encode(encoder, probed, "document")
    for backend in wanted:
        if backend == "torch":
            if not (folder / "encoder").exists():
                _copy_encoder(encoder_path, folder / "encoder")
            return {"backend": backend, "parity": None, "refused": refused}
        place = folder / "serving"
        try:
            _make(backend, encoder_path, place)
            served = open_encoder(folder, backend, device, None)
            parity = measure_parity(trained, served.encode(asked, "query"), questions, searched, corpus.scope)
            reason = _failure(parity, recipe) or _document_failure(documents, served.encode(probed, "document"), recipe)
        except ModelError as error:
            reason = str(error)
        if reason is None:
            figures = {name: round(value, 4) if isinstance(value, float) else value for name, value in parity._asdict().items()}
            return {"backend": backend, "parity": figures, "refused": refused}
        refused[backend] = reason
        shutil.rmtree(place, ignore_errors=True)
    raise ConfigError(f"index.serving: {recipe.serving} is not good enough for this encoder: {refused[recipe.serving]}. Use auto")


def _make(backend: str, encoder_path: Path, place: Path) -> None:
    full = place if backend == "onnx" else place.with_name(".float32")
    try:
        # Loaded anew: on the CPU, in float32, and apart from the model that others still use.
        export_encoder(load_encoder(encoder_path, "cpu").float(), full)
        if full != place:
            quantise(full, place)
    finally:
        if full != place:
            shutil.rmtree(full, ignore_errors=True)


def _failure(parity: Parity, recipe: IndexRecipe) -> str | None:
    if not parity.cosine >= recipe.min_cosine:
        return (
            f"a question's vector has a cosine of {parity.cosine:.4f} with the trained encoder's; "
            f"index.min_cosine is {recipe.min_cosine:g}"
        )
    if not is_within(parity.recall_loss, recipe.max_recall_loss):
        return (
            f"Recall@1 is {parity.served_recall:.4f} against {parity.trained_recall:.4f} of the trained encoder; "
            f"index.max_recall_loss is {recipe.max_recall_loss:g} of it"
        )
    return None


def _document_failure(trained: np.ndarray, served: np.ndarray, recipe: IndexRecipe) -> str | None:
    """Queries and documents may go through graphs of their own: one says nothing of the other."""
    cosine = float(np.einsum("nd,nd->n", trained.astype(np.float64), served.astype(np.float64)).min())
    if cosine >= recipe.min_cosine:
        return None
    return (
        f"a passage's vector has a cosine of {cosine:.4f} with the trained encoder's; index.min_cosine is {recipe.min_cosine:g}"
    )


def _parity_questions(path: Path | None, passages: pd.DataFrame) -> pd.DataFrame:
    """Questions that serving is measured on: of validation, and of training where those are too few. Never of the test split."""
    if path is not None:
        table = read_table(path, QUESTIONS).sort_values("question_id")
        chosen = table[table["split"] == "validation"]
        if (chosen["evidence"].str.len() > 0).sum() < _ENOUGH:
            chosen = pd.concat([chosen, table[table["split"] == "train"]])
        if len(chosen):
            return chosen.head(_MOST).reset_index(drop=True)
    rows = passages.head(64)
    return pd.DataFrame({"text": rows["text"], "doc_id": rows["doc_id"], "evidence": [[] for _ in range(len(rows))]})


def _copy_encoder(source: Path, target: Path) -> None:
    source = Path(source)
    for path in sorted(source.rglob("*")):
        if path.suffix in _ENCODER_FILES:
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _pooling(encoder: "SentenceTransformer", kind: str) -> list[str]:
    """How a route makes one vector of the tokens': mean, cls and so on."""
    found: list[str] = []
    for module in route(encoder, kind):
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            found += [mode] if isinstance(mode, str) else list(mode)
    return found
