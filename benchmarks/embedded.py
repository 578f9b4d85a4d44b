"""Real embeddings for the index benchmark: a corpus and its questions, and the corpus repeated with noise to any size.

Where more vectors are wanted than there are passages, each is a passage moved by ``scale`` times a difference, and made a unit
vector again. The difference is between two passages of one other document. So the noise goes where real passages differ, not in
all directions alike, and no two copies get the same. ``scale`` is chosen so that a copy is as far from its passage as two
passages of one document are from each other. No passage is left unmoved: it would stand out.
"""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np

from uae.corpus.ingest import ingest
from uae.corpus.repeated_questions import RepeatRule
from uae.io.files import sha256_bytes
from uae.io.tables import PASSAGES, QUESTIONS, read_table
from uae.pipeline.settings import Settings
from uae.pipeline.student import student_folder
from uae.retrievers.dense import encode, load_encoder
from uae.text.passage_template import PassageTemplate

_AT_ONCE = 50_000  # copies


class Embedded(NamedTuple):
    passages: np.ndarray  # unit vectors, shape (n, dim)
    documents: np.ndarray  # a number of each passage's document
    questions: np.ndarray
    key: str  # of texts and model


def embed(settings: Settings, data: str, format: str, passages: int | None, questions: int, folder: Path) -> Embedded:
    """Passages and questions of a dataset, drawn at random where a number is given; kept in ``folder``."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        ingest(
            path=data, format=format, documents_path=place / "d", passages_path=place / "p", questions_path=place / "q",
            ledger_path=place / "l", report_path=place / "r", max_documents=None, passage_words=settings.ingest.passage_words,
            split={"train": 1.0, "validation": 0.0, "test": 0.0}, seed=settings.seed,
            repeated=RepeatRule(drop=False, scope="document", near_duplicate=0.8),
        )  # fmt: skip
        texts, asked = read_table(place / "p", PASSAGES), read_table(place / "q", QUESTIONS)
    texts = texts.sample(min(passages or len(texts), len(texts)), random_state=settings.seed).sort_index()
    asked = asked.sample(min(questions, len(asked)), random_state=settings.seed).sort_index()
    read = PassageTemplate(settings.passages.template).texts(texts)
    key = sha256_bytes(
        json.dumps([settings.models.model_dump(include={"student", "student_prompts"}), read, list(asked["text"])])
    )
    path = folder / f"embedded-{key[:12]}.npz"
    if not path.exists():
        encoder = load_encoder(student_folder(settings.models, Path("models")), "auto")
        np.savez(
            path,
            passages=encode(encoder, read, "document", "passages"),
            questions=encode(encoder, asked["text"].tolist(), "query", "questions"),
        )
    with np.load(path) as stored:
        documents = texts["doc_id"].astype("category").cat.codes.to_numpy()
        return Embedded(stored["passages"], documents, stored["questions"], key)


class Repeated(NamedTuple):
    vectors: np.ndarray  # shape (n, dim)
    origin: np.ndarray  # the passage that each comes from
    scale: float  # of the noise; 0: these are the passages themselves


def repeat(corpus: Embedded, n: int, seed: int, place: np.ndarray | None = None) -> Repeated:
    """``n`` vectors: passages as they are, if there are so many; else all of them copies with noise.

    Args:
        place: where copies are written, shape (n, dim) float32, such as a mapped file; None: in memory.
    """
    rng = np.random.default_rng(seed)
    if n <= len(corpus.passages):
        rows = rng.permutation(len(corpus.passages))[:n]
        return Repeated(corpus.passages[rows], rows, 0.0)
    first, second = _pairs(corpus.documents, rng, 4096)
    wanted = float(np.median(_cosines(corpus.passages[first], corpus.passages[second])))
    origin = rng.integers(len(corpus.passages), size=4096)
    low, high = 0.0, 8.0
    for _ in range(40):
        scale = (low + high) / 2
        moved = _moved(corpus.passages, origin, first, second, scale)
        near = np.median(_cosines(moved, corpus.passages[origin])) > wanted
        low, high = (scale, high) if near else (low, scale)
    vectors = np.empty((n, corpus.passages.shape[1]), dtype=np.float32) if place is None else place
    origin = np.arange(n) % len(corpus.passages)
    for start in range(0, n, _AT_ONCE):
        part = origin[start : start + _AT_ONCE]
        vectors[start : start + len(part)] = _moved(corpus.passages, part, *_pairs(corpus.documents, rng, len(part)), scale)
    return Repeated(vectors, origin, scale)


def _pairs(documents: np.ndarray, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of two different passages of one document, ``count`` times."""
    order = np.argsort(documents, kind="stable")
    sizes = np.bincount(documents)
    starts = np.cumsum(sizes) - sizes
    candidates = np.flatnonzero(sizes[documents] > 1)
    first = rng.choice(candidates, count)
    of = documents[first]
    place = np.empty(len(documents), dtype=np.int64)
    place[order] = np.arange(len(documents))
    step = rng.integers(1, sizes[of])
    return first, order[starts[of] + (place[first] - starts[of] + step) % sizes[of]]


def _moved(passages: np.ndarray, origin, first, second, scale: float) -> np.ndarray:
    moved = passages[origin] + np.float32(scale) * (passages[first] - passages[second])
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", left, right)


def hardness(repeated: Repeated, questions: np.ndarray, k: int) -> dict:
    """Whether the neighbours of questions are a real choice, to be compared between the passages and their repetition.

    ``distinct_passages``: of how many passages the first ``k`` are copies. ``gap``: cosine of the first less that of the k-th.
    ``intrinsic_dimension``: by maximum likelihood from the distances to the first 100 (Levina and Bickel 2004): the higher, the
    harder to tell neighbours apart.
    """
    width = min(100, len(repeated.vectors))
    scores, rows = faiss.knn(questions, repeated.vectors, width, metric=faiss.METRIC_INNER_PRODUCT)
    distances = np.sqrt(np.maximum(2 - 2 * scores, 1e-12))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return {
        "distinct_passages": round(float(np.mean([len(set(found)) for found in repeated.origin[rows[:, :k]].tolist()])), 2),
        "first": round(float(scores[:, 0].mean()), 4),
        "gap": round(float((scores[:, 0] - scores[:, min(k, width) - 1]).mean()), 4),
        "intrinsic_dimension": round(float(np.median(1 / logs.mean(axis=1))), 1),
    }
