"""Which document is which: the same source key, or the same sentences under a new one.

A document is known by its source key (a path in the source, or an id). Where a key is new, the text tells a document that was
renamed, moved or copied from one that is new. What is remembered of a text is a content hash and a sketch of its sentences, so
it does not matter how passages are cut.
"""

from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from uae.io.files import sha256_bytes
from uae.text.sentences import sentences

Numbers = npt.NDArray[Any]
_SKETCH = 128  # hashes
_SAME = 0.5  # of its sentences: from there on a text is a version of another
_COMMON = 3  # a sentence in more texts than this tells nothing: a licence, a form
Sketch: TypeAlias = Sequence[int]


class Content(NamedTuple):
    """What is remembered of a text."""

    content: str  # hash
    sketch: Sketch  # the smallest hashes of its sentences, ascending (bottom-k sketch; Broder 1997)


class Known(NamedTuple):
    """A document that was read before."""

    source: str  # the key that it was last read under; "" where another document has it now
    content: Content


class Found(NamedTuple):
    """What a document of the source is."""

    known: int  # the place of the known document
    copy: bool = False  # the known document is still there, and this one has its text


def content_of(text: str) -> Content:
    pieces = (" ".join(text[sentence.start : sentence.end].split()) for sentence in sentences(text))
    hashes = sorted({int(sha256_bytes(piece)[:16], 16) for piece in pieces})
    return Content(sha256_bytes(text)[:24], array("Q", hashes[:_SKETCH]))


def recognise(known: Sequence[Known], present: Mapping[str, Content]) -> dict[str, Found]:
    """source key -> what it is; new ones are left out. Each known one is found once, and as often as a copy as it was copied.

    A key keeps its document, unless most of its text is new and stands in another known document: then the other one was moved
    there. A new key is a known document if at least half of its sentences stand there.
    """
    own = {entry.source: place for place, entry in enumerate(known) if entry.source}
    found = {
        key: Found(own[key])
        for key, content in present.items()
        if key in own and known[own[key]].content.content == content.content
    }
    other = [key for key in present if key not in found]  # few, where the corpus was read before: of these alone more is kept
    texts: dict[str, list[int]] = {present[key].content: [] for key in other}
    if texts:
        for place, entry in enumerate(known):
            if (places := texts.get(entry.content.content)) is not None:
                places.append(place)
    found |= {key: Found(own[key]) for key in other if key in own and _stays(known, own[key], present[key], texts, present)}
    taken = {each.known for each in found.values()}
    for _, place, key in sorted(_likenesses(known, texts, present, dict.fromkeys(key for key in present if key not in found))):
        if key not in found:
            found[key] = Found(place, copy=place in taken)
            taken.add(place)
    left = {key: Found(mine) for key, mine in own.items() if key in present and key not in found and mine not in taken}
    return found | left


def _stays(
    known: Sequence[Known], own: int, content: Content, texts: Mapping[str, Sequence[int]], present: Mapping[str, Content]
) -> bool:
    """Whether the document under a key, whose text changed, is the one that was there before, with at most half of it new."""
    if any(known[place].source not in present for place in texts.get(content.content, ())):
        return False  # word for word a document whose key is gone
    return _share(content.sketch, known[own].content.sketch, frozenset()) >= _SAME


def _likenesses(
    known: Sequence[Known], texts: Mapping[str, Sequence[int]], present: Mapping[str, Content], keys: Collection[str]
) -> Iterable[tuple[tuple[float, bool], int, str]]:
    """((minus the share, whether its key is asked about), place, key) for each known text that a present one is like.

    Args:
        keys: of present ones that are asked about.
    """
    if not keys or not known:
        return
    holders = _Holders((entry.content.sketch for entry in known), (present[key].sketch for key in keys))
    for key in keys:
        content = present[key]
        exact = set(texts.get(content.content, ()))
        near = holders.of(content.sketch)
        for place in exact | near:
            share = 1.0 if place in exact else _share(content.sketch, known[place].content.sketch, holders.common)
            if share >= _SAME:
                yield (-share - (place in exact), known[place].source in keys), place, key


class _Holders:
    """Which known texts hold a sentence, of those sentences that are asked for. In memory are 8 bytes of each, and 12 a holder.

    Attributes:
        common: sentences that tell nothing.
    """

    def __init__(self, known: Iterable[Sketch], asked: Iterable[Sketch]):
        self._values = np.unique(np.concatenate([_numbers(sketch) for sketch in asked]))
        places: list[Numbers] = []
        texts: list[Numbers] = []
        for text, sketch in enumerate(known):
            found = self._places(sketch)
            places.append(found.astype(np.int64))
            texts.append(np.full(len(found), text, np.int32))
        held, self._texts = np.concatenate(places), np.concatenate(texts)
        counts = np.bincount(held, minlength=len(self._values))
        self._telling = counts <= _COMMON
        self.common = frozenset(self._values[~self._telling].tolist())
        self._texts = self._texts[np.argsort(held, kind="stable")]
        self._ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def of(self, sketch: Sketch) -> set[int]:
        """The known texts that hold one of these sentences, common ones aside."""
        places = self._places(sketch)
        found = [self._texts[self._ends[place] : self._ends[place + 1]] for place in places[self._telling[places]]]
        return set(np.concatenate(found).tolist()) if found else set()

    def _places(self, sketch: Sketch) -> Numbers:
        """Where the sentences stand among those that are asked for; the others are left out."""
        if not len(self._values):
            return np.zeros(0, np.int64)
        values = _numbers(sketch)
        places = np.minimum(np.searchsorted(self._values, values), len(self._values) - 1)
        found: Numbers = places[self._values[places] == values]
        return found


def _numbers(sketch: Sketch) -> Numbers:
    return np.fromiter(sketch, np.uint64, len(sketch))


def _share(sketch: Sequence[int], other: Sequence[int], ignored: frozenset[int]) -> float:
    """Which share of a text's sentences stands in another, by what both sketches cover; the ``ignored`` ones do not count."""
    covered = other[-1] if len(other) == _SKETCH else None
    told = [value for value in sketch if value not in ignored and (covered is None or value <= covered)]
    return len(set(told) & set(other)) / len(told) if told else 0.0
