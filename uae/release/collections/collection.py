"""A collection, read: which release is active in it, and a release's vectors, once they are known to be the release's."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from uae.index.pgvector import PgvectorRows, Place
from uae.index.stored import Rows, Stored
from uae.io.errors import ArtefactError, UaeError
from uae.io.postgres import Connection, Database
from uae.measures.ranking import compact
from uae.release.collections.tables import (
    Names,
    Publication,
    PublishedLeg,
    check,
    legs,
    publications,
    row_count,
    space_of,
    vectors_table,
)
from uae.release.legs.dense import DenseEntry
from uae.release.passages import Passages
from uae.release.store import Active, ReleaseStore

_FETCHED = 10_000  # ids of passages at once


class Collection:
    """Implements ``legs.protocol.VectorSource``. Several threads may use it."""

    def __init__(self, database: Database, name: str):
        """Nothing is asked of the database yet.

        Raises:
            ConfigError: no collection can be called so.
        """
        self.database, self.names = database, Names(name)
        self.where = f"collection {name!r} of database {database.name}"

    def publications(self) -> list[Publication]:
        """All releases that it holds, the newest first.

        Raises:
            ArtefactError: there is no such collection.
            DatabaseError: the database does not answer, or refuses.
        """
        return self.database.run(self._publications)

    def active(self) -> str | None:
        """The fingerprint of the active release.

        Raises:
            ArtefactError, DatabaseError: as ``publications``.
        """
        return next((each.release for each in self.publications() if each.is_active), None)

    def stored(self, release: str, leg: str, entry: DenseEntry, passages: Passages) -> Stored:
        """The vectors of one leg of a release, if the collection holds these very passages, and of this very encoder.

        Raises:
            ArtefactError: it does not.
            DatabaseError: the database does not answer, or refuses.
        """
        version, found, ids, rows = self.database.run(lambda connection: self._found(connection, release, leg, entry, passages))
        place = Place(self.names.schema, vectors_table(found.space), version)
        return PgvectorRows(self.database.run, self.where, place, ids, entry.dimension, found.breadth, rows - len(ids))

    def _publications(self, connection: Connection) -> list[Publication]:
        check(connection, self.names, self.where)
        return publications(connection, self.names)

    def _found(
        self, connection: Connection, release: str, leg: str, entry: DenseEntry, passages: Passages
    ) -> tuple[int, PublishedLeg, Rows, int]:
        """Version, how it is searched, the table's id of each passage, and how many rows the table has."""
        with connection.transaction():
            published = self._publications(connection)
            version = next((each.version for each in published if each.release == release), None)
            if version is None:
                there = ", ".join(each.release[:12] for each in published[:5]) or "none"
                raise ArtefactError(
                    f"{self.where} does not hold release {release[:12]} (it holds {there}): publish it first "
                    "(uae release publish)"
                )
            found = legs(connection, self.names, version).get(leg)
            if found is None:
                raise ArtefactError(f"{self.where} has release {release[:12]} without its leg {leg!r}: publish it again")
            self._check_space(release, leg, entry, found)
            rows = row_count(connection, self.names, found.space)
            return version, found, self._ids(connection, version, found, passages), rows

    def _check_space(self, release: str, leg: str, entry: DenseEntry, found: PublishedLeg) -> None:
        ours = space_of(entry)
        if found.described != ours:
            what, theirs, wanted = next(
                (name, getattr(found.described, name), value)
                for name, value in ours._asdict().items()
                if getattr(found.described, name) != value
            )
            theirs, wanted = (str(value)[:12] for value in (theirs, wanted))
            raise ArtefactError(
                f"{self.where} holds vectors of {what} {theirs} for leg {leg!r} of release {release[:12]}, whose {what} is "
                f"{wanted}: vectors of one mean nothing to the other. Publish the release again"
            )
        if found.read_texts != entry.read_texts:
            raise ArtefactError(f"{self.where} holds other passages for leg {leg!r} of release {release[:12]}: publish it again")

    def _ids(self, connection: Connection, version: int, found: PublishedLeg, passages: Passages) -> Rows:
        """The table's id of each row of the release's passages."""
        ids = compact(passages.ids["passage_id"])
        wanted = ids[np.argsort(passages.places)]  # in the order of passage_ids, which is the order of bytes
        in_order = np.empty(len(wanted), np.int64)
        statement = self.names.fill(
            "select id, passage_id from {table} where since <= %(version)s and until > %(version)s"
            ' order by passage_id collate "C"',
            table=self.names.vectors(found.space),
        )
        count = 0
        with connection.cursor("passages") as cursor:  # on the server: they are as many as there are passages
            cursor.itersize = _FETCHED
            for each, passage_id in cursor.execute(statement, {"version": version}):
                if count >= len(wanted) or passage_id != wanted[count].decode():
                    raise self._other_passages(version, passage_id if count >= len(wanted) else wanted[count].decode())
                in_order[count] = each
                count += 1
        if count != len(wanted):
            raise self._other_passages(version, wanted[count].decode())
        return in_order[passages.places]

    def _other_passages(self, version: int, first: str) -> ArtefactError:
        return ArtefactError(
            f"version {version} in {self.where} does not have the passages of the release; the first that differs is {first!r}: "
            "publish the release again"
        )


class Followed(NamedTuple):
    """The release that is active in a collection, with its files in a store of this machine. ``Switch.watch`` follows it."""

    collection: Collection
    store: ReleaseStore

    @property
    def folder(self) -> str:
        return self.collection.where

    def active(self) -> Active | None:
        """
        Raises:
            ArtefactError: there is no such collection, or the store has no such release.
            DatabaseError: the database does not answer, or refuses.
        """
        fingerprint = self.collection.active()
        return Active(fingerprint, self._files(fingerprint)) if fingerprint else None

    def stamp(self) -> object:
        """Something that changes whenever another release becomes active, or the database goes away or comes back."""
        try:
            return self.collection.active()
        except UaeError as error:
            return str(error)

    def _files(self, fingerprint: str) -> Path:
        try:
            return self.store.path(fingerprint)
        except ArtefactError as error:
            raise ArtefactError(f"release {fingerprint[:12]} is active in {self.collection.where}, and {error}") from None
