"""The log of queries that a service keeps where it is told to: Parquet parts in a folder, each written whole.

log.json                 {"format", "days"}: how long queries are kept
DAY-TIME-WRITER.parquet  queries of one day (UTC), schema QUERIES, ascending in time
forgotten.json           hash of a document's id or source -> when it was forgotten

Several services may write into one folder. Whoever changes a file holds a lock. A reader needs none.
"""

import contextlib
import hashlib
import logging
import queue
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from uae.io.errors import ArtefactError
from uae.io.files import atomic_path, read_json, write_json

log = logging.getLogger("uae.serving.query_log")

_STAMP = pa.timestamp("ms", tz="UTC")
QUERIES = pa.schema(
    [
        pa.field("time", _STAMP, nullable=False),  # when it was answered
        pa.field("text", pa.string(), nullable=False),
        pa.field("system", pa.string(), nullable=False),
        pa.field("score_is", pa.string(), nullable=False),  # the formula of the scores
        pa.field("best_score", pa.float64()),  # of the first passage; null: nothing was found
        pa.field("k", pa.int32(), nullable=False),  # passages that were asked for
        pa.field("min_score", pa.float64()),  # null: none was asked for
        pa.field("filtered", pa.bool_(), nullable=False),  # only a part of the passages might be found
        pa.field("passage_ids", pa.list_(pa.string()), nullable=False),  # what was found, best first
        pa.field("doc_ids", pa.list_(pa.string()), nullable=False),  # of the same passages
        pa.field("sources", pa.list_(pa.string()), nullable=False),  # of the same passages
        pa.field("release", pa.string(), nullable=False),  # fingerprint
        pa.field("encoder", pa.string(), nullable=False),  # fingerprint of the release's trained encoder
    ]
)
_FORMAT = 1
_FLUSH_S = 10.0
_MOST_WAITING = 4096  # queries in memory
_PART_ROWS = 10_000
_PARTS = 16  # at least so many parts make up the greatest size, so that making room takes little at a time
_BUFFERED = timedelta(days=1)  # longer than any query waits in memory


class Logged(NamedTuple):
    """One query with its answer. Fields as in QUERIES."""

    time: datetime
    text: str
    system: str
    score_is: str
    best_score: float | None
    k: int
    min_score: float | None
    filtered: bool
    passage_ids: list[str]
    doc_ids: list[str]
    sources: list[str]
    release: str
    encoder: str


class Forgotten(NamedTuple):
    """What was removed."""

    queries: int
    parts: int  # files that held them


