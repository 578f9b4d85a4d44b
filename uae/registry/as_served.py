"""A release as a service has it, beside what was trained and evaluated."""

from pathlib import Path

import numpy as np
import pandas as pd

from uae.evaluation.testset import UAE
from uae.index.ann import Reconstructed, index_recall
from uae.io.mapped import drop_pages_of
from uae.registry.gate import RECALL_AT
from uae.release.legs.dense import read_index
from uae.release.manifest import Manifest
from uae.release.open import Release
from uae.release.parity import Corpus, Parity, measure_parity
from uae.release.passages import Passages
from uae.retrievers.dense import encode, load_encoder
from uae.retrievers.passage_vectors import PassageVectors
from uae.retrievers.protocol import Vectors
from uae.retrievers.serving_forms import open_encoder
from uae.vectors.store import VectorStore


def measure_serving(
    folder: Path, manifest: Manifest, questions: pd.DataFrame, scope: str, device: str, kept: VectorStore | None = None
) -> tuple[Parity, float]:
    """What serving changes on these questions: the encoder's parity, and recall@10 of the index against exact search.

    Args:
        folder: a release; ``manifest``: as ``read_manifest`` gave it.
        kept: where vectors of passages are kept.
    """
    folder, texts, dense = Path(folder), questions["text"].tolist(), manifest.dense()
    encoder = load_encoder(dense.encoder_folder(folder), device)
    trained = encode(encoder, texts, "query")
    served = open_encoder(folder / dense.folder, dense.serving.backend, device, None).encode(texts, "query")
    passages, path, described = Passages(folder), dense.index_path(folder), dense.index
    index = read_index(path, mapped=True)
    corpus = Corpus(passages.ids, index, described.parameters, path)
    parity = measure_parity(trained, served, questions, corpus, scope)
    drop_pages_of(path)
    if described.dtype == "float32":
        vectors: Vectors | Reconstructed = Reconstructed(index, path)  # they are as they were put in
    else:
        texts_read = passages.read_all(dense.passage_template)
        vectors = PassageVectors(encoder, dense.encoder_folder(folder), kept)(texts_read, "passages, for exact search")
    return parity, index_recall(index, vectors, served, RECALL_AT, described.parameters, path)


def served_recall(folder: Path, questions: pd.DataFrame, scope: str, device: str, system: str = UAE) -> float:
    """Recall@1 of a system as a service has it: by the serving encoder, the index, BM25 and the second stage together.

    Args:
        questions: with evidence, as QUESTIONS.
    """
    release = Release(folder, device, mapped=True)
    try:
        found = []
        for text, doc_id, evidence in zip(questions["text"], questions["doc_id"], questions["evidence"], strict=True):
            (hits,) = release.search([text], 1, doc_id if scope == "document" else None, system)
            found.append(sum(hit.passage_id in set(evidence) for hit in hits) / len(evidence))
            release.drop_pages()
        return float(np.mean(found))
    finally:
        release.close()
