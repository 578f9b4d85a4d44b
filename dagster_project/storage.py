"""Dagster's tables in PostgreSQL, for a database that may be away for a while: it is waited for.

Dagster's own storage tries a connection for some six seconds. After that the step that wanted to write down an event fails,
whatever it was doing, and what it did is done again. Here every process of Dagster waits for the database instead: daemon, code
server, run and step.
"""

import time
from typing import Any, Self

import psycopg2
import sqlalchemy
from dagster._core.storage.config import PostgresStorageConfig
from dagster._serdes import ConfigurableClassData
from dagster_postgres import DagsterPostgresStorage
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy.pool import NullPool

PATIENCE_S = 180.0
_LONGEST_PAUSE_S = 5.0
# The server speaks, and says that it will take connections later. Its other refusals (FATAL) stay: a wrong password, no database.
_LATER = ("starting up", "shutting down", "recovery mode", "not yet accepting", "too many", "slots are reserved", "terminating")


class PatientPostgresStorage(DagsterPostgresStorage):
    """As Dagster's, and every connection is tried for ``PATIENCE_S`` seconds.

    Raises:
        psycopg2.OperationalError: the database refuses for good, or was away for longer.
    """

    def __init__(self, postgres_url: str, inst_data: ConfigurableClassData | None = None):
        patience = Patience()
        waiting = sqlalchemy.create_engine(postgres_url, poolclass=NullPool)
        sqlalchemy.event.listen(waiting, "do_connect", patience.connect)
        waiting.connect().close()  # what follows looks for the tables, with Dagster's own patience
        super().__init__(postgres_url, inst_data=inst_data)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            sqlalchemy.event.listen(storage._engine, "do_connect", patience.connect)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: PostgresStorageConfig) -> Self:  # type: ignore[override]
        return cls(pg_url_from_config(config_value), inst_data)


class Patience:
    """How long a database has been away, by all who try to connect in this process: they do not wait one after the other."""

    def __init__(self) -> None:
        self._away_since: float | None = None

    def connect(self, dialect: Any, record: Any, arguments: list[Any], named: dict[str, Any]) -> Any:
        """For SQLAlchemy's event ``do_connect``: a connection, when there is one."""
        pause = 0.2
        while True:
            try:
                connection = dialect.connect(*arguments, **named)
            except psycopg2.OperationalError as error:
                self._away_since = self._away_since or time.monotonic()
                if not is_away(error) or time.monotonic() - self._away_since > PATIENCE_S:
                    raise
            else:
                self._away_since = None
                return connection
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)


def is_away(error: psycopg2.OperationalError) -> bool:
    """Whether a connection may succeed later. A connection that fails has no SQL state: there are only the server's words."""
    said = str(error)
    return "FATAL" not in said or any(words in said for words in _LATER)
