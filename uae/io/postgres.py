"""A PostgreSQL database with pgvector: its address, connections to it, and what it answers when something is wrong.

No message and no log of ours holds a password: the place is named as host:port/database, and libpq's words are searched for it.
The extra ``postgres`` brings psycopg and pgvector. Whoever needs no database needs neither.
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from uae.io.errors import ConfigError, DatabaseError, without_user_info

try:
    import psycopg
    from pgvector.psycopg import register_vector
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
except ImportError as error:
    raise ConfigError(f"{error}: a database needs the extra postgres (pip install 'uae[postgres]')") from None

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_PGVECTOR = (0, 8)  # with it came scans of an index that go on until a filter has let enough rows through
# A network that swallows packets would keep a search for ever. Seconds but for the last, which is in milliseconds.
_LIVELY = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
_AWAY = ("08", "57P", "53")  # SQL states: connection lost, shutting down or starting, out of connections, memory or disk
_QUERY_CANCELED = "57014"


class Database:
    """A database and connections to it, which are kept for the next call. Several threads may use it."""

    def __init__(self, address: str, connect_s: int = 5, statement_s: float = 30.0, read_only: bool = True):
        """Nothing is asked of the database yet.

        Args:
            address: ``postgresql://user@host:port/database``; what is not in it, such as the password, libpq takes from its own
                variables and files (PGPASSFILE).
            connect_s: seconds that a connection may take.
            statement_s: seconds that a statement may take; 0: any.
            read_only: whether the connections may change nothing.

        Raises:
            ConfigError: this is no such address.
        """
        known = _parsed(address)
        self.name = _name(known)
        self._secret = str(known.get("password") or "")
        defaults: dict[str, Any] = {"connect_timeout": connect_s, "application_name": "uae"} | _LIVELY
        self._conninfo = make_conninfo(**(defaults | known))
        self._statement_ms, self._read_only = round(1000 * statement_s), read_only
        self._idle: list[Connection] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"Database({self.name})"

    def run(self, work: Callable[[Connection], T]) -> T:
        """What ``work`` returns, given a connection in autocommit. It may be called twice: a kept connection may be a dead one.

        Raises:
            DatabaseError: the database does not answer, or refuses. Or it has no pgvector, or too old a one.
        """
        with self._explained():
            while True:
                kept = self._kept()
                connection = kept or self._open()
                try:
                    result = work(connection)
                except psycopg.OperationalError:
                    if kept is None or not kept.closed:
                        raise
                    continue  # the server was started anew since
                finally:
                    self._keep(connection)
                return result

    @contextlib.contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection of its own in autocommit. What it has locked is free at the end.

        Raises:
            DatabaseError: as ``run``.
        """
        with self._explained(), contextlib.closing(self._open()) as connection:
            yield connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A connection in a transaction, which is committed at the end, or rolled back where something was raised.

        Raises:
            DatabaseError: as ``run``.
        """
        with self.session() as connection, connection.transaction():
            yield connection

    def ping(self) -> None:
        """
        Raises:
            DatabaseError: the database does not answer.
        """
        self.run(lambda connection: connection.execute("select 1"))

    def close(self) -> None:
        """Let go of the connections; those in use are closed when they come back."""
        self._closed = True
        while connection := self._kept():
            connection.close()

    def _kept(self) -> Connection | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _keep(self, connection: Connection) -> None:
        if connection.closed or self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def _open(self) -> Connection:
        connection = psycopg.connect(self._conninfo, autocommit=True)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection) -> None:
        found = connection.execute(
            "select e.extversion, quote_ident(n.nspname) from pg_catalog.pg_extension e"
            " join pg_catalog.pg_namespace n on n.oid = e.extnamespace where e.extname = 'vector'"
        ).fetchone()
        if found is None:
            raise DatabaseError(self._without_extension(connection))
        version, schema = found
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST_PGVECTOR:
            needed = ".".join(map(str, OLDEST_PGVECTOR))
            raise DatabaseError(
                f"database {self.name} has pgvector {version}, and {needed} or later is needed: install it, then run "
                "ALTER EXTENSION vector UPDATE there"
            )
        # Names without a schema mean what the extension and PostgreSQL itself define, and nothing else.
        settings = {
            "search_path": schema,
            "statement_timeout": str(self._statement_ms),
            "default_transaction_read_only": "on" if self._read_only else "off",
            "plan_cache_mode": "force_custom_plan",  # a filter may let ten rows through, or a million
            "jit": "off",  # compiling takes longer than a search
        }
        for name, value in settings.items():
            connection.execute("select pg_catalog.set_config(%s, %s, false)", (name, value))
        register_vector(connection)

    def _without_extension(self, connection: Connection) -> str:
        there = connection.execute("select 1 from pg_catalog.pg_available_extensions where name = 'vector'").fetchone()
        if there is None:
            return (
                f"database {self.name} has no extension vector, and neither has its server: install pgvector on the server first"
            )
        return f"database {self.name} has no extension vector: let its owner run CREATE EXTENSION vector there"

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._explanation(error) from None

    def _explanation(self, error: psycopg.Error) -> DatabaseError:
        state = error.sqlstate or ""
        said = " ".join(str(error).split()) or type(error).__name__
        said = without_user_info(said.replace(self._secret, "***") if self._secret else said)
        if state == _QUERY_CANCELED:
            return DatabaseError(f"database {self.name} gave up a statement: {said}", transient=True)
        if state.startswith(_AWAY) or (isinstance(error, psycopg.OperationalError) and not state):
            return DatabaseError(f"database {self.name} does not answer: {said}", transient=True)
        return DatabaseError(f"database {self.name} refuses: {said}")


def _parsed(address: str) -> dict[str, Any]:
    """The parts of an address. libpq's own message would hold the address, and so its password."""
    form = "postgresql://user@host:port/database"
    if not re.match(r"postgres(ql)?://", address):
        raise ConfigError(f"the address of a database looks like {form}; this one does not begin so")
    try:
        known = conninfo_to_dict(address)
        if not all(0 < int(port) < 65_536 for port in str(known.get("port") or 5432).split(",")):
            raise ValueError
        return known
    except (psycopg.ProgrammingError, ValueError):
        raise ConfigError(
            f"the address of the database cannot be read: it looks like {form}, and other signs of a password are written as %XX"
        ) from None


def _name(known: dict[str, Any]) -> str:
    """What a database is called in messages."""
    host, port, name = (
        next((str(value) for value in (known.get(key), os.environ.get(variable)) if value), default)
        for key, variable, default in (("host", "PGHOST", "localhost"), ("port", "PGPORT", "5432"), ("dbname", "PGDATABASE", ""))
    )
    return f"{host}:{port}/{name or known.get('user') or 'postgres'}"
