"""Publishing a release into a collection, going back, and taking old ones out. Each is one transaction: all of it, or nothing.

Taking out ends with work on the tables that is no part of it: graphs that have aged are built anew, and tables vacuumed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from uae.io.errors import ArtefactError, InputError
from uae.io.postgres import Connection
from uae.release.collections import graph
from uae.release.collections.collection import Collection
from uae.release.collections.load import Change, load
from uae.release.collections.method import Method
from uae.release.collections.tables import (
    ALIVE,
    Names,
    Publication,
    check,
    count_changes,
    ensure,
    hold_graphs,
    legs,
    lock,
    publications,
)
from uae.release.open import Release


class Published(NamedTuple):
    release: str  # fingerprint
    before: str | None  # what was active
    changes: Mapping[str, Change]  # by leg; empty where the collection held the release already


def publish(folder: Path, collection: Collection, method: Method = "auto") -> Published:
    """Load a release's vectors beside those of the others, and make it the active one.

    The release is opened and checked first. Rows that the newest release has too, by passage_id and the text that was read,
    stay as they are. A release that the collection holds already is made active again, and nothing is loaded.

    Args:
        method: how it is searched. For "exact", a query is compared with every vector. For "hnsw", a graph is searched, with the
            smallest effort that has the release's recall target. With "auto" it is exact where the release's own index is
            (FAISS's Flat). Otherwise it is a graph, where that reaches the target.

    Raises:
        ArtefactError: the release's parts do not belong together, or the collection holds something else.
        ConfigError: "hnsw", and it does not reach the recall target, or takes no vectors of this size.
        DatabaseError: the database does not answer, refuses, has no pgvector, or another process changes the collection.
    """
    release = Release(folder, "cpu", threads=1, mapped=True)
    names, where = collection.names, collection.where
    try:
        with collection.database.transaction() as connection:
            lock(connection, names, where)
            count_changes(connection, names, where)
        with collection.database.transaction() as connection:
            lock(connection, names, where)
            ensure(connection, names, where)
            there = publications(connection, names)
            before = next((each.release for each in there if each.is_active), None)
            known = next((each for each in there if each.release == release.fingerprint), None)
            changes: dict[str, Change] = {}
            if known is None:
                hold_graphs(connection, names, where, until="transaction")
                version = 1 + max((each.version for each in there), default=0)
                changes = load(connection, collection, release, version, method)
            else:
                version = known.version
                _check_whole(connection, names, where, known)
            _activate(connection, names, version)
        return Published(release.fingerprint, before, changes)
    finally:
        release.close()


def rollback(collection: Collection) -> str:
    """Make the release active again that was active before; once more, the one before that.

    Returns:
        Its fingerprint.

    Raises:
        InputError: there is none before.
        ArtefactError: there is no such collection, or that release is not whole any more. Nothing is changed.
        DatabaseError: as ``publish``.
    """
    with collection.database.transaction() as connection:
        names, where = collection.names, collection.where
        lock(connection, names, where)
        check(connection, names, where)
        target = next((each for each in publications(connection, names) if each.is_before), None)
        if target is None:
            raise InputError(f"{where}: there is no release before this one to go back to")
        _check_whole(connection, names, where, target)
        connection.execute(names.fill("update {collection} set active = %s, before = before[2:]"), (target.version,))
    return target.release


def prune(collection: Collection, keep: int) -> list[str]:
    """Take out all but the ``keep`` newest releases; the active one and the one before always stay.

    The rows that none of the others has are deleted, and so are tables that nobody needs. Where as many rows as ``graph.AGED``
    says have changed, a graph is built anew, beside the old one. Then the tables are vacuumed. For rows that were changed or
    deleted stay in the graph until then, and take the place of others in a search with the same effort. Meanwhile searches go on,
    and ``rollback`` works. A publication is refused.

    Returns:
        The fingerprints taken out.

    Raises:
        ArtefactError, DatabaseError: as ``rollback``.
    """
    names, where = collection.names, collection.where
    database = collection.database
    with database.session() as connection:
        hold_graphs(connection, names, where, until="session")
        with database.transaction() as changing:
            lock(changing, names, where)
            count_changes(changing, names, where)
        with database.transaction() as changing:
            lock(changing, names, where)
            check(changing, names, where)
            gone, left = _take_out(changing, names, keep)
        # A client that was killed is noticed while the server works. What is half done then does no harm.
        connection.execute("select set_config('client_connection_check_interval', '2s', false)")
        for space in left:  # no transaction may hold these. Repairing a graph takes as long as building one: that comes first
            graph.renew(connection, names, space)
            connection.execute(names.fill("vacuum (index_cleanup on, analyze) {table}", table=names.vectors(space)))
    return gone


def _take_out(connection: Connection, names: Names, keep: int) -> tuple[list[str], list[int]]:
    """Fingerprints of the releases that went, and the spaces that are left."""
    gone = [each for each in publications(connection, names)[keep:] if not (each.is_active or each.is_before)]
    versions = [each.version for each in gone]
    connection.execute(names.fill("delete from {publications} where version = any(%s)"), (versions,))
    connection.execute(
        names.fill(
            "update {collection} set before = array("
            "select each from unnest(before) with ordinality as b(each, place) where each <> all(%s) order by place)"
        ),
        (versions,),
    )
    spaces = [space for (space,) in connection.execute(names.fill("select space from {spaces}")).fetchall()]
    left = [space for space in spaces if _prune_space(connection, names, space)]
    return [each.release for each in gone], left


def _prune_space(connection: Connection, names: Names, space: int) -> bool:
    """Whether any of the table is left."""
    table = names.vectors(space)
    left = connection.execute(names.fill("select version from {legs} where space = %s"), (space,)).fetchall()
    if not left:
        connection.execute(names.fill("drop table {table}", table=table))
        connection.execute(names.fill("delete from {spaces} where space = %s"), (space,))
        return False
    versions = [version for (version,) in left]
    deleted = connection.execute(
        names.fill(
            "delete from {table} where not exists (select from unnest(%s::bigint[]) as kept(version) "
            "where since <= version and until > version)",
            table=table,
        ),
        (versions,),
    ).rowcount
    graph.count(connection, names, space, deleted)
    # What only a release ended that is gone now, the next one may keep.
    connection.execute(
        names.fill("update {table} set until = %(alive)s where until > %(last)s and until < %(alive)s", table=table),
        {"alive": ALIVE, "last": max(versions)},
    )
    return True


def _activate(connection: Connection, names: Names, version: int) -> None:
    connection.execute(
        names.fill(
            "update {collection} set active = %(version)s,"
            " before = case when active is null then before else active || before end"
            " where active is distinct from %(version)s"
        ),
        {"version": version},
    )


def _check_whole(connection: Connection, names: Names, where: str, publication: Publication) -> None:
    """
    Raises:
        ArtefactError: a leg of the publication has lost rows.
    """
    for name, leg in legs(connection, names, publication.version).items():
        row = connection.execute(
            names.fill(
                "select count(*) from {table} where since <= %(version)s and until > %(version)s", table=names.vectors(leg.space)
            ),
            {"version": publication.version},
        ).fetchone()
        if row is None or row[0] != publication.passages:
            raise ArtefactError(
                f"{where} holds {row[0] if row else 0} of {publication.passages} vectors of leg {name!r} of release "
                f"{publication.release[:12]}: publish another release, then take this one out (uae release prune --to)"
            )
