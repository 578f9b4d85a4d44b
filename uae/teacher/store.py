"""The label store: an append-only folder of Parquet parts, each named by the sha256 of its content.

A batch of readings is kept at once, as a small loose part. When the loose parts of one provenance hold enough readings, they
are merged into one sealed part, as in a log-structured store. A folder of very many files would be slow to list, to hash and to
version. Several readers work at once, and the faster one must not decide which batches make a sealed part. So a batch that
comes before its turn is kept as an early part. It becomes a loose part when its turn has come. A part is on the disk, with its
folder's entry, before anything relies on it. So a kill or a power cut always leaves a store. Beside it there may be a draft,
which does not count, or readings that are sealed and loose at once.
"""

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from uae.io import tables as formats
from uae.io.errors import ArtefactError
from uae.io.files import disk_error
from uae.io.tables import as_arrow
from uae.teacher.parts import (
    KEY,
    Provenance,
    content_name,
    decode,
    decode_keyed_by_ids,
    encode,
    joined,
    keys_of,
    number_format_of,
    provenance_of,
    provenance_text,
)  # fmt: skip

log = logging.getLogger(__name__)

_SEALED, _LOOSE, _EARLY = ".parquet", ".loose.parquet", ".early.parquet"


class LabelStore:
    """Any number may read, one may write (``writing``). Parts are never changed, only merged.

    Args:
        rows_per_part: loose readings of one provenance that are sealed together; None: this store is only read.

    Attributes:
        damaged: names of the parts that were set aside since ``writing`` was entered.
        early: key of a reading: its early part, while writing.
    """

    def __init__(self, folder: Path, rows_per_part: int | None = None):
        self.folder = Path(folder)
        self.rows_per_part = rows_per_part
        self.damaged: list[str] = []
        self.early: dict[tuple[str, ...], str] = {}
        self._writing = False
        self._loose: dict[str, dict[str, int]] = {}  # provenance: {part: readings}, while writing
        self._verified: set[tuple[str, int, int]] = set()  # name, size and time of parts found sound

    @contextmanager
    def writing(self, earlier: Callable[[pa.Table], pa.Table] | None = None) -> Iterator[None]:
        """Hold the store for one labeller, and put in order what a killed one left.

        Damaged parts are set aside as ``<name>.damaged`` and named in ``damaged`` and the log; their readings count as missing.

        Args:
            earlier: finds the readings of a part of format 1 under the keys of today (``EarlierKeys``). The part itself is set
                aside as ``<name>.format-1``; what is not found, or None finds, counts as missing.

        Raises:
            ArtefactError: another labeller holds the store, or the disk cannot take it.
        """
        if self.rows_per_part is None:
            raise ValueError("a store that is written to needs rows_per_part")
        folder = self.folder.resolve()  # one lock for one folder, by whatever link it is reached
        lock = FileLock(folder.parent / f".{folder.name}.lock")
        with _disk(self.folder):
            _make_folder(folder)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                said = f"{self.folder}: another labeller is writing to this store; wait for it to end"
                raise ArtefactError(said, transient=True) from None
        self._writing, self._loose, self.early, self.damaged = True, {}, {}, []
        try:
            self._take_over(earlier)
            self._tidy()
            yield
        finally:
            self._writing = False
            lock.release()

    def append(self, rows: Sequence[Mapping[str, Any]], provenance: Provenance, early: bool = False) -> None:
        """Keep a batch of readings, dictionaries with LABELS' fields: on return no kill and no power cut can lose it.

        Args:
            early: it comes before its turn; ``settle`` says when that is.

        Raises:
            ArtefactError: a row does not fit the schema, or the disk cannot take it; the store is then as it was.
        """
        self._demand_writing()
        if not rows:
            return
        text = provenance_text(provenance)
        part = self._write(as_arrow(self.folder, formats.LABELS, rows), text, _EARLY if early else _LOOSE)
        if early:
            self.early |= dict.fromkeys((tuple(row[column] for column in KEY) for row in rows), part.name)
        else:
            self._count(part.name, text, len(rows))

    def adopt(self, folder: Path, wanted: Container[tuple[str, ...]]) -> int:
        """Take over the readings of another store that are ``wanted`` and not here yet, with their provenance. Returns how many.

        Raises:
            ArtefactError: the other store is damaged, or the disk cannot take it.
        """
        self._demand_writing()
        held, adopted = self.keys(), 0
        for table in LabelStore(folder).parts():
            keys = keys_of(table)
            rows = [row for row, key in enumerate(keys) if key in wanted and key not in held]
            if rows:
                held.update(keys[row] for row in rows)
                adopted += len(rows)
                provenance = provenance_of(table)
                part = self._write(table.replace_schema_metadata(None).take(rows), provenance, _LOOSE)
                self._count(part.name, provenance, len(rows))
        return adopted

    def forget(self, passages: Container[str]) -> int:
        """Remove the readings of these passages (``text_key`` of their texts). Returns how many.

        Raises:
            ArtefactError: the disk cannot take the parts without them.
        """
        self._demand_writing()
        removed = 0
        for name, table in self._tables(None).items():
            kept = [row for row, key in enumerate(table["passage"].to_pylist()) if key not in passages]
            if len(kept) == len(table):
                continue
            removed += len(table) - len(kept)
            provenance, suffix = provenance_of(table), name[name.index(".") :]
            if kept:
                part = self._write(table.replace_schema_metadata(None).take(kept), provenance, suffix)
                if suffix == _LOOSE:
                    self._loose.setdefault(provenance, {})[part.name] = len(kept)
            self._loose.get(provenance, {}).pop(name, None)
            self._remove(name)
        return removed

    def parts(self) -> list[pa.Table]:
        """The parts' tables, sealed ones first, each with its provenance in the metadata. Raises as ``read``."""
        return list(self._tables(None).values())

    def settle(self, key: tuple[str, ...]) -> None:
        """The turn of the early batch that holds this reading has come.

        Raises:
            ArtefactError: the disk cannot take it.
        """
        self._demand_writing()
        early = self.early[key]
        name = early.replace(_EARLY, _LOOSE)
        with _disk(self.folder / name):
            os.replace(self.folder / early, self.folder / name)
            _sync(self.folder)
        self.early = {other: part for other, part in self.early.items() if part != early}
        for table in self._sound([self.folder / name], KEY).values():
            self._count(name, provenance_of(table), len(table))

    def seal(self) -> None:
        """Merge all loose parts, one sealed part for each provenance. For the end of a run.

        A run that is cut short must leave its loose parts loose: the next one counts on them, and cuts parts at the same places.
        """
        self._demand_writing()
        while self.early:  # their turn never came: nobody asks for these pairs any more
            self.settle(min(self.early))
        for provenance in sorted(self._loose):
            self._seal(provenance)

    def read(self) -> pd.DataFrame:
        """All readings, each key once, with LABELS' columns. A reading that is sealed and loose at once is taken as sealed.

        Raises:
            ArtefactError: parts are damaged (outside ``writing`` only: there they are set aside), or not a label store's.
        """
        readings: pd.DataFrame = joined(self._tables(None).values()).to_pandas()
        return readings.drop_duplicates(list(KEY), ignore_index=True)

    def keys(self) -> set[tuple[str, ...]]:
        """The keys of all readings, as tuples in the order of ``KEY``. Raises as ``read``."""
        return set(keys_of(joined(self._tables(KEY).values())))

    def provenances(self) -> list[dict[str, Any]]:
        """How the readings were made: ``{"readings": their number, **provenance}`` for each provenance. Raises as ``read``.

        Of readings that an earlier version stored only the number is known.
        """
        seen: set[tuple[str, ...]] = set()
        counts: Counter[str] = Counter()
        for table in self._tables(KEY).values():
            new = set(keys_of(table)) - seen
            seen |= new
            counts[provenance_of(table)] += len(new)
        return [{"readings": number, **json.loads(text)} for text, number in sorted(counts.items()) if number]

    def number_formats(self) -> dict[str, list[str]]:
        """teacher -> the number formats that its readings were made in, by their provenance. Raises as ``read``.

        ``unknown`` stands for readings whose provenance does not say: of a server, or of an earlier version of the store.
        """
        found: dict[str, set[str]] = {}
        for table in self._tables(KEY).values():
            name = number_format_of(table)
            for teacher in table["teacher"].unique().to_pylist():
                found.setdefault(teacher, set()).add(name)
        return {teacher: sorted(names) for teacher, names in sorted(found.items())}

    def _demand_writing(self) -> None:
        if not self._writing:
            raise RuntimeError("the label store is written to inside its writing() only")

    def _tidy(self) -> None:
        """Finish what a killed labeller began."""
        with _disk(self.folder):
            for pattern in (".draft*", ".*.partial-*"):
                for leftover in self.folder.glob(pattern):
                    leftover.unlink()
            _sync(self.folder)  # it may have been killed before it did, and what follows relies on the sealed parts
        tables = self._tables(KEY)
        unsealed = {name: table for name, table in tables.items() if name.endswith((_LOOSE, _EARLY))}
        if not unsealed:
            return
        sealed = set(keys_of(joined(table for name, table in tables.items() if name not in unsealed)))
        for name, table in unsealed.items():
            if set(keys_of(table)) <= sealed:  # killed between writing the sealed part and removing this one
                self._remove(name)
            elif name.endswith(_EARLY):
                self.early |= dict.fromkeys(set(keys_of(table)), name)
            else:
                self._loose.setdefault(provenance_of(table), {})[name] = len(table)
        for provenance in sorted(self._loose):
            self._seal_if_full(provenance)  # killed between writing the last loose part and sealing

    def _take_over(self, earlier: Callable[[pa.Table], pa.Table] | None) -> None:
        """Have the readings of format 1 under the keys of today. A run that is killed meanwhile does it again."""
        found = held = 0
        for part in sorted(self.folder.glob("[!.]*.parquet")):
            table = decode_keyed_by_ids(part)
            if table is None:
                continue
            kept = earlier(table) if earlier else formats.LABELS.empty_table()
            if len(kept):
                self._write(kept, provenance_of(table), _LOOSE)
            found, held = found + len(kept), held + len(table)
            with _disk(part):
                os.replace(part, part.with_name(f"{part.name}.format-1"))
        if held:
            log.warning(
                "%s: an earlier version stored %d readings by ids; %d of them are known by their texts and count. The others are "
                "asked anew where they are needed. The parts as they were stay there as *.format-1, which may be deleted",
                self.folder, held, found,
            )  # fmt: skip

    def _count(self, name: str, provenance: str, readings: int) -> None:
        self._loose.setdefault(provenance, {})[name] = readings
        self._seal_if_full(provenance)

    def _seal_if_full(self, provenance: str) -> None:
        assert self.rows_per_part is not None  # ``writing`` saw to it
        if sum(self._loose[provenance].values()) >= self.rows_per_part:
            self._seal(provenance)

    def _seal(self, provenance: str) -> None:
        """The sealed part depends on the readings alone, not on their order or on how they were divided into loose parts."""
        tables = self._sound([self.folder / name for name in sorted(self._loose[provenance])], None)
        if tables:
            merged = joined(tables.values()).sort_by([(column, "ascending") for column in KEY])
            self._write(merged.combine_chunks(), provenance, _SEALED)  # Parquet's pages would end where chunks do
        for name in tables:
            self._remove(name)
        del self._loose[provenance]

    def _write(self, table: pa.Table, provenance: str, suffix: str) -> Path:
        content = encode(table, provenance)
        part = self.folder / f"{content_name(content)}{suffix}"
        draft = self.folder / f".draft-{part.name}"
        with _disk(part):
            try:
                with open(draft, "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(draft, part)
            finally:
                draft.unlink(missing_ok=True)
            _sync(self.folder)
        return part

    def _remove(self, name: str) -> None:
        with _disk(self.folder / name):
            (self.folder / name).unlink()

    def _tables(self, columns: Sequence[str] | None) -> dict[str, pa.Table]:
        """The sound parts' columns (None: all) by part, sealed parts first."""
        while True:
            parts = sorted(self.folder.glob("[!.]*.parquet"), key=lambda part: (part.name.endswith((_LOOSE, _EARLY)), part.name))
            try:
                return self._sound(parts, columns)
            except FileNotFoundError:
                continue  # a labeller has just merged loose parts: the sealed one is there already

    def _sound(self, parts: Iterable[Path], columns: Sequence[str] | None) -> dict[str, pa.Table]:
        tables = {part.name: self._table(part, columns) for part in parts}
        damaged = [name for name, table in tables.items() if table is None]
        if damaged and not self._writing:
            raise ArtefactError(
                f"{self.folder}: damaged parts, whose content does not match their name: {', '.join(damaged)}. "
                "Run `uae label`: it sets them aside and asks the teacher again for what they held"
            )
        for name in damaged:
            self._set_aside(name)
        return {name: table for name, table in tables.items() if table is not None}

    def _table(self, part: Path, columns: Sequence[str] | None) -> pa.Table | None:
        """None: damaged."""
        try:
            status, content = part.stat(), part.read_bytes()
        except FileNotFoundError:
            if part.is_symlink():  # as DVC makes them: what it points to is gone
                return None
            raise
        version = (part.name, status.st_size, status.st_mtime_ns)
        if version not in self._verified:
            if content_name(content) != part.name.split(".")[0]:
                return None
            self._verified.add(version)
        return decode(part, content, columns)

    def _set_aside(self, name: str) -> None:
        aside = f"{name}.damaged"
        with _disk(self.folder / aside):
            os.replace(self.folder / name, self.folder / aside)
        for parts in self._loose.values():
            parts.pop(name, None)
        self.early = {key: part for key, part in self.early.items() if part != name}
        self.damaged.append(name)
        log.warning(
            "%s is damaged (its content does not match its name): set aside as %s, its readings count as missing",
            self.folder / name,
            aside,
        )


def read_stores(folders: Iterable[Path]) -> pd.DataFrame:
    """The readings of several stores as of one, each key once, with LABELS' columns.

    Where two stores hold a key, the reading of the store that is named first counts: the label stage's store comes
    before that of training. So a value does not change when training asks again. A folder that is not there is empty.

    Raises:
        ArtefactError: as ``LabelStore.read``.
    """
    tables = [LabelStore(folder).read() for folder in folders]
    return pd.concat(tables, ignore_index=True).drop_duplicates(list(KEY), ignore_index=True)


def stored_keys(folders: Iterable[Path]) -> set[tuple[str, ...]]:
    """The keys of all readings in several stores. Raises as ``LabelStore.read``."""
    return set().union(*(LabelStore(folder).keys() for folder in folders))


def _make_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync(path.parent)


def _sync(folder: Path) -> None:
    """Sync a folder's entries to the disk. A file whose content is synced, and whose name is not, can be lost."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error
