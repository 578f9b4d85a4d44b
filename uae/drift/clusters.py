"""What queries without a good answer are about: those that are alike, and the words that tell them from other queries."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.cluster import AgglomerativeClustering
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from uae.retrievers.bm25_index import terms
from uae.text.words import words

Vectors = npt.NDArray[np.float32]
_LEAST = 3  # queries in a cluster
_MOST = 2000  # queries that are clustered: all pairs of them are compared
# Two queries are alike if they are nearer to each other than three of four pairs of ordinary queries are.
_ALIKE = 0.25
_WORDS = 4
_EXAMPLES = 3


class Cluster(NamedTuple):
    """Queries that are alike."""

    places: list[int]  # of its queries, in the order in which they were given
    words: list[str]  # that stand in many of them and in few others, the most telling first
    examples: list[int]  # places of those that are most like the others


def cluster(texts: Sequence[str], vectors: Vectors, ordinary_texts: Sequence[str], ordinary: Vectors) -> list[Cluster]:
    """Clusters of three queries or more, the largest first. Average linkage by cosine; of very many queries the last 2000.

    Args:
        vectors: unit vectors of the queries, shape (n, dimension).
        ordinary: unit vectors of queries to compare with, shape (m, dimension). They say how far apart queries are.
    """
    first = max(0, len(texts) - _MOST)
    texts, vectors = texts[first:], vectors[first:]
    if len(texts) < _LEAST:
        return []
    fitted = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=_alike(ordinary)
    ).fit(vectors.astype(np.float64))
    found = []
    for label in range(fitted.n_clusters_):
        places: npt.NDArray[np.intp] = np.flatnonzero(fitted.labels_ == label)
        if len(places) >= _LEAST:
            others = [text for place, text in enumerate(texts) if fitted.labels_[place] != label]
            telling = _telling([texts[place] for place in places.tolist()], [*others, *ordinary_texts])
            centre = vectors[places].sum(axis=0)
            nearest = places[np.argsort(-(vectors[places] @ centre), kind="stable")][:_EXAMPLES]
            found.append(Cluster((places + first).tolist(), telling, (nearest + first).tolist()))
    return sorted(found, key=lambda each: (-len(each.places), each.places))


def _alike(ordinary: Vectors) -> float:
    """The distance (1 - cosine) up to which two queries are alike."""
    some = ordinary[-_MOST:].astype(np.float64)
    if len(some) < 2:
        return 0.5
    distances = 1 - (some @ some.T)[np.triu_indices(len(some), 1)]
    return max(float(np.quantile(distances, _ALIKE)), 1e-6)


def _telling(texts: Sequence[str], others: Sequence[str]) -> list[str]:
    """Words by how much larger a share of these texts has them than of the others; as they are written most often."""
    here, there, written = Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for text in texts:
        stems = {word: found[0] for word in words(text) if word not in ENGLISH_STOP_WORDS and (found := terms(word))}
        here.update(set(stems.values()))
        written.update((stem, word) for word, stem in stems.items())
    for text in others:
        there.update(set(terms(text)))
    gain = {stem: count / len(texts) - there[stem] / max(len(others), 1) for stem, count in here.items()}
    best = sorted((stem for stem in gain if gain[stem] > 0), key=lambda stem: (-gain[stem], stem))[:_WORDS]
    return [max((count, word) for (of, word), count in written.items() if of == stem)[1] for stem in best]
