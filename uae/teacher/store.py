"""The label store: a folder of Parquet parts, append-only, each named by the sha256 of its content."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from uae.errors import ArtefactError
from uae.files import atomic_path, sha256_file
from uae.tables import LABELS, read_table, write_table

log = logging.getLogger(__name__)


class LabelStore:
    """Parts are written atomically and never changed; a part whose content does not match its name is set aside, not used."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store for one labeller.

        Raises:
            ArtefactError: another one holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder.parent / f".{self.folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ArtefactError(f"{self.folder}: another labeller is writing to this store; wait for it to end") from None
        try:
            yield
        finally:
            lock.release()

    def read(self) -> pd.DataFrame:
        """All readings, in no particular order."""
        tables = [read_table(part, LABELS) for part in self._sound_parts()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=LABELS.names)

    def append(self, rows: Sequence[dict]) -> None:
        draft = self.folder / ".draft.parquet"
        write_table(draft, LABELS, rows)
        with atomic_path(self.folder / f"{sha256_file(draft)[:32]}.parquet") as partial:
            draft.rename(partial)

    def _sound_parts(self) -> Iterator[Path]:
        for part in sorted(self.folder.glob("*.parquet")):
            if part.name.startswith("."):
                continue
            if sha256_file(part)[:32] != part.stem:
                aside = part.with_suffix(".damaged")
                part.rename(aside)
                log.warning("%s is damaged (its content does not match its checksum): set aside as %s", part, aside.name)
                continue
            yield part
