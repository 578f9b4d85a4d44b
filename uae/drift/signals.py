"""What is measured of a query, by the release that is served now: how near the best passage is, and which words are new.

A log has scores of its own, but each is by the release that answered. Two encoders have two rulers, and sums of reciprocal ranks
say nothing of how near a passage is. So all queries are measured here by one release, those of the reference like those that are
watched.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from uae.io.files import sha256_bytes
from uae.release.manifest import DENSE, UAE
from uae.release.open import Release, clean
from uae.retrievers.bm25_index import terms
from uae.text.words import words

Floats = npt.NDArray[np.float64]
_AT_ONCE = 64  # queries
# One more word in two that is new makes a query as strange as a best passage whose cosine is lower by a quarter.
_WORDS_FOR_COSINE = 0.5


class Measured(NamedTuple):
    """Of each query, in their order."""

    cosines: Floats  # of the nearest passage, shape (n,)
    new_words: list[list[str]]  # that no passage has in any form, as they are written; stop words are left out
    new_share: Floats  # of a query's words, shape (n,)
    vectors: npt.NDArray[np.float32]  # unit vectors, shape (n, dimension)

    def take(self, places: npt.NDArray[np.intp]) -> "Measured":
        some = [self.new_words[place] for place in places]
        return Measured(self.cosines[places], some, self.new_share[places], self.vectors[places])

    def strangeness(self) -> Mapping[str, Floats]:
        """How unusual each query is, by each signal: high is unusual. Each is a function of the query and the release alone."""
        return {
            "best scores": -self.cosines,
            "new words": self.new_share,
            "both together": _WORDS_FOR_COSINE * self.new_share - self.cosines,
        }


def measure(release: Release, texts: Sequence[str]) -> Measured:
    """Ask the release each text, and look its words up among those of the passages."""
    texts = clean(texts)
    system = DENSE if DENSE in release.systems else UAE
    known = {term for text in release.texts() for term in terms(text)}
    cosines: list[float] = []
    vectors = np.zeros((len(texts), release.dimension(system)), np.float32)
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        vectors[start : start + len(some)] = release.encode(some, "query", system)
        cosines += [hits[0].score if hits else 0.0 for hits in release.search(some, 1, system=system)]
    found = [terms(text) for text in texts]
    new = [sorted({word for word in words(text) if any(term not in known for term in terms(word))}) for text in texts]
    share = [sum(term not in known for term in of_one) / max(len(of_one), 1) for of_one in found]
    return Measured(np.array(cosines), new, np.array(share), vectors)


def key(text: str) -> str:
    """Equal for queries of the same words."""
    return " ".join(words(text)) or text.strip()


def tie_breakers(texts: Sequence[str], seed: int, span: int) -> Floats:
    """From 0 to 1, by chance, and the same at each look. The same query has another one in another span of the log."""
    return np.array([int.from_bytes(bytes.fromhex(sha256_bytes(str(seed), str(span), key(text))[:16])) / 2**64 for text in texts])
