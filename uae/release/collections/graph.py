"""The graph (pgvector's HNSW) of a table of vectors: built, taken out, and built anew once enough rows have changed.

A graph ages. Where a row goes, vacuum ties its neighbours to others, one by one; rows that come are tied to what is there. Such
a graph finds less than one that was built over the rows as they are. So the collection counts what goes in and out.
"""

import logging

from psycopg import sql
from psycopg.errors import Diagnostic

from uae.io.postgres import Connection
from uae.release.collections.tables import Names, row_count, vectors_table

log = logging.getLogger(__name__)

# Rows that went in or out since a graph was built, as a share of all. Vacuum repairs what pointed at a row that went: some 30
# others. Repairing for 1 % took as long as building, with 20,000 rows of 384 numbers. So from there on a new one costs no more.
AGED = 0.02
# Neighbours of a vector in the graph, and candidates for them when it is built. pgvector's defaults are 16 and 64.
_GRAPH = "create index {index} on {table} using hnsw (embedding vector_ip_ops) with (m = 16, ef_construction = 100)"
_INDEXES = """
select i.indisvalid, c.relname from pg_catalog.pg_index i join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_class t on t.oid = i.indrelid join pg_catalog.pg_namespace n on n.oid = t.relnamespace
where n.nspname = %s and t.relname = %s
"""


def build(connection: Connection, names: Names, space: int) -> bool:
    """Build the table's graph, in a transaction of the caller's. False where it has one."""
    if _name(space) in _indexes(connection, names, space, valid=True):
        return False
    statement = names.fill(_GRAPH, index=sql.Identifier(_name(space)), table=names.vectors(space))
    _run(connection, names, space, statement)
    return True


def drop(connection: Connection, names: Names, space: int) -> None:
    connection.execute(names.fill("drop index {index}", index=_index(names, space)))


def count(connection: Connection, names: Names, space: int, rows: int) -> None:
    """So many rows went in or out."""
    connection.execute(names.fill("update {spaces} set changed = changed + %s where space = %s"), (rows, space))


def renew(connection: Connection, names: Names, space: int) -> bool:
    """Build the table's graph anew beside the old one, if that has aged, or if it is not known how old it is.

    Searches go on meanwhile, with the old one. A server that is stopped meanwhile leaves an unfinished one behind, which goes
    here. The caller keeps other writers out (``tables.hold_graphs``): they and the server would wait for each other.

    Args:
        connection: outside of any transaction.

    Returns:
        Whether it was.
    """
    for name in _indexes(connection, names, space, valid=False):
        if name.startswith(f"{_name(space)}_cc"):  # as PostgreSQL calls them: _ccnew, _ccold1
            unfinished = sql.Identifier(names.schema, name)
            connection.execute(names.fill("drop index concurrently if exists {index}", index=unfinished))
    if _name(space) not in _indexes(connection, names, space, valid=True):
        return False
    row = connection.execute(names.fill("select changed from {spaces} where space = %s"), (space,)).fetchone()
    changed, rows = row[0] if row else None, row_count(connection, names, space)
    if changed is not None and changed < AGED * rows:
        return False
    _run(connection, names, space, names.fill("reindex index concurrently {index}", index=_index(names, space)))
    told = "nobody knows how many" if changed is None else str(changed)
    log.info(
        "table %s of %s: the graph was built anew, after %s of %s rows", vectors_table(space), names.schema, told, f"{rows:,}"
    )
    return True


def _run(connection: Connection, names: Names, space: int, statement: sql.Composed) -> None:
    connection.add_notice_handler(_warn)  # a graph that does not fit the server's memory takes several times as long
    try:
        connection.execute(statement)
    finally:
        connection.remove_notice_handler(_warn)
    connection.execute(names.fill("update {spaces} set changed = 0 where space = %s"), (space,))


def _warn(said: Diagnostic) -> None:
    log.warning("the database: %s. %s", said.message_primary, said.message_hint or "")


def _indexes(connection: Connection, names: Names, space: int, valid: bool) -> list[str]:
    found = connection.execute(_INDEXES, (names.schema, vectors_table(space)))
    return [name for is_valid, name in found if is_valid == valid]


def _name(space: int) -> str:
    return f"{vectors_table(space)}_hnsw"


def _index(names: Names, space: int) -> sql.Identifier:
    return sql.Identifier(names.schema, _name(space))
