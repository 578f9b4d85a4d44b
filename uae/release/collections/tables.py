"""The tables of a collection. A collection is a schema of a database; it holds the vectors of releases, and says which is active.

collection      one row: the number of this form, the active version, and the versions that rollback goes back to, the last first
spaces          one row for vectors that compare: encoder of the passages, what it reads of them, and how a number is stored; how
                many rows went in or out since the table's graph was built, null where an earlier version built it
vectors_SPACE   a passage's id, a hash of what was read of it, its vector; the versions from ``since`` to before ``until`` have it
publications    one row a version: the release's fingerprint
legs            of each version: a dense leg, its space, how it is searched

A publication is one transaction. So a reader sees all of it or nothing, and a killed one leaves nothing behind. Versions only
grow. Two versions share the rows that both have, so a refresh writes what it changes and nothing else.
"""

from typing import Any, Literal, NamedTuple

from psycopg import sql

from uae.io.errors import ArtefactError, ConfigError, DatabaseError
from uae.io.postgres import Connection
from uae.release.legs.dense import DenseEntry

FORM = 1
ALIVE = 2**63 - 1  # ``until`` of a row that the newest version of its space has
_LONGEST_NAME = 63  # bytes; PostgreSQL cuts longer ones

_CREATE = """
create schema {schema};
create table {collection} (
    only_one boolean primary key default true check (only_one), form integer not null,
    active bigint, before bigint[] not null default '{{}}');
create table {spaces} (
    space integer generated always as identity primary key, document_encoder text not null, passage_template text not null,
    dimension integer not null, dtype text not null, changed bigint default 0,
    unique (document_encoder, passage_template, dimension, dtype));
create table {publications} (
    version bigint primary key, release text not null unique, passages bigint not null,
    published_at timestamptz not null default now());
create table {legs} (
    version bigint references {publications} on delete cascade, leg text, space integer not null references {spaces},
    read_texts text not null, breadth integer, recall real not null, primary key (version, leg));
insert into {collection} (form) values ({form});
"""
# Earlier versions do not count changes, and read and write a table that does.
_COUNTED = "alter table {spaces} add column changed bigint; alter table {spaces} alter column changed set default 0"


class Space(NamedTuple):
    """What makes vectors comparable, and which table holds them."""

    document_encoder: str  # fingerprint of what determines a passage's vector
    passage_template: str
    dimension: int
    dtype: str


class PublishedLeg(NamedTuple):
    space: int
    described: Space
    read_texts: str  # hash of what the encoder has read of all passages, in their order
    breadth: int | None  # ef_search; None: searched exactly


class Publication(NamedTuple):
    version: int
    release: str  # fingerprint
    passages: int
    published_at: Any  # datetime
    is_active: bool
    is_before: bool  # what a rollback would go to


class Names:
    """The tables of one collection, quoted."""

    def __init__(self, schema: str):
        """
        Raises:
            ConfigError: no schema can be called so.
        """
        if not schema or "\0" in schema or len(schema.encode()) > _LONGEST_NAME:
            raise ConfigError(f"a collection's name has 1 to {_LONGEST_NAME} bytes: {ascii(schema)[:80]} has not")
        self.schema = schema
        self._quoted = {name: sql.Identifier(schema, name) for name in ("collection", "spaces", "publications", "legs")} | {
            "schema": sql.Identifier(schema)
        }

    def fill(self, statement: str, **more: sql.Composable) -> sql.Composed:
        """A statement with the names of tables, and ``more``, in its braces."""
        return sql.SQL(statement).format(**self._quoted, **more)

    def vectors(self, space: int) -> sql.Identifier:
        return sql.Identifier(self.schema, vectors_table(space))


def vectors_table(space: int) -> str:
    return f"vectors_{space}"


def space_of(entry: DenseEntry) -> Space:
    return Space(entry.document_encoder, entry.passage_template, entry.dimension, entry.index.dtype)


def ensure(connection: Connection, names: Names, where: str) -> None:
    """Make the collection where there is none.

    Raises:
        ArtefactError: as ``check``.
    """
    if _exists(connection, names.schema):
        check(connection, names, where)
    else:
        connection.execute(names.fill(_CREATE, form=sql.Literal(FORM)))


