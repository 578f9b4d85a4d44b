"""How a published leg is searched: every vector compared, or by a graph (HNSW) with the effort that reaches the recall wanted."""

import logging
from collections.abc import Callable
from typing import Literal

import numpy as np
from psycopg import sql
from psycopg.errors import Diagnostic

from uae.index.ann import TIE, smallest
from uae.index.nearest import search_stored
from uae.index.pgvector import MOST_BREADTH, MOST_INDEXED
from uae.index.stored import Stored, Vectors
from uae.io.errors import ConfigError
from uae.io.postgres import Connection
from uae.release.collections.tables import Names, vectors_table
from uae.release.legs.dense import DenseLeg
from uae.release.passages import Passages

log = logging.getLogger(__name__)

Method = Literal["auto", "exact", "hnsw"]

RECALL_AT = 10
# Beginnings of so many passages, so long, stand in for questions: each query lies between two of them. A beginning by itself is
# nearer to a passage than a question is. On COVID-QA (3,705 passages, FAISS's HNSW, target 0.95) beginnings led to an efSearch of
# 21 and pairs to 47. Questions had recall 0.91 at 20, 0.96 at 40 and 0.98 at 80.
_QUERIES, _WORDS = 200, 16
# Neighbours of a vector in the graph, and candidates for them when it is built. pgvector's defaults are 16 and 64.
_GRAPH = "create index {index} on {table} using hnsw (embedding vector_ip_ops) with (m = 16, ef_construction = 100)"


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
    built = _build(connection, names, space)
    breadth, recall = _tuned(leg, passages, searched, target)
    if recall >= target:
        return breadth, recall
    if method == "hnsw":
        raise ConfigError(
            f"--search hnsw: recall@{RECALL_AT} is {recall:.4f} at best (ef_search {breadth}), and the release wants {target:g}: "
            "choose exact"
        )
    if built:
        connection.execute(names.fill("drop index {index}", index=_index(names, space)))
    return None, 1.0


def _build(connection: Connection, names: Names, space: int) -> bool:
    """Whether the table had no graph."""
    name = f"{vectors_table(space)}_hnsw"
    there = connection.execute(
        "select 1 from pg_catalog.pg_indexes where schemaname = %s and indexname = %s", (names.schema, name)
    ).fetchone()
    if there is None:
        connection.add_notice_handler(_warn)  # a graph that does not fit the server's memory takes several times as long
        try:
            connection.execute(names.fill(_GRAPH, index=sql.Identifier(name), table=names.vectors(space)))
        finally:
            connection.remove_notice_handler(_warn)
    return there is None


def _warn(said: Diagnostic) -> None:
    log.warning("the database: %s. %s", said.message_primary, said.message_hint or "")


def _index(names: Names, space: int) -> sql.Identifier:
    return sql.Identifier(names.schema, f"{vectors_table(space)}_hnsw")


def _tuned(leg: DenseLeg, passages: Passages, searched: Callable[[int | None], Stored], target: float) -> tuple[int, float]:
    """The smallest ef_search that reaches the target, or the best, and its recall."""
    rows = np.linspace(0, len(passages) - 1, min(_QUERIES, len(passages))).astype(np.int64)
    texts = passages.read(leg.entry.passage_template, rows.tolist())
    queries = between(leg.encode([" ".join(text.split()[:_WORDS]) for text in texts], "query"))
    k = min(RECALL_AT, len(passages))
    kth = search_stored(searched(None), queries, k, None)[0][:, -1]

    def recall(breadth: int) -> float:
        return float((search_stored(searched(breadth), queries, k, None)[0] >= kth[:, None] - TIE).mean())

    return smallest(recall, RECALL_AT, MOST_BREADTH, target)


def between(vectors: Vectors) -> Vectors:
    """Unit vectors half-way from each of the vectors, shape (n, dim), to another one that comes a third of all later."""
    found = vectors + np.roll(vectors, len(vectors) // 3, axis=0)
    unit: Vectors = (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float32)
    return unit
