"""The vector store: a folder with one folder an encoder, in it few large sealed shards. What it lacks is computed and kept.

It is a cache: all of it can be computed again, and no result rests on it being there. All stages share it.
A damaged shard is named in the log and removed, and its vectors are computed anew.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from uae.vectors.shards import Shard, Vectors, key_of, read_shard, rows_of, shards_of, write_shard

log = logging.getLogger(__name__)

_AT_ONCE = 4096  # texts computed between two writes: what a kill loses
_FULL = 1 << 16  # vectors in a shard that is not merged any more: 100 MB of 384 numbers
_SMALL = 8  # shards that are not full: from there on they are merged
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


@dataclass
class VectorStore:
    """Any number of processes may use one folder.

    Args:
        folder: made when the first vector is kept.
    """

    folder: Path
    counted: Counted = field(default_factory=Counted)

    def vectors_of(
        self,
        encoder: str,
        texts: Sequence[str],
        compute: Callable[[list[str]], Vectors],
        tokens: Callable[[list[str]], int] = lambda texts: 0,
    ) -> Vectors:
        """The vectors of ``texts`` in their order, shape (n, dim), float32. Equal texts have the same vector, to the bit.

        Args:
            encoder: fingerprint of what computes them: vectors of two fingerprints never mix.
            texts: as the encoder reads them, its own prompt aside.
            compute: vectors of texts, shape (n, dim). It is asked for what is missing, each text once.
            tokens: how many tokens texts have, for the count.

        Raises:
            ArtefactError: the disk cannot take what was computed.
        """
        if not len(texts):
            return compute([])
        keys = [key_of(text) for text in texts]
        rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        home = self.folder / encoder
        found, missing = self._held(home, rows)
        self.counted.found += len(rows) - int(missing.sum())
        if missing.any():
            of_key = dict(zip(keys, texts, strict=True))
            wanted = [(row, key, of_key[key]) for key, row in rows.items() if missing[row]]
            for start in range(0, len(wanted), _AT_ONCE):
                part = wanted[start : start + _AT_ONCE]
                computed = compute([text for _, _, text in part])
                if found is None:
                    found = np.zeros((len(rows), computed.shape[1]), dtype=np.float32)
                found[[row for row, _, _ in part]] = computed
                self._keep(home, [key for _, key, _ in part], computed)
                self.counted.embedded += len(part)
                self.counted.tokens += tokens([text for _, _, text in part])
        assert found is not None  # there was a text, and it was found or computed
        os.utime(home)
        return found[[rows[key] for key in keys]]

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

    def _held(self, home: Path, rows: dict[bytes, int]) -> tuple[Vectors | None, np.ndarray]:
        """Vectors by row, shape (rows, dim) (None: nothing is known), and which rows are missing."""
        found: Vectors | None = None
        missing = np.ones(len(rows), dtype=bool)
        for shard in self._sound(home):
            places = [(rows[key], place) for place, key in enumerate(shard.keys) if key in rows]
            if not places:
                continue
            if found is None:
                found = np.zeros((len(rows), shard.vectors.shape[1]), dtype=np.float32)
            own, theirs = np.array(places).T
            found[own], missing[own] = shard.vectors[theirs], False
        return found, missing

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