def count_changes(connection: Connection, names: Names, where: str) -> None:
    """Make a collection of an earlier version one that counts changes, in a short transaction: readers wait for that.

    Raises:
        ArtefactError: as ``check``, where there is something of this name.
    """
    if not _exists(connection, names.schema):
        return
    check(connection, names, where)
    counted = connection.execute(
        "select 1 from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid"
        " join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = 'spaces' and a.attname = 'changed' and not a.attisdropped",
        (names.schema,),
    ).fetchone()
    if counted is None:
        connection.execute(names.fill(_COUNTED))


def check(connection: Connection, names: Names, where: str) -> None:
    """
    Raises:
        ArtefactError: there is no collection of this name, or it is of a form that this version does not know.
    """
    found = connection.execute(
        "select c.relname from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = %s and c.relname = 'collection' and c.relkind = 'r'",
        (names.schema,),
    ).fetchone()
    if found is None:
        if not _exists(connection, names.schema):
            raise ArtefactError(f"{where} does not exist: publish a release into it first (uae release publish)")
        raise ArtefactError(
            f"{where} is a schema with other tables, and no collection of releases: name another one (--collection)"
        )
    row = connection.execute(names.fill("select form from {collection}")).fetchone()
    if row is None or row[0] != FORM:
        raise ArtefactError(
            f"{where} is of form {row[0] if row else None}, and this version of uae knows form {FORM}: update uae here, or "
            "publish into another collection"
        )


def lock(connection: Connection, names: Names, where: str) -> None:
    """Keep every other writer out until the transaction ends.

    Raises:
        DatabaseError: another one is at work.
    """
    if not _locked(connection, "pg_try_advisory_xact_lock", f"uae collection {names.schema}"):
        raise DatabaseError(f"{where} is being changed by another process: wait for it to end", transient=True)


def hold_graphs(connection: Connection, names: Names, where: str, until: Literal["transaction", "session"]) -> None:
    """Keep everybody else out who would load rows or build a graph, until the transaction or the session ends.

    Raises:
        DatabaseError: another one is at work.
    """
    how = "pg_try_advisory_xact_lock" if until == "transaction" else "pg_try_advisory_lock"
    if not _locked(connection, how, f"uae graphs {names.schema}"):
        raise DatabaseError(
            f"{where} is being changed by another process, or its graph is built anew (uae release prune): wait for it to end",
            transient=True,
        )


def _locked(connection: Connection, how: str, what: str) -> bool:
    statement = sql.SQL("select pg_catalog.{}(pg_catalog.hashtextextended(%s::text, 0))").format(sql.Identifier(how))
    row = connection.execute(statement, (what,)).fetchone()
    return bool(row and row[0])


def publications(connection: Connection, names: Names) -> list[Publication]:
    """All versions, the newest first."""
    return [
        Publication(*row)
        for row in connection.execute(
            names.fill(
                "select version, release, passages, published_at, version is not distinct from active,"
                " version is not distinct from before[1]"
                " from {publications}, {collection} order by version desc"
            )
        )
    ]


def legs(connection: Connection, names: Names, version: int) -> dict[str, PublishedLeg]:
    rows = connection.execute(
        names.fill(
            "select leg, space, document_encoder, passage_template, dimension, dtype, read_texts, breadth"
            " from {legs} join {spaces} using (space) where version = %s"
        ),
        (version,),
    )
    return {leg: PublishedLeg(space, Space(*space_row), read, breadth) for leg, space, *space_row, read, breadth in rows}


def row_count(connection: Connection, names: Names, space: int) -> int:
    """Rows of a table, of whatever release."""
    row = connection.execute(names.fill("select count(*) from {table}", table=names.vectors(space))).fetchone()
    return int(row[0]) if row else 0


def _exists(connection: Connection, schema: str) -> bool:
    return connection.execute("select 1 from pg_catalog.pg_namespace where nspname = %s", (schema,)).fetchone() is not None
