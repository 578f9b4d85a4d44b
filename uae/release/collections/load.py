"""Loading a release's vectors into a collection: those that the newest release there has not; and an end for what is gone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from psycopg import sql

from uae.index.pgvector import PgvectorRows, Place
from uae.index.stored import Rows, Vectors
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.postgres import Connection
from uae.release.collections import graph
from uae.release.collections.collection import Collection
from uae.release.collections.method import Method, choose_method
from uae.release.collections.tables import ALIVE, Names, row_count, space_of, vectors_table
from uae.release.legs.dense import DenseLeg
from uae.release.legs.protocol import probe_rows
from uae.release.open import Release
from uae.release.passages import Passages

_WRITTEN = 1000  # vectors in memory at once
_SAME = 0.999  # the least cosine of two vectors that one encoder made of one text

_TABLE = """
create table {table} (
    id bigint generated always as identity primary key, passage_id text not null, text_hash text not null,
    embedding vector({dimension}) not null, since bigint not null, until bigint not null default {alive});
alter table {table} alter column embedding set storage plain;
"""
_STAGED = "create temp table staged (place bigint, passage_id text, text_hash text) on commit drop"
_END = """
update {table} t set until = %(version)s where until = %(alive)s and not exists
    (select from staged s where s.passage_id = t.passage_id and s.text_hash = t.text_hash)
"""
_MISSING = """
select place from staged s where not exists
    (select from {table} t where until = %(alive)s and s.passage_id = t.passage_id and s.text_hash = t.text_hash)
order by place
"""
_IDS = """
select place, id from staged s join {table} t using (passage_id, text_hash)
where since <= %(version)s and until > %(version)s order by place
"""


class Change(NamedTuple):
    """What became of one leg's rows, and how they are searched."""

    added: int
    ended: int  # the releases before keep them until they are pruned
    kept: int
    breadth: int | None  # ef_search of HNSW; None: searched exactly
    recall: float  # recall@10 against exact search; 1 where the search is exact


def load(connection: Connection, collection: Collection, release: Release, version: int, method: Method) -> dict[str, Change]:
    """Write a release's dense legs as a new version, in a transaction of the caller's.

    Returns:
        What changed, by leg.

    Raises:
        ArtefactError: the collection holds other vectors for the same encoder.
        ConfigError: as ``method.choose_method``.
    """
    names = collection.names
    # A client that was killed is noticed while the server builds an index, and not after it.
    connection.execute("select set_config('client_connection_check_interval', '2s', true)")
    connection.execute(
        names.fill("insert into {publications} (version, release, passages) values (%s, %s, %s)"),
        (version, release.fingerprint, release.passage_count),
    )
    changes: dict[str, Change] = {}
    of_space: dict[int, Change] = {}  # two legs may have the same encoder
    for name, leg in release.legs.items():
        if not isinstance(leg, DenseLeg):
            continue
        space = _space(connection, names, leg)
        if space not in of_space:
            of_space[space] = _Loading(connection, collection, leg, release.passages, space, version).done(method)
        changes[name] = of_space[space]
        connection.execute(
            names.fill("insert into {legs} (version, leg, space, read_texts, breadth, recall) values (%s, %s, %s, %s, %s, %s)"),
            (version, name, space, leg.entry.read_texts, changes[name].breadth, changes[name].recall),
        )
    return changes


def _space(connection: Connection, names: Names, leg: DenseLeg) -> int:
    """The number of the table that a leg's vectors go into, made where there is none."""
    described = space_of(leg.entry)
    columns = "(document_encoder, passage_template, dimension, dtype)"
    found = connection.execute(
        names.fill(f"select space from {{spaces}} where {columns} = (%s, %s, %s, %s)"), described
    ).fetchone()
    if found is None:
        found = connection.execute(
            names.fill(f"insert into {{spaces}} {columns} values (%s, %s, %s, %s) returning space"), described
        ).fetchone()
        assert found is not None
        sizes = {"dimension": sql.Literal(described.dimension), "alive": sql.Literal(ALIVE)}
        connection.execute(names.fill(_TABLE, table=names.vectors(found[0]), **sizes))
    return int(found[0])


