"""Near-duplicate texts: word shingles, their Jaccard similarity, and all pairs above a threshold without comparing all pairs."""

from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np
import numpy.typing as npt
from datasketch import MinHash

from uae.text.words import words as split_into_words

WORDS = 3
_PERMUTATIONS = 256
_MISSED = 1e-3


def shingles(text: str, words: int = WORDS) -> frozenset[str]:
    """The text's runs of ``words`` consecutive words (Broder 1997), without case, punctuation and compatibility forms.

    A text of fewer words is one shingle; a text without any word has none. Passages are well served by 3. For texts of one
    sentence, where a single changed word would break most runs, take 1.
    """
    tokens = split_into_words(text)
    if not tokens:
        return frozenset()
    return frozenset(" ".join(tokens[start : start + words]) for start in range(max(len(tokens) - words + 1, 1)))


def jaccard(first: frozenset[Hashable], second: frozenset[Hashable]) -> float:
    """Size of the intersection over size of the union, between 0 and 1; two empty sets have nothing in common: 0."""
    common = len(first & second)
    return common / (len(first) + len(second) - common) if common else 0.0


def near_duplicate_pairs(texts: Sequence[str], threshold: float, words: int = WORDS) -> list[tuple[int, int, float]]:
    """Every (i, j, Jaccard similarity of shingles) with i < j and a similarity of at least ``threshold``, in order of i and j.

    Pairs to compare are found by MinHash with banding (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3) and
    then compared exactly, so no pair below the threshold is reported. A pair just at the threshold is missed about once in a
    thousand times at most, one above it more rarely, equal shingles never. Equal texts give equal pairs in every process.

    Raises:
        ValueError: the threshold is not between 0.05 (below it, too many pairs would be missed) and 1.
    """
    if not 0.05 <= threshold <= 1:
        raise ValueError(f"the threshold of near-duplicates must lie between 0.05 and 1, not at {threshold}")
    # Kept for few texts only: the shingles of a million passages would not fit in memory, and few are ever compared.
    shingles_of = lru_cache(maxsize=1 << 14)(lambda place: shingles(texts[place], words))
    places = [place for place in range(len(texts)) if shingles_of(place)]
    sketches = np.zeros((len(places), _PERMUTATIONS), dtype=np.uint32)
    encoded = ([part.encode() for part in shingles_of(place)] for place in places)
    for row, sketch in enumerate(MinHash.generator(encoded, num_perm=_PERMUTATIONS, seed=1)):
        sketches[row] = sketch.hashvalues
    found = []
    for first, second in sorted(_meeting(sketches, _rows(threshold))):
        i, j = places[first], places[second]
        similarity = jaccard(shingles_of(i), shingles_of(j))
        if similarity >= threshold:
            found.append((i, j, similarity))
    return found


def _rows(threshold: float) -> int:
    """Hash values in a band: the most that still find nearly all pairs at the threshold. With more, fewer unlike texts meet."""
    bands = {rows: _PERMUTATIONS // rows for rows in range(1, _PERMUTATIONS // 2 + 1)}
    return max(rows for rows, count in bands.items() if (1 - threshold**rows) ** count <= _MISSED)


def _meeting(sketches: npt.NDArray[np.uint32], rows: int) -> set[tuple[int, int]]:
    """Pairs of texts whose sketches agree in at least one band.

    One band is sorted at a time, in little more memory than the sketches take (1 KB a text). MinHashLSH of datasketch keeps a
    Python set for each text and band, an order of magnitude more.
    """
    pairs: set[tuple[int, int]] = set()
    for start in range(0, _PERMUTATIONS - rows + 1, rows):
        band = np.ascontiguousarray(sketches[:, start : start + rows]).view(f"V{4 * rows}").ravel()
        _, bucket, sizes = np.unique(band, return_inverse=True, return_counts=True)
        order = np.argsort(bucket, kind="stable")
        ends = np.cumsum(sizes)
        for number in np.flatnonzero(sizes > 1):
            pairs.update(combinations(order[ends[number] - sizes[number] : ends[number]].tolist(), 2))
    return pairs