class QueryLog:
    """Takes queries from any thread, and writes them from one of its own.

    A query costs its request no more than a place in a queue. Where the disk is slow, full or gone, queries are dropped and
    counted, and answers go on. A kill loses at most the queries of the last ten seconds.
    """

    def __init__(self, folder: Path, days: int, max_bytes: int, dropped: Callable[[int], None] = lambda _: None):
        """
        Args:
            days: how long a query is kept.
            max_bytes: of all parts; beyond it the oldest go.
            dropped: told how many queries could not be kept.

        Raises:
            ArtefactError: nothing can be written to the folder.
        """
        self._folder, self._days, self._max_bytes, self._dropped = Path(folder), days, max_bytes, dropped
        self._writer = uuid.uuid4().hex[:8]
        self._part: Path | None = None
        self._waiting: queue.Queue[Logged] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        write_json(self._folder / "log.json", {"format": _FORMAT, "days": days})
        remove_expired(self._folder)
        self._thread = threading.Thread(target=self._run, name="query-log", daemon=True)
        self._thread.start()

    def add(self, logged: Iterable[Logged]) -> None:
        """Keep these. It neither waits nor raises."""
        for each in logged:
            try:
                self._waiting.put_nowait(each)
            except queue.Full:
                self._dropped(1)

    def flush(self) -> None:
        """Write what waits."""
        rows: list[Logged] = []
        with contextlib.suppress(queue.Empty):
            while True:
                rows.append(self._waiting.get_nowait())
        if not rows:
            return
        try:
            with _lock(self._folder):
                self._write(rows)
        except Exception as error:  # whatever is wrong with the disk, the service goes on
            log.warning("%d queries could not be logged in %s: %s", len(rows), self._folder, error)
            self._dropped(len(rows))

    def close(self) -> None:
        """Write what waits, and stop."""
        self._closing.set()
        self._thread.join()
        self.flush()

    def _run(self) -> None:
        while not self._closing.wait(_FLUSH_S):
            self.flush()

    def _write(self, rows: Sequence[Logged]) -> None:
        table = _without(_table(rows), *_forgotten(self._folder))
        days = pc.strftime(table["time"], "%Y-%m-%d")
        for day in sorted(set(days.to_pylist())):
            self._append(day, table.filter(pc.equal(days, day)))
        _remove_older(self._folder, self._days)
        _make_room(self._folder, self._max_bytes)

    def _append(self, day: str, table: pa.Table) -> None:
        """Into this writer's last part, which is written anew, or into the next one where that is full or of another day."""
        part, before = self._open_part(day, len(table))
        with atomic_path(part) as partial:
            pq.write_table(pa.concat_tables([before, table]), partial, compression="zstd")
        self._part = part

    def _open_part(self, day: str, rows: int) -> tuple[Path, pa.Table]:
        """The part that takes so many more rows of a day, and what it holds."""
        part = self._part
        if part is not None and part.exists() and part.name.startswith(day) and part.stat().st_size <= self._max_bytes / _PARTS:
            with contextlib.suppress(ArtefactError):  # a damaged part stays as it is, for a person to look at
                before = _read(part)
                if len(before) + rows <= _PART_ROWS:
                    return part, before
        return self._folder / f"{day}-{datetime.now(UTC):%H%M%S%f}-{self._writer}.parquet", QUERIES.empty_table()


def read_queries(folder: Path) -> pa.Table:
    """All queries that are kept, ascending in time, columns as in QUERIES. What has outlived its time is left out.

    Raises:
        ArtefactError: there is no log in the folder, or a part of it is damaged.
    """
    days = _days(folder)
    parts = [table for part in _parts(folder) if (table := _read_if_there(part)) is not None]
    table = pa.concat_tables([QUERIES.empty_table(), *parts])
    oldest = pa.scalar(datetime.now(UTC) - timedelta(days=days), _STAMP)
    return table.filter(pc.greater_equal(table["time"], oldest)).sort_by("time")


def forget_queries(folder: Path, doc_ids: Iterable[str] = (), sources: Iterable[str] = ()) -> Forgotten:
    """Remove every query that one of these documents answered, whichever of its passages was found.

    A service may hold queries in memory that it has not written yet. It asks before it writes: what was asked before now stays
    out. A release that still serves a document makes new ones, so take the document out of the release first.

    Args:
        doc_ids, sources: the documents, by what QUERIES calls so.

    Raises:
        ArtefactError: a part is damaged; those before it are done. The same call goes on.
    """
    gone = [_hashed(key) for key in (*doc_ids, *sources)]
    if not gone or not Path(folder).is_dir():
        return Forgotten(0, 0)
    now = datetime.now(UTC)
    queries = parts = 0
    with _lock(folder):
        keys, times = _forgotten(folder)
        kept = {key: when for key, when in zip(keys, times, strict=True) if when > now - _BUFFERED} | dict.fromkeys(gone, now)
        write_json(folder / "forgotten.json", {key: when.isoformat() for key, when in sorted(kept.items())})
        for part in _parts(folder):
            table = _read(part)
            left = _without(table, gone, [now] * len(gone))
            if len(left) < len(table):
                queries, parts = queries + len(table) - len(left), parts + 1
                _replace(part, left)
    return Forgotten(queries, parts)


