"""The vectors of one release in a table of PostgreSQL, by pgvector.

A table keeps the vectors of several releases that one encoder made. The versions from ``since`` to before
``until`` have a row; ``uae.release.collections`` writes them. What is found here is scored anew by ``nearest.search_stored``, as
what FAISS finds is: so equal vectors give equal scores, in the same order.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from psycopg import sql

from uae.index.nearest import EXHAUSTIVE_ROWS
from uae.index.stored import Rows, Vectors
from uae.io.errors import DatabaseError
from uae.io.postgres import Connection

T = TypeVar("T")

MOST_INDEXED = 2000  # numbers of a vector that pgvector's HNSW takes
MOST_BREADTH = 1000  # its largest ef_search
_READ = 10_000  # vectors read at once


class Place(NamedTuple):
    """Where a release's vectors lie."""

    schema: str
    table: str
    version: int


# Distance first, in a column of its own: an order by the bare distance is what pgvector's index answers, by a sum it is not.
_EXACT = sql.SQL(
    "select id, (embedding <#> %(query)s) + 0 as distance from {table}"
    " where since <= %(version)s and until > %(version)s{chosen} order by distance limit %(k)s"
)
_BY_INDEX = sql.SQL(
    "select id from {table}"
    " where since <= %(version)s and until > %(version)s{chosen} order by embedding <#> %(query)s limit %(k)s"
)
_CHOSEN = sql.SQL(" and id = any(%(ids)s::bigint[])")
_VECTORS = sql.SQL("select id, embedding from {table} where id = any(%(ids)s::bigint[])")
_EFFORT = "select set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true)"


class PgvectorRows:
    """Implements ``stored.Stored``. Several threads may use it, if ``run`` lets them."""

    def __init__(
        self,
        run: Callable[[Callable[[Connection], Any]], Any],
        where: str,
        place: Place,
        ids: Rows,
        dimension: int,
        breadth: int | None,
        others: int = 0,
    ):
        """
        Args:
            run: calls a function with a connection (``uae.io.postgres.Database.run``).
            where: what the place is called in messages.
            ids: the table's id of each row of the release, shape (rows,).
            breadth: ef_search of the table's HNSW, were these its only rows; None: every search is exact.
            others: rows of other releases in the table. A search goes over them and leaves them out, so it gets more places.
        """
        self._run, self._where, self._version, self._ids = run, where, place.version, ids
        self._breadth = None if breadth is None else math.ceil(breadth * (1 + others / max(len(ids), 1)))
        self._dimension = dimension
        self._by_id = np.argsort(ids, kind="stable")
        self._sorted = ids[self._by_id]
        self._table = sql.Identifier(place.schema, place.table)

    @property
    def ntotal(self) -> int:
        return len(self._ids)

    @property
    def d(self) -> int:
        return self._dimension

    @property
    def is_exhaustive(self) -> bool:
        return self._breadth is None

    def exhaustive(self, vectors: Vectors, k: int, rows: Rows | None) -> tuple[Vectors, Rows]:
        statement, values = self._statement(_EXACT, k, rows)

        def ask(connection: Connection) -> list[list[tuple[Any, ...]]]:
            return [connection.execute(statement, values | {"query": vector}, binary=True).fetchall() for vector in vectors]

        scores, found = np.empty((len(vectors), k), np.float32), np.empty((len(vectors), k), np.int64)
        for place, answer in enumerate(self._run(ask)):
            if len(answer) != k:
                raise self._gone()
            found[place] = self._rows([each for each, _ in answer])
            scores[place] = [-distance for _, distance in answer]
        return scores, found

    def approximate(self, vectors: Vectors, k: int, rows: Rows | None) -> Rows:
        if self._breadth is None or (rows is not None and len(rows) <= EXHAUSTIVE_ROWS):
            return self.exhaustive(vectors, k, rows)[1]
        statement, values = self._statement(_BY_INDEX, k, rows)
        effort = (str(min(max(self._breadth, k), MOST_BREADTH)),)

        def ask(connection: Connection) -> list[list[tuple[Any, ...]]]:
            with connection.transaction(), connection.pipeline():
                connection.execute(_EFFORT, effort)
                asked = [connection.execute(statement, values | {"query": vector}, binary=True) for vector in vectors]
                return [cursor.fetchall() for cursor in asked]

        found = np.full((len(vectors), k), -1, np.int64)
        for place, answer in enumerate(self._run(ask)):
            found[place, : len(answer)] = self._rows([each for (each,) in answer])
        return found

    def reconstruct_batch(self, rows: Rows, /) -> Vectors:
        """
        Raises:
            DatabaseError: some are not there any more.
        """
        read = np.empty((len(rows), self._dimension), np.float32)
        statement = _VECTORS.format(table=self._table)
        for start in range(0, len(rows), _READ):
            ids = self._ids[rows[start : start + _READ]]
            wanted, place = np.unique(ids, return_inverse=True)

            def ask(connection: Connection, wanted: Rows = wanted) -> list[tuple[Any, ...]]:
                return connection.execute(statement, {"ids": wanted.tolist()}, binary=True).fetchall()

            answer = sorted(self._run(ask), key=lambda each: int(each[0]))
            if [each for each, _ in answer] != wanted.tolist():
                raise self._gone()
            read[start : start + _READ] = np.stack([vector.to_numpy() for _, vector in answer])[place]
        return read

    def _statement(self, form: sql.SQL, k: int, rows: Rows | None) -> tuple[sql.Composed, dict[str, Any]]:
        values: dict[str, Any] = {"version": self._version, "k": k}
        if rows is not None:
            values["ids"] = self._ids[rows].tolist()
        chosen = sql.SQL("") if rows is None else _CHOSEN
        return form.format(table=self._table, chosen=chosen), values

    def _rows(self, ids: Sequence[int]) -> Rows:
        wanted = np.asarray(ids, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        if (self._sorted[places] != wanted).any():
            raise self._gone()
        return self._by_id[places]

    def _gone(self) -> DatabaseError:
        return DatabaseError(
            f"{self._where} no longer holds what it held of this release when it was opened: publish the release again "
            "(uae release publish)"
        )
