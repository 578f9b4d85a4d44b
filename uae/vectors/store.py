"""The vector store: a folder with one folder an encoder, in it few large sealed shards. What it lacks is computed and kept.

It is a cache: all of it can be computed again, and no result rests on it being there. All stages share it.
A damaged shard is named in the log and removed, and its vectors are computed anew.
"""

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from uae.execution.options import ExecutionOptions
from uae.io.mapped import drop_pages, temporary
from uae.vectors.shards import Keys, Shard, Vectors, keys_of, open_shard, rows_of, shards_of, write_shard

log = logging.getLogger(__name__)

_AT_ONCE = 4096  # texts computed between two writes: what a kill loses
_FULL = 1 << 16  # vectors in a shard that is not merged any more: 100 MB of 384 numbers
_SMALL = 8  # shards that are not full: from there on they are merged
_IN_MEMORY = 1 << 26  # bytes of vectors that are asked for together; more lie in a mapped file
_ENCODERS = 8  # kept; retraining makes one a week, and those that nobody asked for longest go first


@dataclass
class Counted:
    """What one user of the store asked for.

    Attributes:
        found: different texts whose vectors the store held.
        embedded: different texts that were computed.
        tokens: of those.
    """

    found: int = 0
    embedded: int = 0
    tokens: int = 0


class Held(NamedTuple):
    """What there is of one encoder."""

    encoder: str
    vectors: int
    bytes: int