def remove_expired(folder: Path) -> None:
    """Remove the days that have outlived their time. A service does that as it writes; where none runs, somebody else has to.

    Raises:
        ArtefactError: there is no log in the folder.
    """
    days = _days(folder)
    with _lock(folder):
        _remove_older(folder, days)


def _table(rows: Sequence[Logged]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in QUERIES.names}
    # Half of a surrogate pair, which JSON can bring in, is no text to Arrow.
    columns["text"] = [text.encode("utf-8", "replace").decode() for text in columns["text"]]
    return pa.table(columns, schema=QUERIES)


def _replace(part: Path, table: pa.Table) -> None:
    if not len(table):
        part.unlink()
        return
    with atomic_path(part) as partial:
        pq.write_table(table, partial, compression="zstd")


def _without(table: pa.Table, keys: Sequence[str], times: Sequence[datetime]) -> pa.Table:
    """The rows but those that one of the documents answered, by the time at which it was forgotten."""
    when = dict(zip(keys, times, strict=True))
    if not when or not len(table):
        return table
    hashes = {key: _hashed(key) for name in ("doc_ids", "sources") for key in pc.unique(pc.list_flatten(table[name])).to_pylist()}
    stays = [
        not any(time <= when[hashes[key]] for key in (*doc_ids, *sources) if hashes[key] in when)
        for time, doc_ids, sources in zip(*(table[name].to_pylist() for name in ("time", "doc_ids", "sources")), strict=True)
    ]
    return table.filter(pa.array(stays, pa.bool_()))


def _forgotten(folder: Path) -> tuple[list[str], list[datetime]]:
    path = folder / "forgotten.json"
    if not path.exists():
        return [], []
    found = read_json(path)
    try:
        return list(found), [datetime.fromisoformat(when) for when in found.values()]
    except (AttributeError, TypeError, ValueError):
        raise ArtefactError(
            f"{path} is not what uae forget writes: bring it back from a copy, or what was forgotten may return"
        ) from None


def _hashed(key: str) -> str:
    """What is left of a document that was forgotten."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _remove_older(folder: Path, days: int) -> None:
    """Parts of days of which every query is too old. The rest of the last day is kept until it is over, and not read."""
    oldest = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}"
    for part in _parts(folder):
        if part.name[:10] < oldest:
            part.unlink(missing_ok=True)


def _make_room(folder: Path, max_bytes: int) -> None:
    parts = _parts(folder)
    sizes = [part.stat().st_size for part in parts]
    total = sum(sizes)
    for part, size in zip(parts, sizes, strict=True):  # the oldest first
        if total <= max_bytes:
            return
        part.unlink(missing_ok=True)
        total -= size


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in Path(folder).glob("*.parquet") if not path.name.startswith("."))


def _read(part: Path) -> pa.Table:
    try:
        table = pq.ParquetFile(part).read()
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtefactError(f"{part} is damaged ({error}): delete it, and its queries are lost") from error
    if table.schema.remove_metadata() != QUERIES:
        raise ArtefactError(f"{part} has not the columns of a query log: move it away")
    return table.replace_schema_metadata(None)


def _read_if_there(part: Path) -> pa.Table | None:
    """None: it has been removed since the folder was listed."""
    try:
        return _read(part)
    except FileNotFoundError:
        return None


def _days(folder: Path) -> int:
    path = Path(folder) / "log.json"
    if not path.exists():
        raise ArtefactError(
            f"{folder} holds no log of queries: start the service with UAE_QUERY_LOG={folder}, or name its folder"
        )
    found = read_json(path)
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not isinstance(found.get("days"), int):
        raise ArtefactError(f"{path} is not of format {_FORMAT}: a later version of uae wrote it, or it is damaged. Update uae")
    days: int = found["days"]
    return days


def _lock(folder: Path) -> FileLock:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return FileLock(Path(folder) / ".lock")
