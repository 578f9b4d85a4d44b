"""The database that a service searches in, where it is told to: whether it answers, and which release is active there."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from deploy.config import Config
from uae.io.errors import DatabaseError
from uae.release.legs.protocol import VectorSource
from uae.release.store import ReleaseStore
from uae.serving.switch import Alias

log = logging.getLogger("uae.vectors")


class VectorPlace:
    """All methods are called on one event loop. Imports nothing of PostgreSQL unless the configuration names a database."""

    def __init__(self, config: Config):
        """
        Raises:
            ConfigError: the configured address is none, or psycopg is not installed.
        """
        self._config = config
        self.away: str | None = None  # why the database does not answer, while it does not
        self.source: VectorSource | None = None
        if config.database is None:
            return
        from uae.io.postgres import Database
        from uae.release.collections.collection import Collection

        self._database = Database(config.database.get_secret_value(), statement_s=config.database_seconds)
        self.source = Collection(self._database, config.collection)
        self._looking = ThreadPoolExecutor(1, "database")

    @property
    def state(self) -> Literal["answers", "away"] | None:
        """Of the database; None: there is none."""
        return None if self.source is None else "away" if self.away else "answers"

    def alias(self, store: Path) -> Alias:
        """What says which release is served: the collection where there is one, else the store."""
        if self.source is None:
            return ReleaseStore(store)
        from uae.release.collections.collection import Collection, Followed

        assert isinstance(self.source, Collection)
        return Followed(self.source, ReleaseStore(store))

    async def watch(self) -> None:
        """Look every ``watch_seconds`` whether the database answers. Runs until it is cancelled."""
        if self.source is None:
            return
        while True:
            self._note(await self._why_away())
            await asyncio.sleep(self._config.watch_seconds)

    def close(self) -> None:
        if self.source is not None:
            self._looking.shutdown(wait=False)
            self._database.close()

    async def _why_away(self) -> str | None:
        asked = asyncio.get_running_loop().run_in_executor(self._looking, self._database.ping)
        try:
            # A database that stands still keeps the connection and says nothing: then the thread waits on, and we do not.
            await asyncio.wait_for(asked, self._config.database_seconds)
        except TimeoutError:
            return f"database {self._database.name} has not answered for {self._config.database_seconds:g} s"
        except DatabaseError as error:
            return str(error)
        return None

    def _note(self, away: str | None) -> None:
        if away and not self.away:
            log.error("%s: searches are refused until it answers", away)
        elif self.away and not away:
            log.warning("database %s answers again", self._database.name)
        self.away = away