class _Distinct:
    """The different keys of texts. In memory are 24 bytes of each.

    Attributes:
        keys: ascending.
        first: of each key, the row of its first text.
        again, original: rows of texts whose key stands further up, and the rows where it does.
    """

    def __init__(self, keys: Keys):
        order = np.argsort(keys, kind="stable").astype(np.int32 if len(keys) < 1 << 31 else np.intp)
        ordered = keys[order]
        new = np.ones(len(keys), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        copied = np.flatnonzero(~new)
        before = np.searchsorted(np.flatnonzero(new), copied) - 1 if len(copied) else copied
        self.keys, self.first = (ordered[new], order[new]) if len(copied) else (ordered, order)
        self.again, self.original = order[copied], self.first[before]


@dataclass
class VectorStore:
    """Any number of processes may use one folder.

    Args:
        folder: made when the first vector is kept.
        execution: over what the computing of missing vectors is spread; None: whoever asks computes them here. The store is
            written to by the process that asks, in either case.
    """

    folder: Path
    counted: Counted = field(default_factory=Counted)
    execution: ExecutionOptions | None = None

    def vectors_of(
        self,
        encoder: str,
        texts: Collection[str],
        compute: Callable[[list[str]], Vectors],
        tokens: Callable[[list[str]], int] = lambda texts: 0,
    ) -> Vectors:
        """The vectors of ``texts`` in their order, shape (n, dim), float32. Equal texts have the same vector, to the bit.

        Where they are many, they lie in a mapped file that goes with the array. The system can give its memory back, so what
        stays taken is 48 bytes a text.

        Args:
            encoder: fingerprint of what computes them: vectors of two fingerprints never mix.
            texts: as the encoder reads them, its own prompt aside. They are gone through twice, and need not be in memory.
            compute: vectors of texts, shape (n, dim). It is asked for what is missing, each text once.
            tokens: how many tokens texts have, for the count.

        Raises:
            ArtefactError: the disk cannot take what was computed.
        """
        if not len(texts):
            return compute([])
        known = _Distinct(keys_of(texts))
        home = self.folder / encoder
        found, missing = self._held(home, known, len(texts))
        self.counted.found += len(missing) - int(missing.sum())
        if missing.any():
            rows = np.sort(known.first[missing])
            wanted = np.zeros(len(texts), dtype=bool)
            wanted[rows] = True
            waiting = compress(texts, wanted)
            for start in range(0, len(rows), _AT_ONCE):
                part = list(islice(waiting, _AT_ONCE))
                computed = compute(part)
                if found is None:
                    found = self._matrix(len(texts), computed.shape[1])
                found[rows[start : start + _AT_ONCE]] = computed
                drop_pages(found)
                self._keep(home, keys_of(part), computed)
                self.counted.embedded += len(part)
                self.counted.tokens += tokens(part)
        assert found is not None  # there was a text, and it was found or computed
        for start in range(0, len(known.again), _AT_ONCE):
            copies = slice(start, start + _AT_ONCE)
            found[known.again[copies]] = found[known.original[copies]]
            drop_pages(found)
        os.utime(home)
        return found

    def counts(self) -> dict[str, int]:
        """What a stage says of its passages: ``vectors_found`` in the store, ``vectors_embedded`` and their tokens."""
        counted = self.counted
        return {
            "vectors_found": counted.found,
            "vectors_embedded": counted.embedded,
            "vectors_embedded_tokens": counted.tokens,
        }

    def held(self) -> list[Held]:
        """What the store holds, by encoder."""
        homes = sorted(path for path in self.folder.glob("[!.]*") if path.is_dir())
        return [
            Held(home.name, sum(map(rows_of, shards_of(home))), sum(path.stat().st_size for path in shards_of(home)))
            for home in homes
        ]

    def sweep(self, encoders: set[str], texts: Iterable[str]) -> tuple[int, int]:
        """Drop the vectors of other encoders and of other texts. Returns how many vectors were dropped, and how many stay.

        Args:
            encoders: fingerprints that are still used.
            texts: that are still used, as encoders read them, in any order. Nothing is kept of one but its key.
        """
        before = sum(held.vectors for held in self.held())
        wanted = np.unique(keys_of(texts))
        for home in [path for path in self.folder.glob("[!.]*") if path.is_dir()]:
            if home.name not in encoders:
                shutil.rmtree(home, ignore_errors=True)
                continue
            with FileLock(home / ".lock"):
                for leftover in home.glob(".*.partial-*"):
                    leftover.unlink(missing_ok=True)
                self._sift(home, lambda keys: np.isin(keys, wanted))
        left = sum(held.vectors for held in self.held())
        return before - left, left

    def forget(self, texts: Iterable[str]) -> int:
        """Drop the vectors of these texts (as encoders read them), of every encoder. Returns how many."""
        gone = np.unique(keys_of(list(texts)))
        before = sum(held.vectors for held in self.held())
        for home in [path for path in self.folder.glob("[!.]*") if path.is_dir()]:
            with FileLock(home / ".lock"):
                if any(np.isin(shard.keys, gone).any() for shard in self._sound(home)):
                    self._sift(home, lambda keys: ~np.isin(keys, gone))
        return before - sum(held.vectors for held in self.held())

    def _held(self, home: Path, wanted: "_Distinct", texts: int) -> tuple[Vectors | None, npt.NDArray[np.bool_]]:
        """Vectors, shape (texts, dim), where each key first stands (None: nothing is known), and which keys are missing."""
        found: Vectors | None = None
        missing = np.ones(len(wanted.keys), dtype=bool)
        for shard in self._sound(home):
            at = np.minimum(np.searchsorted(wanted.keys, shard.keys), len(missing) - 1)
            known = np.flatnonzero(wanted.keys[at] == shard.keys)
            if not len(known):
                continue
            if found is None:
                found = self._matrix(texts, shard.dimension)
            shard.copy(known, found, wanted.first[at[known]])
            missing[at[known]] = False
        return found, missing

    def _matrix(self, rows: int, dimension: int) -> Vectors:
        """Zeros, shape (rows, dimension); where that is large, in a file without a name, which goes with the array."""
        if 4 * rows * dimension <= _IN_MEMORY:
            return np.zeros((rows, dimension), dtype=np.float32)
        return temporary(self.folder, (rows, dimension), np.float32)

    def _sound(self, home: Path) -> Iterator[Shard]:
        """The shards, one after the other. One that is gone was merged by another process: what it held is computed again."""
        for path in shards_of(home):
            with suppress(FileNotFoundError), open_shard(path) as shard:
                if shard is not None:
                    yield shard
                    continue
                log.warning("%s is damaged: it is removed, and the vectors that it held are computed again", path)
                path.unlink(missing_ok=True)

    def _keep(self, home: Path, keys: Keys, vectors: Vectors) -> None:
        if not home.exists():
            home.mkdir(parents=True, exist_ok=True)
            self._drop_oldest(home)
        write_shard(home, keys, vectors)
        small = self._small(home)
        if len(small) > _SMALL:
            with suppress(Timeout), FileLock(home / ".lock", timeout=0):
                self._rewrite(small, None)

    def _small(self, home: Path) -> list[Path]:
        return [path for path in shards_of(home) if 0 < rows_of(path) < _FULL]

    def _sift(self, home: Path, wanted: Callable[[Keys], npt.NDArray[np.bool_]]) -> None:
        """Drop what is not wanted. Full shards are rewritten one by one: no more of them is read at a time, however many."""
        for path in set(shards_of(home)) - set(self._small(home)):
            self._rewrite([path], wanted)
        self._rewrite(self._small(home), wanted)

    def _rewrite(self, paths: Sequence[Path], wanted: Callable[[Keys], npt.NDArray[np.bool_]] | None) -> None:
        """Put several shards into as few as they fill, without what is not wanted (None: all is). A kill leaves the old ones.

        In memory are 32 bytes of each vector.
        """
        opened: list[Path] = []
        keys: list[Keys] = [np.empty(0, "S16")]
        dimension = 0
        for path in paths:
            with suppress(FileNotFoundError), open_shard(path) as shard:  # another process found it damaged
                if shard is not None:
                    opened.append(path)
                    keys.append(shard.keys)
                    dimension = shard.dimension
        ends = np.cumsum([len(each) for each in keys])
        every = np.concatenate(keys)
        distinct, rows = np.unique(every, return_index=True)
        if wanted is not None:
            asked = wanted(distinct)
            if asked.all() and len(opened) == len(paths) == 1:
                return
            distinct, rows = distinct[asked], rows[asked]
        kept = set()
        for start in range(0, len(distinct), _FULL):
            part = rows[start : start + _FULL]
            vectors = self._matrix(len(part), dimension)
            for path, first, end in zip(opened, ends, ends[1:], strict=False):
                places = np.flatnonzero((part >= first) & (part < end))
                places = places[np.argsort(part[places])]
                with open_shard(path) as shard:
                    assert shard is not None  # it was sound, and shards never change
                    shard.copy(part[places] - first, vectors, places)
            kept.add(write_shard(paths[0].parent, distinct[start : start + _FULL], vectors))
        for path in set(paths) - kept:
            path.unlink(missing_ok=True)

    def _drop_oldest(self, new: Path) -> None:
        others = [path for path in self.folder.glob("[!.]*") if path.is_dir() and path != new]
        for home in sorted(others, key=lambda path: path.stat().st_mtime)[: max(len(others) + 1 - _ENCODERS, 0)]:
            log.info("%s: the vectors of an encoder that nobody asked for lately are dropped", home)
            shutil.rmtree(home, ignore_errors=True)
