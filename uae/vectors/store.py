"""The vector store: a folder with one folder an encoder, in it few large sealed shards. What it lacks is computed and kept.

It is a cache: all of it can be computed again, and no result rests on it being there. All stages share it.
A damaged shard is named in the log and removed, and its vectors are computed anew.
"""

import logging
import os
import shutil
import tempfile
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
from uae.io.files import disk_error
from uae.vectors.shards import Shard, Vectors, key_of, read_shard, rows_of, shards_of, write_shard

log = logging.getLogger(__name__)

_AT_ONCE = 4096  # texts computed between two writes: what a kill loses
_FULL = 1 << 16  # vectors in a shard that is not merged any more: 100 MB of 384 numbers
_SMALL = 8  # shards that are not full: from there on they are merged
_IN_MEMORY = 1 << 26  # bytes of vectors that are asked for together; more lie in a mapped file
_KEY = "S16"  # keys as an array: all have 16 bytes, so that those at the end that NumPy takes for padding tell nothing apart
_ENCODERS = 8  # kept; retraining makes one a week, and those that nobody asked for longest go first


Rows = npt.NDArray[np.intp]
Keys = npt.NDArray[np.bytes_]


def _keys(texts: Collection[str]) -> Keys:
    joined = bytearray()
    for text in texts:
        joined += key_of(text)
    return np.frombuffer(joined, dtype=_KEY)


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
        distinct, first, place = np.unique(_keys(texts), return_index=True, return_inverse=True)
        home = self.folder / encoder
        found, missing = self._held(home, distinct, first, len(texts))
        self.counted.found += len(distinct) - int(missing.sum())
        if missing.any():
            rows = np.sort(first[missing])
            wanted = np.zeros(len(texts), dtype=bool)
            wanted[rows] = True
            waiting = compress(texts, wanted)
            for start in range(0, len(rows), _AT_ONCE):
                part = list(islice(waiting, _AT_ONCE))
                computed = compute(part)
                if found is None:
                    found = self._matrix(len(texts), computed.shape[1])
                found[rows[start : start + _AT_ONCE]] = computed
                self._keep(home, [key_of(text) for text in part], computed)
                self.counted.embedded += len(part)
                self.counted.tokens += tokens(part)
        assert found is not None  # there was a text, and it was found or computed
        again = np.flatnonzero(first[place] != np.arange(len(texts)))
        for start in range(0, len(again), _AT_ONCE):
            copies = again[start : start + _AT_ONCE]
            found[copies] = found[first[place[copies]]]
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

    def sweep(self, encoders: set[str], texts: set[str]) -> tuple[int, int]:
        """Drop the vectors of other encoders and of other texts. Returns how many vectors were dropped, and how many stay.

        Args:
            encoders: fingerprints that are still used.
            texts: that are still used, as encoders read them.
        """
        before = sum(held.vectors for held in self.held())
        wanted = {key_of(text) for text in texts}
        for home in [path for path in self.folder.glob("[!.]*") if path.is_dir()]:
            if home.name not in encoders:
                shutil.rmtree(home, ignore_errors=True)
                continue
            with FileLock(home / ".lock"):
                for leftover in home.glob(".*.partial-*"):
                    leftover.unlink(missing_ok=True)
                self._rewrite(home, shards_of(home), wanted)
        left = sum(held.vectors for held in self.held())
        return before - left, left

    def forget(self, texts: Iterable[str]) -> int:
        """Drop the vectors of these texts (as encoders read them), of every encoder. Returns how many."""
        gone = {key_of(text) for text in texts}
        before = sum(held.vectors for held in self.held())
        for home in [path for path in self.folder.glob("[!.]*") if path.is_dir()]:
            with FileLock(home / ".lock"):
                keys = {key for shard in self._sound(home) for key in shard.keys}
                if keys & gone:
                    self._rewrite(home, shards_of(home), keys - gone)
        return before - sum(held.vectors for held in self.held())

    def _held(self, home: Path, distinct: Keys, first: Rows, texts: int) -> tuple[Vectors | None, npt.NDArray[np.bool_]]:
        """Vectors, shape (texts, dim), where each key first stands (None: nothing is known), and which keys are missing.

        Args:
            distinct: keys, ascending.
            first: of each key, the row of its first text.
        """
        found: Vectors | None = None
        missing = np.ones(len(distinct), dtype=bool)
        for shard in self._sound(home):
            keys = np.frombuffer(b"".join(shard.keys), dtype=_KEY)
            at = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
            known = np.flatnonzero(distinct[at] == keys)
            if not len(known):
                continue
            if found is None:
                found = self._matrix(texts, shard.vectors.shape[1])
            found[first[at[known]]], missing[at[known]] = shard.vectors[known], False
        return found, missing

    def _matrix(self, rows: int, dimension: int) -> Vectors:
        """Zeros, shape (rows, dimension); where that is large, in a file without a name, which goes with the array."""
        if 4 * rows * dimension <= _IN_MEMORY:
            return np.zeros((rows, dimension), dtype=np.float32)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, 4 * rows * dimension)
                return np.asarray(np.memmap(file, dtype=np.float32, mode="r+", shape=(rows, dimension)))
        except OSError as error:
            raise disk_error(self.folder, error) from error

    def _sound(self, home: Path) -> Iterator[Shard]:
        """The shards, one after the other. One that is gone was merged by another process: what it held is computed again."""
        for path in shards_of(home):
            with suppress(FileNotFoundError):
                shard = read_shard(path)
                if shard is not None:
                    yield shard
                    continue
                log.warning("%s is damaged: it is removed, and the vectors that it held are computed again", path)
                path.unlink(missing_ok=True)

    def _keep(self, home: Path, keys: Sequence[bytes], vectors: Vectors) -> None:
        if not home.exists():
            home.mkdir(parents=True, exist_ok=True)
            self._drop_oldest(home)
        write_shard(home, keys, vectors)
        small = [path for path in shards_of(home) if 0 < rows_of(path) < _FULL]
        if len(small) > _SMALL:
            with suppress(Timeout), FileLock(home / ".lock", timeout=0):
                self._rewrite(home, small, None)

    def _rewrite(self, home: Path, shards: Sequence[Path], wanted: set[bytes] | None) -> None:
        """Put several shards into as few as they fill, without what is not wanted (None: all is). A kill leaves the old ones."""
        merged: dict[bytes, np.ndarray] = {}
        for path in shards:
            shard = None
            with suppress(FileNotFoundError):  # another process found it damaged
                shard = read_shard(path)
            if shard is not None:
                pairs = zip(shard.keys, shard.vectors, strict=True)
                merged |= {key: vector for key, vector in pairs if wanted is None or key in wanted}
        keys, kept = sorted(merged), set()
        for start in range(0, len(keys), _FULL):
            part = keys[start : start + _FULL]
            kept.add(write_shard(home, part, np.stack([merged[key] for key in part])))
        for path in set(shards) - kept:
            path.unlink(missing_ok=True)

    def _drop_oldest(self, new: Path) -> None:
        others = [path for path in self.folder.glob("[!.]*") if path.is_dir() and path != new]
        for home in sorted(others, key=lambda path: path.stat().st_mtime)[: max(len(others) + 1 - _ENCODERS, 0)]:
            log.info("%s: the vectors of an encoder that nobody asked for lately are dropped", home)
            shutil.rmtree(home, ignore_errors=True)
