"""What is kept of a source from one reading to the next, so that the next one is compared with it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from uae.corpus.loss import lost, require_confirmed, too_much
from uae.corpus.objects import is_pinned, is_remote
from uae.corpus.records import RawDocument
from uae.corpus.snapshot import Snapshot, take_snapshot
from uae.io.errors import ArtefactError
from uae.io.files import sha256_bytes
from uae.io.tables import DOCUMENTS, SOURCE, read_table, scan_table, write_table

_ROWS = 1 << 10  # documents read at once


@dataclass(frozen=True)
class Watch:
    """A source, and what is known of it.

    Args:
        path, format: of the source, as in params.yaml.
        record: the table of its objects as they were when it was last read.
        cache: a folder of this machine for a copy of a source on S3, for what was hashed, and for what a person confirmed.
        max_lost_share: of its objects, or of its documents, that may be gone since it was last read without a person's word.
        root: the folder that a relative ``path`` counts from.
    """

    path: str
    format: str
    record: Path
    cache: Path
    max_lost_share: float
    root: Path = Path(".")

    @property
    def mirror(self) -> Path:
        return self.cache / "source"

    @property
    def confirmations(self) -> Path:
        return self.cache / "confirmed_losses.json"

    def look(self) -> Snapshot | None:
        """What the source holds now; None where it is pinned. Raises as ``take_snapshot``."""
        here = not (is_remote(self.path) or is_pinned(self.path))
        return take_snapshot(str(self.root / self.path) if here else self.path, self.cache / "hashed.parquet")

    @cached_property
    def before(self) -> Mapping[str, str]:
        """name -> content of the objects when this source was last read; nothing where another one was."""
        if not self.record.exists():
            return {}
        try:
            table = read_table(self.record, SOURCE)
        except ArtefactError:  # of another version, or damaged: it is made anew by this reading
            return {}
        if set(zip(table["path"], table["format"], strict=True)) != {(self.path, self.format)}:
            return {}
        return dict(zip(table["name"], table["content"], strict=True))

    def objects_lost(self, now: Snapshot) -> str | None:
        """What to say where more objects are gone than may be; else None."""
        gone = lost(self.before, readable(now.contents))
        return too_much("objects of the source", gone, len(self.before), self.max_lost_share)

    def changes(self, now: Snapshot) -> int:
        """How many objects are new, changed or gone since this source was last read."""
        contents = readable(now.contents)
        return sum(contents.get(name) != self.before.get(name) for name in contents.keys() | self.before.keys())

    def refuse_loss(self, documents: Iterable[RawDocument], documents_path: Path, now: Snapshot | None) -> None:
        """
        Args:
            documents_path: the table of the reading before, which still stands there.

        Raises:
            InputError: more documents are gone than may be, or more objects, and nobody has confirmed that.
        """
        if not self.before or now is None:
            return
        said = self.objects_lost(now)
        if said is None and (known := _hashes(documents_path)):
            gone = lost(known, {each.key: sha256_bytes(each.text) for each in documents})
            said = too_much("documents of the source", gone, len(known), self.max_lost_share)
        require_confirmed(said, now.version, self.confirmations)

    def write(self, now: Snapshot | None) -> None:
        """Record what was read. Raises an ArtefactError where the disk cannot take it."""
        self.__dict__.pop("before", None)
        rows = readable(now.contents) if now is not None else {}
        same = {"path": self.path, "format": self.format}
        write_table(self.record, SOURCE, [same | {"name": name, "content": content} for name, content in rows.items()])


def readable(contents: Mapping[bytes, str]) -> dict[str, str]:
    """With names that can be printed and written, also where they are no UTF-8."""
    return {name.decode(errors="backslashreplace"): contents[name] for name in sorted(contents)}


def _hashes(documents_path: Path) -> dict[str, str]:
    """source key -> hash of the text, of a table of documents; nothing where there is none."""
    try:
        return {
            source: sha256_bytes(text)
            for part in scan_table(documents_path, DOCUMENTS, ["source", "text"], _ROWS)
            for source, text in part.itertuples(index=False, name=None)
        }
    except ArtefactError:
        return {}
