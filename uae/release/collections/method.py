"""How a published leg is searched: every vector compared, or by a graph (HNSW) with the effort that reaches the recall wanted."""

from collections.abc import Callable
from typing import Literal

import numpy as np

from uae.index.ann import TIE, Reconstructed, kth_scores, smallest
from uae.index.nearest import search_stored
from uae.index.pgvector import MOST_BREADTH, MOST_INDEXED
from uae.index.stored import Stored, Vectors
from uae.io.errors import ConfigError
from uae.io.postgres import Connection
from uae.release.collections import graph
from uae.release.collections.tables import Names
from uae.release.legs.dense import DenseLeg
from uae.release.passages import Passages

Method = Literal["auto", "exact", "hnsw"]

RECALL_AT = 10
# Beginnings of so many passages, so long, stand in for questions: each query lies between two of them. A beginning by itself is
# nearer to a passage than a question is. On COVID-QA (3,705 passages, FAISS's HNSW, target 0.95) beginnings led to an efSearch of
# 21 and pairs to 47. Questions had recall 0.91 at 20, 0.96 at 40 and 0.98 at 80.
_BEGINNINGS, _WORDS = 200, 16
# Points from each beginning. Two graphs over the same vectors miss different ones. With 200 points in all, the efforts that they
# got differed by up to 6, and recall on questions by up to 0.011.
_PARTNERS = 5


def choose_method(
    connection: Connection,
    names: Names,
    space: int,
    leg: DenseLeg,
    passages: Passages,
    searched: Callable[[int | None], Stored],
    method: Method,
) -> tuple[int | None, float]:
    """ef_search of the leg's table, None where it is searched exactly, and recall@10 against exact search.

    The graph is built here where the table has none, and taken out again where it is not good enough.

    Args:
        searched: the published vectors, searched with an ef_search; None: exactly.
        method: as ``publish.publish`` has it.

    Raises:
        ConfigError: "hnsw", and it does not reach the release's recall target, or takes no vectors of this size.
    """
    target, flat = leg.entry.index.recall_target, leg.stored.is_exhaustive and leg.entry.index.dtype == "float32"
    if method == "exact" or (method == "auto" and (flat or leg.dimension > MOST_INDEXED)) or not len(passages):
        return None, 1.0
    if leg.dimension > MOST_INDEXED:
        raise ConfigError(
            f"--search hnsw: pgvector's index takes vectors of {MOST_INDEXED} numbers, and these have {leg.dimension}: choose "
            "exact"
        )
    built = graph.build(connection, names, space)
    breadth, recall = _tuned(leg, passages, searched, target)
    if recall >= target:
        return breadth, recall
    if method == "hnsw":
        raise ConfigError(
            f"--search hnsw: recall@{RECALL_AT} is {recall:.4f} at best (ef_search {breadth}), and the release wants {target:g}: "
            "choose exact"
        )
    if built:
        graph.drop(connection, names, space)
    return None, 1.0


def _tuned(leg: DenseLeg, passages: Passages, searched: Callable[[int | None], Stored], target: float) -> tuple[int, float]:
    """The smallest ef_search that reaches the target, or the best, and its recall."""
    rows = np.linspace(0, len(passages) - 1, min(_BEGINNINGS, len(passages))).astype(np.int64)
    texts = passages.read(leg.entry.passage_template, rows.tolist())
    queries = between(leg.encode([" ".join(text.split()[:_WORDS]) for text in texts], "query"), _PARTNERS)
    k = min(RECALL_AT, len(passages))
    kth = kth_scores(Reconstructed(searched(None)), queries, k)

    def recall(breadth: int, step: int = 1) -> float:
        found = search_stored(searched(breadth), queries[::step], k, None)[0]
        return float((found >= kth[::step, None] - TIE).mean())

    about, reached = smallest(lambda breadth: recall(breadth, _PARTNERS), RECALL_AT, MOST_BREADTH, target)
    return settled(recall, about, RECALL_AT, MOST_BREADTH, target) if reached >= target else (about, reached)


def settled(recall: Callable[[int], float], about: int, least: int, most: int, target: float) -> tuple[int, float]:
    """The smallest value with the target's recall, near one that is ``about`` right, and that recall.

    Where none up to ``most`` has it: the one with the best recall.
    """
    best = about, recall(about)
    down = best[1] >= target
    value = about
    while value > least if down else value < most:
        step = max(value // 32, 1)
        value = max(value - step, least) if down else min(value + step, most)
        found = recall(value)
        reached = found >= target
        if reached or (not down and found > best[1]):
            best = value, found
        if reached != down:
            break
    return best


def between(vectors: Vectors, partners: int) -> Vectors:
    """Unit vectors half-way from each of the vectors to others that come later in turn.

    Args:
        vectors: unit vectors, shape (n, dim).

    Returns:
        shape (n * partners, dim); each vector's points lie together.
    """
    n = len(vectors)
    later = [max(n * number // (2 * partners + 1), 1) for number in range(partners, 0, -1)]
    found = np.stack([vectors + np.roll(vectors, each, axis=0) for each in later], axis=1).reshape(n * partners, -1)
    unit: Vectors = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit
