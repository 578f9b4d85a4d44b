"""Retrieval without HTTP: the switch with the release that is served, its batcher, and the threads that search its index."""

import asyncio
import contextlib
import logging
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from deploy.config import Config
from deploy.finding import Finding
from deploy.logs import Call
from deploy.metrics import Metrics
from deploy.requests import SearchRequest
from deploy.schemas import ApiError
from deploy.vectors import VectorPlace
from uae.io.errors import DatabaseError, InputError
from uae.release.legs.protocol import Queries
from uae.release.manifest import UAE
from uae.release.open import Answer, Release
from uae.release.store import read_origin
from uae.retrievers.protocol import Side
from uae.serving.batching import Closed, MicroBatcher, QueueFull, Vectors
from uae.serving.query_log import Logged, QueryLog
from uae.serving.switch import NotReady, Served, Switch

# Tokenising so many characters on the event loop takes less time than handing them to a thread.
_INLINE_CHARACTERS = 4000
log = logging.getLogger("uae.retrieval")
T = TypeVar("T")


class Found(NamedTuple):
    """What a search found, of one release."""

    release: str  # fingerprint
    system: str
    score_is: str  # the formula of the scores
    answers: list[Answer]  # one a query


def model_names(served: Served) -> dict[str, str]:
    """What ``system`` and ``model`` may be in a request, and the system each name stands for."""
    names = {system: system for system in served.release.systems}
    names[served.fingerprint] = UAE
    if name := (served.origin or {}).get("model"):
        names.setdefault(name, UAE)
    return names


class Retrieval:
    """A service's retrieval. ``running`` is its life; all methods are called on one event loop."""

    def __init__(self, config: Config, metrics: Metrics):
        self.config, self.metrics = config, metrics
        self.switch = Switch(self._open, config.drain_seconds)
        self.finding = Finding(config.find_threads, config.queue_finds)
        self.vectors = VectorPlace(config)
        metrics.watch_database(self.vectors)
        self._loaded_at: dict[str, datetime] = {}
        self._query_log: QueryLog | None = None

    def _open(self, folder: Path) -> Served:
        config = self.config
        origin = read_origin(folder)  # before the release is opened: where it cannot be read, nothing has to be closed
        release = Release(folder, config.device, config.threads or None, self.vectors.source)
        batcher = MicroBatcher(
            release.encode,
            max_texts=config.batch_texts,
            max_tokens=config.batch_tokens,
            padding=config.batch_padding,
            max_waiting=config.queue_texts,
            workers=config.model_workers,
            observe=self.metrics.batch,
        )
        self._loaded_at[release.fingerprint] = datetime.now(UTC)
        return Served(release, batcher, origin)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve the configured release, and what is activated in the configured store, until the context ends.

        Raises:
            UaeError: the release cannot be served, or the store's active one cannot, or the log of queries cannot be written. A
                database that is away is waited for, but not by a service whose release is fixed.
        """
        config = self.config
        watching = [asyncio.create_task(self.vectors.watch())]
        try:
            if config.query_log:
                self._query_log = QueryLog(
                    config.query_log, config.query_log_days, config.query_log_bytes, self.metrics.queries_dropped
                )
            if self.config.store:
                alias = self.vectors.alias(self.config.store)
                try:
                    if active := await asyncio.to_thread(alias.active):
                        await self.switch.to(active.folder)
                except DatabaseError as error:
                    if not error.transient:
                        raise
                watching.append(asyncio.create_task(self.switch.watch(alias, self.config.watch_seconds)))
            elif self.config.release:
                await self.switch.to(self.config.release)
            yield
        finally:
            for task in watching:
                task.cancel()
            await self.switch.close()
            self.finding.close()
            if self._query_log:
                await asyncio.to_thread(self._query_log.close)
            self.vectors.close()

    @contextlib.asynccontextmanager
    async def leased(self, call: Call) -> AsyncIterator[Served]:
        """What is served, for one request.

        Raises:
            ApiError: 503 while nothing is, or while the database is away, 429 where the queue is full, 422 where the release
                knows no such thing.
        """
        try:
            async with self.switch.lease() as served:
                call.release = served.fingerprint
                yield served
        except NotReady:
            raise ApiError(503, "not_ready", "no release is loaded yet", headers={"Retry-After": "5"}) from None
        except Closed as error:
            raise ApiError(503, "not_ready", str(error), headers={"Retry-After": "1"}) from None
        except DatabaseError as error:
            log.error("%s", error)
            raise _database_away() from None
        except QueueFull as error:
            raise ApiError(429, "queue_full", str(error), headers={"Retry-After": str(error.retry_after_s)}) from None

    async def search(self, call: Call, queries: Sequence[str], body: SearchRequest, render: Callable[[Found], T]) -> T:
        """What ``render`` makes of the passages that were found. It runs in a thread.

        Raises:
            ApiError: as ``leased``; 422 where a filter or the system is nothing that this release knows.
        """
        call.k = body.k
        async with self.leased(call) as served:
            release = served.release
            system = model_names(served).get(body.system)
            if system is None:
                raise ApiError(422, "invalid_value", f"system: this release has {', '.join(release.systems)}", "system")
            rows = await self._rows(served, body.filters) if body.filters else None
            vectors = None
            if release.has_vectors(system):
                if self.vectors.away:
                    raise _database_away()
                vectors, _ = await self.encode(call, served, queries, "query", system)
            asked = Queries(queries, vectors)
            depth = release.rerank_depth(system)
            if call.more_time and depth:  # the second stage reads so many pairs
                call.more_time(math.ceil(len(queries) * depth / self.config.batch_texts))
            answers: list[Answer] = []

            def find(part: Queries) -> None:
                answers.extend(release.answer(part, body.k, rows, body.min_score, system))

            def find_last(part: Queries) -> T:
                find(part)
                found = Found(release.fingerprint, system, release.score(system), answers)
                if self._query_log:
                    self._query_log.add(_logged(found, release.encoder, queries, body))
                return render(found)

            # Other requests have their turn between two parts. Each part of the second stage has had time granted above.
            *parts, last = _parts(asked, max(1, self.config.batch_texts // depth) if depth else len(queries))
            for number, part in enumerate(parts):
                await self.finding.run(find, part, begun=number > 0)
            return await self.finding.run(find_last, last, begun=bool(parts))

    async def _rows(self, served: Served, filters: dict[str, Any]) -> npt.NDArray[np.int64] | None:
        plain = {
            name: condition.model_dump(exclude_none=True) if isinstance(condition, BaseModel) else condition
            for name, condition in filters.items()
        }
        try:
            return await self.finding.run(served.release.rows, plain)
        except InputError as error:
            raise ApiError(422, "invalid_filter", str(error), "filters") from None

    async def encode(self, call: Call, served: Served, texts: Sequence[str], kind: Side, system: str) -> tuple[Vectors, int]:
        """Unit vectors, shape (n, dim), and the number of tokens read. A request gets time for each batch that its texts fill."""
        if call.more_time:
            call.more_time(math.ceil(len(texts) / self.config.batch_texts))
        if sum(map(len, texts)) <= _INLINE_CHARACTERS:
            lengths = served.release.token_lengths(texts, kind)
        else:
            lengths = await self.finding.run(served.release.token_lengths, texts, kind)
        return await served.batcher.encode(texts, lengths, kind, system), sum(lengths)

    def why_not_ready(self) -> str | None:
        """For the readiness probe, which anybody may ask: no names of places."""
        if self.switch.current is None:
            return "no release is loaded yet"
        return "the database of vectors does not answer" if self.vectors.away else None

    def loaded_at(self, served: Served) -> datetime:
        return self._loaded_at[served.fingerprint]


def _parts(asked: Queries, size: int) -> Iterator[Queries]:
    """So many queries at a time: what a thread works on cannot be stopped."""
    for start in range(0, len(asked.texts), size):
        part = slice(start, start + size)
        yield Queries(asked.texts[part], None if asked.vectors is None else asked.vectors[part])


def _logged(found: Found, encoder: str, queries: Sequence[str], body: SearchRequest) -> Iterator[Logged]:
    now = datetime.now(UTC)
    for text, answer in zip(queries, found.answers, strict=True):
        hits = answer.hits
        yield Logged(
            time=now,
            text=text,
            system=found.system,
            score_is=found.score_is,
            best_score=hits[0].score if hits else None,
            k=body.k,
            min_score=body.min_score,
            filtered=bool(body.filters),
            passage_ids=[hit.passage_id for hit in hits],
            doc_ids=[hit.doc_id for hit in hits],
            sources=[hit.source for hit in hits],
            release=found.release,
            encoder=encoder,
        )


def _database_away() -> ApiError:
    message = "the database of vectors does not answer: try again later"
    return ApiError(503, "database_away", message, headers={"Retry-After": "5"})