class _Loading:
    """The vectors of one leg, on their way into one table."""

    def __init__(
        self, connection: Connection, collection: Collection, leg: DenseLeg, passages: Passages, space: int, version: int
    ):
        self._connection, self._collection, self._names = connection, collection, collection.names
        self._leg, self._passages, self._space = leg, passages, space
        self._table = self._names.vectors(space)
        self._values = {"version": version, "alive": ALIVE}

    def done(self, method: Method) -> Change:
        self._stage()
        ended = self._connection.execute(self._fill(_END), self._values).rowcount
        new = [place for (place,) in self._connection.execute(self._fill(_MISSING), self._values)]
        self._write(new)
        graph.count(self._connection, self._names, self._space, len(new))
        others = row_count(self._connection, self._names, self._space) - len(self._passages)
        self._connection.execute(self._fill("analyze {table}"))
        ids = self._ids()
        self._connection.execute("drop table staged")
        place = Place(self._names.schema, vectors_table(self._space), self._values["version"])

        def searched(breadth: int | None) -> PgvectorRows:
            where = self._collection.where
            return PgvectorRows(lambda work: work(self._connection), where, place, ids, self._leg.dimension, breadth, others)

        self._check_kept(searched(None), set(new))
        how = choose_method(self._connection, self._names, self._space, self._leg, self._passages, searched, method)
        return Change(len(new), ended, len(ids) - len(new), *how)

    def _fill(self, statement: str) -> sql.Composed:
        return self._names.fill(statement, table=self._table)

    def _stage(self) -> None:
        """What the release has, for the database to compare."""
        self._connection.execute(_STAGED)
        with self._connection.cursor() as cursor, cursor.copy("copy staged from stdin") as copy:
            for start in range(0, len(self._passages), _WRITTEN):
                rows = range(start, min(start + _WRITTEN, len(self._passages)))
                for row in zip(rows, self._passage_ids(rows), self._hashes(rows), strict=True):
                    copy.write_row(row)

    def _write(self, new: Sequence[int]) -> None:
        statement = self._fill("copy {table} (passage_id, text_hash, embedding, since) from stdin (format binary)")
        with self._connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["text", "text", "vector", "int8"])
            for start in range(0, len(new), _WRITTEN):
                rows = new[start : start + _WRITTEN]
                for row in zip(self._passage_ids(rows), self._hashes(rows), self._vectors(rows), strict=True):
                    copy.write_row((*row, self._values["version"]))

    def _ids(self) -> Rows:
        """The table's id of each row of the release."""
        found = self._connection.execute(self._fill(_IDS), self._values, binary=True).fetchall()
        if [place for place, _ in found] != list(range(len(self._passages))):
            raise ArtefactError(
                f"{self._collection.where} holds a passage of this release twice, or lost one while it was written: use another "
                "collection (--collection)"
            )
        return np.asarray([each for _, each in found], dtype=np.int64)

    def _check_kept(self, stored: PgvectorRows, new: set[int]) -> None:
        """A few of the rows that stay: one encoder gives one text one vector."""
        rows = np.asarray([row for row in probe_rows(len(self._passages)) if row not in new], dtype=np.int64)
        if not len(rows):
            return
        cosines = np.einsum("nd,nd->n", _unit(stored.reconstruct_batch(rows)), _unit(self._vectors(rows)))
        if not cosines.min() >= _SAME:
            raise ArtefactError(
                f"{self._collection.where} does not hold the vectors of encoder {self._leg.entry.encoder[:12]}: where it and the "
                f"release have a passage, the cosine of their vectors goes down to {cosines.min():.4f}. Use another collection "
                "(--collection)"
            )

    def _passage_ids(self, rows: Sequence[int]) -> list[str]:
        return self._passages.ids_of(rows)

    def _hashes(self, rows: Sequence[int]) -> list[str]:
        return [sha256_bytes(text) for text in self._passages.read(self._leg.entry.passage_template, rows)]

    def _vectors(self, rows: Sequence[int] | Rows) -> Vectors:
        return self._leg.stored.reconstruct_batch(np.asarray(rows, dtype=np.int64))


def _unit(vectors: Vectors) -> npt.NDArray[np.float64]:
    found = vectors.astype(np.float64)
    return np.asarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12))
